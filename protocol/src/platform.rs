//! Kinds of devices.

use std::fmt;
use std::str::FromStr;

use crate::wire;

/// What kind of device a registration is: chooses which platform block of a message applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Platform {
    /// Android.
    Android = 1,
    /// iOS and its relatives.
    Ios = 2,
    /// A browser.
    Web = 3,
    /// Anything else.
    #[default]
    Other = 4,
}

impl Platform {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Android, Self::Ios, Self::Web, Self::Other];

    /// The spelling of configuration and command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Android => "android",
            Self::Ios => "ios",
            Self::Web => "web",
            Self::Other => "other",
        }
    }

    /// Its place in [`Platform::ALL`], for arrays by platform.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// The platform as it stands on the wire; not said or not known is [`Platform::Other`].
    #[must_use]
    pub const fn from_wire(value: i32) -> Self {
        match value {
            1 => Self::Android,
            2 => Self::Ios,
            3 => Self::Web,
            _ => Self::Other,
        }
    }

    /// The enum of the wire.
    #[must_use]
    pub const fn to_wire(self) -> wire::Platform {
        match self {
            Self::Android => wire::Platform::Android,
            Self::Ios => wire::Platform::Ios,
            Self::Web => wire::Platform::Web,
            Self::Other => wire::Platform::Other,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Platform {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str() == text)
            .ok_or("a platform is android, ios, web or other")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_and_number_leads_back() {
        for (index, platform) in Platform::ALL.into_iter().enumerate() {
            assert_eq!(platform.as_str().parse(), Ok(platform));
            assert_eq!(Platform::from_wire(platform.to_wire() as i32), platform);
            assert_eq!(platform.index(), index);
        }
        assert_eq!(Platform::from_wire(99), Platform::Other);
    }
}
