//! Connection IDs of both sides (RFC 9000 §5.1), as the frames and headers tell.

use quinn_proto::ConnectionId;

use super::{NotYet, RemoteId, ranges::Ranges};
use crate::{CID_BYTES, resident::frame::NewConnectionId};

/// IDs of one side that are remembered. Each side may have two, and for a moment one more that takes the place of
/// another; quinn-proto tolerates five.
const IDS_MAX: usize = 5;

/// An ID that the peer may use.
#[derive(Debug)]
struct LocalId {
    sequence: u64,
    id: [u8; CID_BYTES],
    is_acked: bool,
}

/// Which IDs are in use, and what was said about them.
#[derive(Debug)]
pub(super) struct Ids {
    local: Vec<LocalId>,
    next_local: u64,
    /// Sequence numbers that the peer retired: a repeated NEW_CONNECTION_ID must not revive them.
    local_retired: Ranges,
    remote: Vec<RemoteId>,
    /// The largest sequence number in a header of ours. quinn-proto only ever moves upwards; when it probes an
    /// abandoned path, it uses the old ID once more.
    current: u64,
    retire_prior_to: u64,
    /// Sequence numbers that we retired.
    remote_retired: Ranges,
    /// Those of them that the peer has not acknowledged.
    retiring: Vec<u64>,
}

impl Ids {
    /// Begins with the ID of sequence number 0.
    pub(super) fn new(local: [u8; CID_BYTES]) -> Self {
        let local = LocalId {
            sequence: 0,
            id: local,
            // The peer sends to it.
            is_acked: true,
        };
        Self {
            local: vec![local],
            next_local: 1,
            local_retired: Ranges::default(),
            remote: Vec::new(),
            current: 0,
            retire_prior_to: 0,
            remote_retired: Ranges::default(),
            retiring: Vec::new(),
        }
    }

    /// The peer's ID of sequence number 0.
    pub(super) fn begin_remote(&mut self, id: RemoteId) {
        if self.remote.is_empty() {
            self.remote.push(id);
        }
    }

    /// A header of ours carries this ID.
    pub(super) fn used(&mut self, id: &[u8]) {
        let known = self.remote.iter().find(|remote| *remote.id == *id);
        self.current = known.map_or(self.current, |known| self.current.max(known.sequence));
    }

    /// We sent a NEW_CONNECTION_ID.
    pub(super) fn issued(&mut self, new: &NewConnectionId<'_>) -> Result<(), NotYet> {
        let sequence = new.sequence;
        self.next_local = self.next_local.max(sequence + 1);
        if self.local_retired.contains(sequence, sequence + 1)
            || self.local.iter().any(|local| local.sequence == sequence)
        {
            return Ok(());
        }
        if self.local.len() == IDS_MAX {
            return Err(NotYet::Untracked);
        }
        self.local.push(LocalId {
            sequence,
            id: new.id.try_into().map_err(|_| NotYet::Untracked)?,
            is_acked: false,
        });
        Ok(())
    }

    /// A NEW_CONNECTION_ID of ours was acknowledged.
    pub(super) fn issue_acked(&mut self, sequence: u64) {
        for local in &mut self.local {
            local.is_acked |= local.sequence == sequence;
        }
    }

    pub(super) fn is_issue_open(&self, sequence: u64) -> bool {
        let mut open = self.local.iter().filter(|local| !local.is_acked);
        open.any(|local| local.sequence == sequence)
    }

    /// The peer sent a RETIRE_CONNECTION_ID.
    pub(super) fn retired_by_peer(&mut self, sequence: u64) -> Result<(), NotYet> {
        self.local.retain(|local| local.sequence != sequence);
        self.local_retired
            .insert(sequence, sequence + 1)
            .map_err(|_| NotYet::Untracked)
    }

    /// The peer sent a NEW_CONNECTION_ID.
    pub(super) fn offered(&mut self, new: &NewConnectionId<'_>) -> Result<(), NotYet> {
        let sequence = new.sequence;
        self.retire_prior_to = self.retire_prior_to.max(new.retire_prior_to);
        if self.remote_retired.contains(sequence, sequence + 1)
            || self.remote.iter().any(|remote| remote.sequence == sequence)
        {
            return Ok(());
        }
        if self.remote.len() == IDS_MAX {
            return Err(NotYet::Untracked);
        }
        self.remote.push(RemoteId {
            sequence,
            id: ConnectionId::new(new.id),
            token: Some(new.reset_token),
        });
        Ok(())
    }

    /// We sent a RETIRE_CONNECTION_ID.
    pub(super) fn retired(&mut self, sequence: u64) -> Result<(), NotYet> {
        self.remote.retain(|remote| remote.sequence != sequence);
        if !self.retiring.contains(&sequence) {
            self.retiring.push(sequence);
        }
        self.remote_retired
            .insert(sequence, sequence + 1)
            .map_err(|_| NotYet::Untracked)
    }

    /// A RETIRE_CONNECTION_ID of ours was acknowledged.
    pub(super) fn retire_acked(&mut self, sequence: u64) {
        self.retiring.retain(|&retiring| retiring != sequence);
    }

    pub(super) fn is_retire_open(&self, sequence: u64) -> bool {
        self.retiring.contains(&sequence)
    }

    /// Our IDs with their sequence numbers.
    pub(super) fn settled_local(&self) -> Result<Vec<(u64, [u8; CID_BYTES])>, NotYet> {
        let is_settled = (1..=2).contains(&self.local.len());
        if !is_settled || self.local.iter().any(|local| !local.is_acked) {
            return Err(NotYet::LocalIds);
        }
        let ids = self.local.iter().map(|local| (local.sequence, local.id));
        Ok(ids.collect())
    }

