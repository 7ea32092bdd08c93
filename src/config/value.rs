//! What a value may be, and how it is read from a file, a flag or a variable, and printed.
//!
//! All three sources go through a TOML value, so that there is one grammar and one set of messages.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use oarlock_cluster::NodeEntry;
use oarlock_types::{ClusterId, NodeId};
use serde::Deserialize;

use super::cluster::SplitPoint;

/// A value as the file has it.
pub type Value = toml::Value;

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Number,
    /// A whole number of milliseconds.
    Milliseconds,
    /// Text; a flag or a variable gives it without quotes.
    Text,
    /// A file's or a directory's name.
    Path,
    /// An IP address and a port.
    Address,
    /// A number or a list of numbers.
    Cores,
    /// A list; a flag or a variable gives it as the file would.
    List,
}

impl Kind {
    /// The placeholder that stands for a value of this kind in help.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Number => "N",
            Self::Milliseconds => "MS",
            Self::Text => "TEXT",
            Self::Path => "PATH",
            Self::Address => "IP:PORT",
            Self::Cores => "N|[CPU,…]",
            Self::List => "[…]",
        }
    }

    /// The value that a flag's or a variable's text means. What is not of the kind stays text, and
    /// is refused where it is assigned, with a message that says what was wanted.
    #[must_use]
    pub fn read(self, text: &str) -> Value {
        match self {
            Self::Text | Self::Path | Self::Address => Value::String(text.to_owned()),
            Self::Number | Self::Milliseconds | Self::Cores | Self::List => {
                let line = format!("value = {text}");
                let parsed = toml::from_str::<toml::Table>(&line).ok();
                parsed
                    .and_then(|mut table| table.remove("value"))
                    .unwrap_or_else(|| Value::String(text.to_owned()))
            }
        }
    }
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// What it is.
    const KIND: Kind;

    /// Reads it, or says what was wanted.
    fn from_value(value: &Value) -> Result<Self, String>;

    /// Prints it; `None` if it is unset.
    fn to_value(&self) -> Option<Value>;
}

fn wanted<T>(what: &str, value: &Value) -> Result<T, String> {
    Err(format!("expected {what}, found {value}"))
}

fn number<T: TryFrom<i64>>(value: &Value) -> Result<T, String> {
    let hint = "a whole number without a unit (the name has it), as in 1_000";
    let Some(number) = value.as_integer() else { return wanted(hint, value) };
    T::try_from(number).map_err(|_| format!("{number} does not fit"))
}

fn number_value<T>(number: T) -> Option<Value>
where
    i64: TryFrom<T>,
{
    i64::try_from(number).ok().map(Value::Integer)
}

fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().map_or_else(|| wanted(what, value), Ok)
}

macro_rules! number_setting {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            const KIND: Kind = Kind::Number;
            fn from_value(value: &Value) -> Result<Self, String> {
                number(value)
            }
            fn to_value(&self) -> Option<Value> {
                number_value(*self)
            }
        }
    )*};
}
number_setting!(usize, u64, u32);

/// An optional key is unset where its type has no value.
impl<T: Setting> Setting for Option<T> {
    const KIND: Kind = T::KIND;
    fn from_value(value: &Value) -> Result<Self, String> {
        T::from_value(value).map(Some)
    }
    fn to_value(&self) -> Option<Value> {
        self.as_ref().and_then(Setting::to_value)
    }
}

/// A list is unset where it is empty.
impl<T: Element> Setting for Vec<T> {
    const KIND: Kind = Kind::List;
    fn from_value(value: &Value) -> Result<Self, String> {
        let Some(array) = value.as_array() else { return wanted(T::LIST, value) };
        let element = |(i, v)| T::from_element(v).map_err(|e| format!("element {}: {e}", i + 1));
        array.iter().enumerate().map(element).collect()
    }
    fn to_value(&self) -> Option<Value> {
        let all: Vec<Value> = self.iter().map(Element::to_element).collect();
        (!all.is_empty()).then_some(Value::Array(all))
    }
}

/// A type that stands in lists.
pub trait Element: Sized {
    /// What a list of them looks like.
    const LIST: &'static str;
    /// Reads one.
    fn from_element(value: &Value) -> Result<Self, String>;
    /// Prints one.
    fn to_element(&self) -> Value;
}

impl Setting for Duration {
    const KIND: Kind = Kind::Milliseconds;
    fn from_value(value: &Value) -> Result<Self, String> {
        number(value).map(Self::from_millis)
    }
    fn to_value(&self) -> Option<Value> {
        number_value(self.as_millis())
    }
}

/// Zero, which no node has, is unset.
impl Setting for NodeId {
    const KIND: Kind = Kind::Number;
    fn from_value(value: &Value) -> Result<Self, String> {
        number(value).map(Self)
    }
    fn to_value(&self) -> Option<Value> {
        if *self == Self(0) { None } else { number_value(self.0) }
    }
}

