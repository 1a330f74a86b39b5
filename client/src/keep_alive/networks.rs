//! What was learnt of each network, as the device's state keeps it. Bounded: the network used longest ago goes first.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Bounds, Learner};

/// How many networks are remembered; beyond that the one used longest ago is forgotten.
pub const NETWORKS_MAX: usize = 16;
/// Longer names are cut.
const NAME_BYTES_MAX: usize = 64;

/// The app's name for a network, such as `cellular` or a hash of a Wi-Fi's BSSID. Opaque to the SDK: the same name
/// means that what was learnt there holds again. Stored with the device's state, so hash what should not lie there.
///
/// Names longer than 64 bytes are cut, an empty one is `default`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct NetworkId(String);

impl NetworkId {
    /// The app's name for a network.
    #[must_use]
    pub fn new(name: &str) -> Self {
        if name.is_empty() {
            return Self::default();
        }
        Self(name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `default`: what an app that does not tell its networks apart is on.
impl Default for NetworkId {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl From<&str> for NetworkId {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for NetworkId {
    fn from(name: String) -> Self {
        Self::new(&name)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NetworkId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|name| Self::new(&name))
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Known {
    id: NetworkId,
    #[serde(flatten)]
    learner: Learner,
}

/// What was learnt, the network used last first.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Networks(Vec<Known>);

impl Networks {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is known of a network, which is now the one used last.
    pub(crate) fn enter(&mut self, id: &NetworkId, bounds: &Bounds) -> &mut Learner {
        let known = match self.0.iter().position(|known| known.id == *id) {
            Some(at) => self.0.remove(at),
            None => Known {
                id: id.clone(),
                learner: Learner::new(bounds),
            },
        };
        self.0.truncate(NETWORKS_MAX - 1);
        self.0.insert(0, known);
        &mut self.0[0].learner
    }
}

/// What was learnt can be learnt again: whatever does not parse is left out, and the registration beside it is not
/// lost for it.
impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut networks = Self::default();
        if let serde_json::Value::Array(list) = serde_json::Value::deserialize(from)? {
            for known in list
                .into_iter()
                .filter_map(|v| serde_json::from_value::<Known>(v).ok())
            {
                if networks.0.len() < NETWORKS_MAX && networks.0.iter().all(|k| k.id != known.id) {
                    networks.0.push(known);
                }
            }
        }
        Ok(networks)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keep_alive::START;

    fn bounds() -> Bounds {
        Bounds::new(START, Duration::from_secs(3600), 120)
    }

    #[test]
    fn the_network_used_longest_ago_is_forgotten() {
        let bounds = bounds();
        let mut networks = Networks::default();
        for n in 0..NETWORKS_MAX {
            networks
                .enter(&NetworkId::new(&n.to_string()), &bounds)
                .survived(START, &bounds, 0);
        }
        let mut interval = |name: &str| networks.enter(&name.into(), &bounds).interval(&bounds);
        let learnt = Duration::from_secs(45);
        assert_eq!(interval("0"), learnt);
        assert_eq!(interval("one more"), START);
        assert_eq!(interval("0"), learnt, "used since");
        assert_eq!(interval("1"), START, "used longest ago");
        assert_eq!(networks.0.len(), NETWORKS_MAX);
    }

    #[test]
    fn what_was_learnt_reads_back_and_what_is_damaged_is_learnt_again() {
        let bounds = bounds();
        let mut networks = Networks::default();
        networks
            .enter(&"home".into(), &bounds)
            .failed(START, &bounds, 7);
        networks.enter(&"train".into(), &bounds);
        let json = serde_json::to_string(&networks).unwrap();
        assert_eq!(serde_json::from_str::<Networks>(&json).unwrap(), networks);
        let many: Vec<Known> = (0..100)
            .map(|n| Known {
                id: NetworkId::new(&(n / 2).to_string()),
                learner: Learner::new(&bounds),
            })
            .collect();
        let many = serde_json::to_string(&many).unwrap();
        for (damaged, left) in [
            ("null", 0),
            ("7", 0),
            ("{\"id\":\"home\"}", 0),
            ("[null,3,{\"id\":\"home\"},{\"interval_ms\":1}]", 0),
            ("[{\"id\":\"home\",\"interval_ms\":-1}]", 0),
            (
                "[{\"id\":\"home\",\"interval_ms\":1e99},{\"id\":\"a\",\"interval_ms\":0}]",
                1,
            ),
            (many.as_str(), NETWORKS_MAX),
        ] {
            let read: Networks = serde_json::from_str(damaged).unwrap();
            assert_eq!(read.0.len(), left, "{damaged}");
        }
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(NetworkId::new(""), NetworkId::default());
        assert_eq!(NetworkId::new(&"x".repeat(64)).as_str().len(), 64);
        // Cut at a character, not within one.
        assert_eq!(NetworkId::new(&"ü".repeat(65)).as_str(), "ü".repeat(32));
        assert_eq!(
            NetworkId::new(&format!("x{}", "ü".repeat(40)))
                .as_str()
                .len(),
            63
        );
    }
}