    /// The sequence number of our next ID.
    pub(super) fn next_local(&self) -> u64 {
        self.next_local
    }

    /// The peer's ID in use, and the spare one.
    pub(super) fn settled_remote(&self) -> Result<(RemoteId, Option<RemoteId>), NotYet> {
        let (current, others): (Vec<RemoteId>, Vec<RemoteId>) = (self.remote.iter())
            .copied()
            .partition(|remote| remote.sequence == self.current);
        // What is older than the ID in use, quinn-proto is about to retire.
        let is_settled = self.retiring.is_empty()
            && self.current >= self.retire_prior_to
            && others.iter().all(|other| other.sequence > self.current);
        match (&current[..], &others[..]) {
            (&[current], &[]) if is_settled => Ok((current, None)),
            (&[current], &[spare]) if is_settled => Ok((current, Some(spare))),
            _ => Err(NotYet::RemoteIds),
        }
    }

    pub(super) fn retire_prior_to(&self) -> u64 {
        self.retire_prior_to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(sequence: u64, retire_prior_to: u64, id: &[u8]) -> NewConnectionId<'_> {
        NewConnectionId {
            sequence,
            retire_prior_to,
            id,
            reset_token: [sequence as u8; 16],
        }
    }

    fn ids() -> Ids {
        let mut ids = Ids::new([0; 8]);
        ids.begin_remote(RemoteId {
            sequence: 0,
            id: ConnectionId::new(b"zero"),
            token: None,
        });
        ids
    }

    fn remote(ids: &Ids) -> Result<(u64, Option<u64>), NotYet> {
        let (current, spare) = ids.settled_remote()?;
        Ok((current.sequence, spare.map(|spare| spare.sequence)))
    }

    #[test]
    fn a_new_id_of_ours_counts_when_it_is_acknowledged() {
        let mut ids = ids();
        assert_eq!(ids.settled_local().unwrap(), [(0, [0; 8])]);
        assert_eq!(ids.next_local(), 1);
        ids.issued(&new(1, 0, &[1; 8])).unwrap();
        assert!(ids.is_issue_open(1));
        assert_eq!(ids.settled_local().unwrap_err(), NotYet::LocalIds);
        ids.issue_acked(1);
        assert!(!ids.is_issue_open(1));
        assert_eq!(ids.settled_local().unwrap(), [(0, [0; 8]), (1, [1; 8])]);
        ids.retired_by_peer(0).unwrap();
        // Sent once more, since it seemed lost.
        ids.retired_by_peer(1).unwrap();
        ids.issued(&new(1, 0, &[1; 8])).unwrap();
        assert_eq!(ids.settled_local().unwrap_err(), NotYet::LocalIds, "none");
        ids.issued(&new(2, 0, &[2; 8])).unwrap();
        ids.issue_acked(2);
        assert_eq!(ids.settled_local().unwrap(), [(2, [2; 8])]);
        assert_eq!(ids.next_local(), 3);
        assert_eq!(ids.issued(&new(3, 0, b"short")), Err(NotYet::Untracked));
    }

    #[test]
    fn the_peers_ids_follow_headers_and_retirements() {
        let mut ids = ids();
        assert_eq!(remote(&ids), Ok((0, None)));
        ids.offered(&new(1, 0, b"one")).unwrap();
        assert_eq!(remote(&ids), Ok((0, Some(1))));
        ids.used(b"one");
        assert_eq!(remote(&ids), Err(NotYet::RemoteIds), "0 is not retired");
        ids.used(b"zero");
        assert_eq!(remote(&ids), Err(NotYet::RemoteIds), "only a probe");
        ids.retired(0).unwrap();
        assert!(ids.is_retire_open(0));
        assert_eq!(remote(&ids), Err(NotYet::RemoteIds), "nor acknowledged");
        ids.retire_acked(0);
        assert_eq!(remote(&ids), Ok((1, None)));
        // Late, twice and unknown: nothing changes.
        ids.offered(&new(0, 0, b"zero")).unwrap();
        ids.offered(&new(1, 0, b"one")).unwrap();
        ids.used(b"zero");
        assert_eq!(remote(&ids), Ok((1, None)));
        ids.offered(&new(2, 2, b"two")).unwrap();
        assert_eq!(remote(&ids), Err(NotYet::RemoteIds), "1 is to be retired");
        ids.used(b"two");
        ids.retired(1).unwrap();
        ids.retire_acked(1);
        assert_eq!(remote(&ids), Ok((2, None)));
        assert_eq!(ids.retire_prior_to(), 2);
        assert_eq!(ids.settled_remote().unwrap().0.token, Some([2; 16]));
    }

    #[test]
    fn more_ids_than_allowed() {
        let mut ids = ids();
        ids.offered(&new(1, 0, b"1")).unwrap();
        ids.offered(&new(2, 0, b"2")).unwrap();
        assert_eq!(remote(&ids), Err(NotYet::RemoteIds));
        ids.offered(&new(3, 0, b"3")).unwrap();
        ids.offered(&new(4, 0, b"4")).unwrap();
        assert_eq!(ids.offered(&new(5, 0, b"5")), Err(NotYet::Untracked));
    }

    #[test]
    fn an_empty_id_is_an_id() {
        let mut ids = Ids::new([0; 8]);
        assert_eq!(remote(&ids), Err(NotYet::RemoteIds));
        ids.begin_remote(RemoteId {
            sequence: 0,
            id: ConnectionId::new(b""),
            token: None,
        });
        ids.used(b"");
        assert_eq!(remote(&ids), Ok((0, None)));
    }
}
