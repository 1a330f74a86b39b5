//! Whether publishes are let in: not while the store cannot take them. Devices go on meanwhile.
//!
//! The committer says how the store is; publishers ask before anything is promised. What was let in before stays.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use petrel_protocol::ProjectId;

use super::publish::PublishError;

/// A commit that takes this long means that writes fall behind.
const BEHIND_AFTER: Duration = Duration::from_secs(1);

/// When a publisher should try again where an operator has to make room.
const RETRY_FULL: Duration = Duration::from_secs(30);

/// When a publisher should try again where the store tries again by itself.
const RETRY_FAILING: Duration = Duration::from_secs(2);

/// Why nothing that must be stored is let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Closed {
    /// The disk has less room left than is kept in reserve.
    DiskFull = 1,
    /// Commits fail. They are tried again.
    Failing = 2,
}

/// Why one project is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// It holds as much as it may.
    Quota,
    /// The disk gets full, and it holds more than its share.
    Share,
}

/// What publishers are told. Shared; the committer writes.
pub(super) struct Gate {
    began: Instant,
    closed: AtomicU8,
    /// When the commit under way began, in milliseconds since `began` plus one; 0 between commits.
    committing_since: AtomicU64,
    over: RwLock<HashMap<ProjectId, Over>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            closed: AtomicU8::new(0),
            committing_since: AtomicU64::new(0),
            over: RwLock::default(),
        }
    }
}

impl Gate {
    /// Whether a project may publish what must be stored.
    pub(super) fn check(&self, project: ProjectId) -> Result<(), PublishError> {
        match self.closed() {
            Some(Closed::DiskFull) => {
                return Err(PublishError::DiskFull {
                    retry_after: RETRY_FULL,
                });
            }
            Some(Closed::Failing) => {
                return Err(PublishError::StoreFailing {
                    retry_after: RETRY_FAILING,
                });
            }
            None => {}
        }
        if self.committing_for(Instant::now()) > BEHIND_AFTER {
            return Err(PublishError::OVERLOADED);
        }
        let over = self.over.read().unwrap_or_else(PoisonError::into_inner);
        match over.get(&project) {
            None => Ok(()),
            Some(Over::Quota) => Err(PublishError::QuotaExceeded {
                retry_after: RETRY_FULL,
            }),
            Some(Over::Share) => Err(PublishError::DiskFull {
                retry_after: RETRY_FULL,
            }),
        }
    }

    pub(super) fn closed(&self) -> Option<Closed> {
        match self.closed.load(Ordering::Acquire) {
            1 => Some(Closed::DiskFull),
            2 => Some(Closed::Failing),
            _ => None,
        }
    }

    pub(super) fn set_closed(&self, closed: Option<Closed>) {
        self.closed
            .store(closed.map_or(0, |c| c as u8), Ordering::Release);
    }

    pub(super) fn set_over(&self, over: HashMap<ProjectId, Over>) {
        *self.over.write().unwrap_or_else(PoisonError::into_inner) = over;
    }

    pub(super) fn begin_commit(&self, now: Instant) {
        let since = now.saturating_duration_since(self.began).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1) + 1;
        self.committing_since.store(since, Ordering::Release);
    }

    pub(super) fn end_commit(&self) {
        self.committing_since.store(0, Ordering::Release);
    }

    fn committing_for(&self, now: Instant) -> Duration {
        match self.committing_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => {
                let began = self.began + Duration::from_millis(since - 1);
                now.saturating_duration_since(began)
            }
        }
    }
}

/// How much room there is, and who takes it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Bytes free on the disk; `None` where nobody knows.
    pub(super) free: Option<u64>,
    /// Bytes that are kept free.
    pub(super) reserve: u64,
    /// Bytes that each project has waiting.
    pub(super) used: HashMap<ProjectId, u64>,
}

impl Room {
    /// Whether everybody is shut out, and who else is. Between twice the reserve and the reserve those are refused who
    /// hold more than an equal share, so that the greedy one is refused first.
    pub(super) fn judge(
        &self,
        quota: impl Fn(ProjectId) -> u64,
    ) -> (Option<Closed>, HashMap<ProjectId, Over>) {
        let free = self.free.unwrap_or(u64::MAX);
        let closed = (free < self.reserve).then_some(Closed::DiskFull);
        let holders = self.used.values().filter(|bytes| **bytes > 0).count() as u64;
        let share = self.used.values().sum::<u64>() / holders.max(1);
        let is_scarce = free < self.reserve.saturating_mul(2);
        let verdict = |project: ProjectId, bytes: u64| {
            if bytes >= quota(project) {
                Some(Over::Quota)
            } else if is_scarce && bytes > share {
                Some(Over::Share)
            } else {
                None
            }
        };
        let over = self.used.iter();
        let over = over.filter_map(|(project, bytes)| Some((*project, verdict(*project, *bytes)?)));
        (closed, over.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(free: u64, used: [u64; 3]) -> Room {
        Room {
            free: Some(free),
            reserve: 100,
            used: (0..).map(ProjectId).zip(used).collect(),
        }
    }

    #[test]
    fn the_greedy_one_is_refused_first_then_everybody() {
        let quota = |project| if project == ProjectId(2) { 1000 } else { 2000 };
        assert_eq!(room(200, [10, 50, 0]).judge(quota), (None, HashMap::new()));
        let greedy = HashMap::from([(ProjectId(1), Over::Share)]);
        assert_eq!(room(199, [10, 50, 0]).judge(quota), (None, greedy.clone()));
        assert_eq!(
            room(99, [10, 50, 0]).judge(quota),
            (Some(Closed::DiskFull), greedy)
        );
        assert_eq!(room(199, [50, 50, 50]).judge(quota).1, HashMap::new());
        let full = HashMap::from([(ProjectId(2), Over::Quota)]);
        assert_eq!(room(5000, [10, 1999, 1000]).judge(quota), (None, full));
    }

    #[test]
    fn what_publishers_are_told() {
        let gate = Gate::default();
        let project = ProjectId(1);
        let told = |gate: &Gate| gate.check(project).map_err(|e| e.to_string());
        assert_eq!(told(&gate), Ok(()));
        gate.set_over(HashMap::from([(project, Over::Quota)]));
        assert!(matches!(
            gate.check(project),
            Err(PublishError::QuotaExceeded { .. })
        ));
        assert_eq!(gate.check(ProjectId(2)), Ok(()));
        gate.set_over(HashMap::new());
        gate.set_closed(Some(Closed::Failing));
        assert!(matches!(
            gate.check(project),
            Err(PublishError::StoreFailing { .. })
        ));
        gate.set_closed(Some(Closed::DiskFull));
        assert!(matches!(
            gate.check(project),
            Err(PublishError::DiskFull { .. })
        ));
        gate.set_closed(None);

        let now = Instant::now();
        gate.begin_commit(now);
        assert!(gate.committing_for(now + BEHIND_AFTER / 2) <= BEHIND_AFTER);
        assert!(gate.committing_for(now + BEHIND_AFTER * 2) > BEHIND_AFTER);
        gate.end_commit();
        assert_eq!(gate.committing_for(now + BEHIND_AFTER * 9), Duration::ZERO);
    }
}
