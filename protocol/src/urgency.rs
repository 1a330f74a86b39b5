//! Urgency of a message (RFC 8030 section 5.3).

use std::fmt;
use std::str::FromStr;

use crate::wire;

/// How urgent a message is, and the least that a device wants to be woken for. Ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Urgency {
    /// For a device on power and Wi-Fi.
    VeryLow = 1,
    /// For a device on power or Wi-Fi.
    Low = 2,
    /// For a device that is neither on power nor Wi-Fi.
    #[default]
    Normal = 3,
    /// Even when the battery is low.
    High = 4,
}

impl Urgency {
    /// All four, lowest first.
    pub const ALL: [Self; 4] = [Self::VeryLow, Self::Low, Self::Normal, Self::High];

    /// The spelling of RFC 8030.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// The urgency of a stored or received number; `None` for numbers that are none.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::VeryLow),
            2 => Some(Self::Low),
            3 => Some(Self::Normal),
            4 => Some(Self::High),
            _ => None,
        }
    }

    /// A device's minimum as it stands on the wire: not said and not known both mean "everything" (PROTO-16).
    #[must_use]
    pub fn minimum_from_wire(value: i32) -> Self {
        u8::try_from(value)
            .ok()
            .and_then(Self::from_number)
            .unwrap_or(Self::VeryLow)
    }

    /// The enum of the wire.
    #[must_use]
    pub const fn to_wire(self) -> wire::Urgency {
        match self {
            Self::VeryLow => wire::Urgency::VeryLow,
            Self::Low => wire::Urgency::Low,
            Self::Normal => wire::Urgency::Normal,
            Self::High => wire::Urgency::High,
        }
    }
}

impl fmt::Display for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Urgency {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|u| u.as_str() == text)
            .ok_or("an urgency is very-low, low, normal or high")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_and_number_leads_back() {
        for urgency in Urgency::ALL {
            assert_eq!(urgency.as_str().parse(), Ok(urgency));
            assert_eq!(Urgency::from_number(urgency as u8), Some(urgency));
            assert_eq!(
                Urgency::minimum_from_wire(urgency.to_wire() as i32),
                urgency
            );
        }
        assert!("HIGH".parse::<Urgency>().is_err());
        for unknown in [0, 5, -1, i32::MAX] {
            assert_eq!(Urgency::minimum_from_wire(unknown), Urgency::VeryLow);
        }
    }
}
