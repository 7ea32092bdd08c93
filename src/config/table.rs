//! What a key is, and the macro that makes everything of the one definition of each.
//!
//! [`settings!`] turns the table in [`super::keys`] into the typed structs, the list [`Key`]s from
//! which flags, variables, the example file and `config show` are made, and their defaults.
//! Must not know any particular key.

use std::ops::RangeInclusive;

use super::Config;
use super::value::{Kind, Value};

/// One key of the configuration, as every way to set or print it sees it.
pub struct Key {
    /// The section of the file that it stands in.
    pub section: &'static str,
    /// Its name: alone it makes the flag and the variable, so it is unique over all sections.
    pub name: &'static str,
    /// What it means, in lines.
    pub doc: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// The least and the greatest number that make sense.
    pub range: Option<RangeInclusive<i64>>,
    /// A value to show where there is no default.
    pub example: Option<&'static str>,
    pub(super) set: fn(&mut Config, &Value) -> Result<(), String>,
    pub(super) get: fn(&Config) -> Option<Value>,
}

impl Key {
    /// `section.name`, as messages name it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The flag, without its dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("OARLOCK_{}", self.name.to_uppercase())
    }

    /// The value that a configuration has for this key; `None` where it is unset.
    #[must_use]
    pub fn value(&self, config: &Config) -> Option<Value> {
        (self.get)(config)
    }

    /// Puts `value` into `config`, or says what is wrong with it and what would be right.
    pub fn assign(&self, config: &mut Config, value: &Value) -> Result<(), String> {
        if let (Some(range), Some(number)) = (&self.range, value.as_integer())
            && !range.contains(&number)
        {
            let least = range.start();
            let bounds = match *range.end() {
                i64::MAX => format!("a number from {least}"),
                greatest => format!("{least} to {greatest}"),
            };
            return Err(format!("{number} is out of range: give {bounds}"));
        }
        (self.set)(config, value)
    }
}

/// Makes the configuration's structs and `KEYS` of one table.
///
/// A key is written `name: Type = default, in least..=greatest, like "example";` with its
/// documentation above it; the range and the example may be left out.
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty = $default:expr
                    $(, in $range:expr)? $(, like $example:literal)?;
            )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $Section {
                $($(#[doc = $doc])* pub $key: $type,)*
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $($key: $default,)* }
                }
            }
        )*

        /// Everything that an operator may set. One per node, read once at its start.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Config {
            $($(#[doc = $section_doc])* pub $section: $Section,)*
        }

        /// The sections in the order of the file, each with its documentation.
        pub static SECTIONS: &[(&str, &str)] =
            &[$((stringify!($section), concat!($($section_doc, "\n"),*))),*];

        /// Every key, in the order of the file.
        pub static KEYS: &[$crate::config::Key] = &[$($($crate::config::Key {
            section: stringify!($section),
            name: stringify!($key),
            doc: concat!($($doc, "\n"),*),
            kind: <$type as $crate::config::value::Setting>::KIND,
            range: settings!(@option $($range)?),
            example: settings!(@option $($example)?),
            set: |config, value| {
                config.$section.$key = $crate::config::value::Setting::from_value(value)?;
                Ok(())
            },
            get: |config| $crate::config::value::Setting::to_value(&config.$section.$key),
        },)*)*];
    };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
}

pub(super) use settings;
