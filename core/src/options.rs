//! How a message wants to be delivered, by platform.

use petrel_protocol::{CollapseKey, Platform, Urgency};

use crate::{Ttl, UnixMillis};

/// What a publisher said about delivery to one platform.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DraftOptions {
    /// How long it is worth delivering.
    pub ttl: Ttl,
    /// How urgent.
    pub urgency: Urgency,
    /// Replaces undelivered older ones of this key.
    pub collapse_key: Option<CollapseKey>,
}

/// The same with the deadline fixed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// When the message becomes worthless; equal to the time of acceptance for now or never.
    pub deadline: UnixMillis,
    /// How urgent.
    pub urgency: Urgency,
    /// Replaces undelivered older ones of this key.
    pub collapse_key: Option<CollapseKey>,
}

/// A default and what iOS and web devices get instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PerPlatform<T> {
    /// For Android, other platforms, and where nothing else is said.
    pub common: T,
    /// For iOS.
    pub ios: Option<T>,
    /// For browsers.
    pub web: Option<T>,
}

impl<T> PerPlatform<T> {
    /// The same for all.
    pub const fn same(common: T) -> Self {
        Self {
            common,
            ios: None,
            web: None,
        }
    }

    /// What holds for a platform.
    pub fn on(&self, platform: Platform) -> &T {
        self.variants()[Self::variant(platform)].unwrap_or(&self.common)
    }

    /// Which of [`PerPlatform::variants`] speaks of a platform.
    pub const fn variant(platform: Platform) -> usize {
        match platform {
            Platform::Android | Platform::Other => 0,
            Platform::Ios => 1,
            Platform::Web => 2,
        }
    }

    /// Common, iOS, web, in this order.
    pub fn variants(&self) -> [Option<&T>; 3] {
        [Some(&self.common), self.ios.as_ref(), self.web.as_ref()]
    }

    /// Applies a function to each.
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> PerPlatform<U> {
        PerPlatform {
            common: f(&self.common),
            ios: self.ios.as_ref().map(&mut f),
            web: self.web.as_ref().map(&mut f),
        }
    }
}

impl DraftOptions {
    /// Fixes the deadline.
    #[must_use]
    pub fn accept(&self, now: UnixMillis) -> Options {
        Options {
            deadline: now.after(self.ttl.duration()),
            urgency: self.urgency,
            collapse_key: self.collapse_key.clone(),
        }
    }
}

impl PerPlatform<DraftOptions> {
    /// Whether no platform wants the message kept.
    #[must_use]
    pub fn is_now_or_never(&self) -> bool {
        self.variants()
            .into_iter()
            .flatten()
            .all(|o| o.ttl.is_zero())
    }
}