impl Setting for String {
    const KIND: Kind = Kind::Text;
    fn from_value(value: &Value) -> Result<Self, String> {
        text("text in quotes", value).map(str::to_owned)
    }
    fn to_value(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

/// The empty path is unset.
impl Setting for PathBuf {
    const KIND: Kind = Kind::Path;
    fn from_value(value: &Value) -> Result<Self, String> {
        text("a path in quotes", value).map(Self::from)
    }
    fn to_value(&self) -> Option<Value> {
        let path = self.display().to_string();
        (!path.is_empty()).then_some(Value::String(path))
    }
}

impl Setting for SocketAddr {
    const KIND: Kind = Kind::Address;
    fn from_value(value: &Value) -> Result<Self, String> {
        let what = "an IP address and a port in quotes, as in \"127.0.0.1:6379\"";
        text(what, value)?.parse().or_else(|_| wanted(what, value))
    }
    fn to_value(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl Setting for ClusterId {
    const KIND: Kind = Kind::Text;
    fn from_value(value: &Value) -> Result<Self, String> {
        let what = "32 hexadecimal digits in quotes";
        let digits = text(what, value)?;
        let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let parsed = u128::from_str_radix(digits, 16).ok().filter(|_| plain);
        parsed.map_or_else(|| wanted(what, value), |id| Ok(Self(id)))
    }
    fn to_value(&self) -> Option<Value> {
        Some(Value::String(format!("{:032x}", self.0)))
    }
}

/// The CPUs that a node's cores are pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// This many, on the CPUs that the process may use, in order.
    Count(u16),
    /// One on each of these CPUs.
    Cpus(Vec<u16>),
}

impl Cores {
    /// How many cores the node has.
    #[must_use]
    pub const fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count as usize,
            Self::Cpus(cpus) => cpus.len(),
        }
    }
}

impl Setting for Cores {
    const KIND: Kind = Kind::Cores;
    fn from_value(value: &Value) -> Result<Self, String> {
        let what = "a number of cores, or a list of CPUs as in [0, 1]";
        if value.is_integer() {
            return number(value).map(Self::Count);
        }
        let Some(array) = value.as_array() else { return wanted(what, value) };
        array.iter().map(number).collect::<Result<_, _>>().map(Self::Cpus)
    }
    fn to_value(&self) -> Option<Value> {
        match self {
            Self::Count(count) => number_value(*count),
            Self::Cpus(cpus) => {
                Some(Value::Array(cpus.iter().copied().filter_map(number_value).collect()))
            }
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Setting for LogFormat {
    const KIND: Kind = Kind::Text;
    fn from_value(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("human") => Ok(Self::Human),
            Some("json") => Ok(Self::Json),
            Some(_) | None => wanted("\"human\" or \"json\"", value),
        }
    }
    fn to_value(&self) -> Option<Value> {
        let name = match self {
            Self::Human => "human",
            Self::Json => "json",
        };
        Some(Value::String(name.to_owned()))
    }
}

impl Element for NodeEntry {
    const LIST: &'static str = "a list of nodes, as in [{ id = 1, peer_address = \"…\", … }]";
    fn from_element(value: &Value) -> Result<Self, String> {
        Self::deserialize(value.clone()).map_err(|error| error.message().to_owned())
    }
    fn to_element(&self) -> Value {
        Value::try_from(self).expect("invariant: a node is numbers and texts")
    }
}

impl Element for u16 {
    const LIST: &'static str = "a list of numbers, as in [6380, 6381]";
    fn from_element(value: &Value) -> Result<Self, String> {
        number(value)
    }
    fn to_element(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl Element for SplitPoint {
    const LIST: &'static str = "a list of keys, as in [\"g\", \"0xff00\"]";
    fn from_element(value: &Value) -> Result<Self, String> {
        text("a key in quotes", value)?.parse()
    }
    fn to_element(&self) -> Value {
        Value::String(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Setting>(text: &str) -> Result<T, String> {
        T::from_value(&T::KIND.read(text))
    }

    #[test]
    fn numbers_are_whole_and_without_units() {
        assert_eq!(read::<u64>("1_000"), Ok(1000));
        assert_eq!(read::<Duration>("750"), Ok(Duration::from_millis(750)));
        assert!(read::<u64>("64MB").unwrap_err().contains("without a unit"));
        assert!(read::<u64>("1.5").unwrap_err().contains("found 1.5"));
        assert!(read::<u32>("4294967296").unwrap_err().contains("does not fit"));
        assert!(read::<u64>("-1").unwrap_err().contains("does not fit"));
    }

    #[test]
    fn cores_are_a_number_or_a_list_of_cpus() {
        assert_eq!(read::<Cores>("3"), Ok(Cores::Count(3)));
        assert_eq!(read::<Cores>("[2, 5]"), Ok(Cores::Cpus(vec![2, 5])));
        assert!(read::<Cores>("all").unwrap_err().contains("a list of CPUs"));
        assert!(read::<Cores>("[70000]").is_err());
    }

    #[test]
    fn addresses_name_what_they_want() {
        assert_eq!(read::<SocketAddr>("[::1]:7").unwrap().port(), 7);
        assert!(read::<SocketAddr>("localhost").unwrap_err().contains("IP address and a port"));
    }

    #[test]
    fn a_cluster_id_is_exactly_its_digits() {
        let digits = "0123456789abcdef0123456789abcdef";
        let id = read::<ClusterId>(digits).unwrap();
        assert_eq!(id.to_value().unwrap().as_str(), Some(digits));
        assert!(read::<ClusterId>("+123456789abcdef0123456789abcdef").is_err());
        assert!(read::<ClusterId>("12").is_err());
    }

    #[test]
    fn text_needs_no_quotes_outside_the_file() {
        assert_eq!(read::<String>("info,oarlock=debug").unwrap(), "info,oarlock=debug");
        assert_eq!(read::<LogFormat>("json"), Ok(LogFormat::Json));
        assert!(read::<LogFormat>("xml").unwrap_err().contains("\"human\" or \"json\""));
    }

    #[test]
    fn a_node_of_a_list_says_which_field_is_wrong() {
        let text = r#"[{ id = 1, peer_adress = "1.2.3.4:5" }]"#;
        let error = read::<Vec<NodeEntry>>(text).unwrap_err();
        assert!(error.starts_with("element 1: unknown field `peer_adress`"), "{error}");
        let text = r#"[{ id = 1, peer_address = "x", client_address = "1.2.3.4:5", cores = 1 }]"#;
        assert!(read::<Vec<NodeEntry>>(text).unwrap_err().contains("socket address"));
    }
}
