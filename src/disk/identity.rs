//! The identity file: whose a data directory is, and how often it was started. Only its text is
//! made and read here; [`super::data_dir`] decides what to do about it. One per node.

use oarlock_cluster::hex::{decode_u128, encode_u128};
use oarlock_types::{ClusterId, DiskId, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use super::atomic_file::{seal, unseal};

/// The format of the data directory that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Whose a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The node that it belongs to.
    pub node: NodeId,
    /// The directory's own identity, drawn when it was made: a blank disk under an old node id is
    /// another one.
    pub disk: DiskId,
    /// How often it was started, this time included.
    pub incarnation: Incarnation,
    /// How many cores it is laid out for.
    pub cores: u16,
}

/// Why an identity's text is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityFault {
    /// Another program wrote it: this is its format.
    Format(u64),
    /// It is not what was written.
    Damaged,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format_version: u32,
    cluster: String,
    node: u64,
    disk: String,
    incarnation: u64,
    cores: u16,
}

/// What every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format_version: u64,
}

impl Identity {
    /// The text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { cluster, node, disk, incarnation, cores } = self;
        let text = Text {
            format_version: FORMAT_VERSION,
            cluster: encode_u128(cluster.get()),
            node: node.get(),
            disk: encode_u128(disk.get()),
            incarnation: incarnation.get(),
            cores: *cores,
        };
        seal(&toml::to_string(&text).expect("invariant: numbers and hexadecimal digits"))
    }

    /// The identity that the text says.
    ///
    /// # Errors
    /// Another format, also a newer one with another checksum, is told from damage.
    pub fn from_text(text: &str) -> Result<Self, IdentityFault> {
        if let Ok(AnyFormat { format_version }) = toml::from_str(text)
            && format_version != u64::from(FORMAT_VERSION)
        {
            return Err(IdentityFault::Format(format_version));
        }
        let parsed = || {
            let text: Text = toml::from_str(unseal(text)?).ok()?;
            Some(Self {
                cluster: ClusterId(decode_u128(&text.cluster)?),
                node: NodeId(text.node),
                disk: DiskId(decode_u128(&text.disk)?),
                incarnation: Incarnation(text.incarnation),
                cores: text.cores,
            })
        };
        parsed().ok_or(IdentityFault::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId(u128::MAX),
            node: NodeId(3),
            disk: DiskId(7),
            incarnation: Incarnation(9),
            cores: 2,
        }
    }

    #[test]
    fn the_text_round_trips() {
        assert_eq!(Identity::from_text(&identity().to_text()), Ok(identity()));
    }

    #[test]
    fn a_changed_line_is_damage_but_another_format_is_not() {
        let text = identity().to_text();
        let changed = text.replace("incarnation = 9", "incarnation = 8");
        assert_eq!(Identity::from_text(&changed), Err(IdentityFault::Damaged));
        assert_eq!(Identity::from_text(""), Err(IdentityFault::Damaged));
        let newer = "format_version = 2\nshape = \"round\"\n";
        assert_eq!(Identity::from_text(newer), Err(IdentityFault::Format(2)));
    }
}
