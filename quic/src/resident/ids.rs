//! Connection IDs of both sides (RFC 9000 §5.1). Each side has one in use and one to spare.

use super::{
    Engine, Note,
    active::RETIREMENTS_MAX,
    error::{Code, Violation},
    frame::{NewConnectionId, RESET_TOKEN_BYTES, kind},
    record::{LocalId, Record, RemoteId, ResetToken, SpareId},
    recovery::NO_SEQUENCE,
};

impl Engine {
    /// The reset token of an ID, the same in every life of the server (RFC 9000 §10.3.2).
    pub(super) fn reset_token(&self, id: &LocalId) -> ResetToken {
        let tag = ring::hmac::sign(&self.reset_key, id);
        let mut token = [0; RESET_TOKEN_BYTES];
        token.copy_from_slice(&tag.as_ref()[..RESET_TOKEN_BYTES]);
        token
    }

    /// The peer addresses us by another of our IDs: from now on that is the one in use. Whether it was another.
    pub(super) fn note_local_id(&mut self, record: &mut Record, used: LocalId) -> bool {
        if used == record.local_id {
            return false;
        }
        let cold = &mut record.cold;
        let Some(spare) = cold.spare_local.filter(|spare| spare.id == used) else {
            return false;
        };
        cold.spare_local = Some(SpareId {
            sequence: cold.local_sequence,
            id: record.local_id,
        });
        cold.local_sequence = spare.sequence;
        record.local_id = spare.id;
        true
    }

    /// The peer will not use one of our IDs any more; it gets another.
    pub(super) fn handle_retire(
        &mut self,
        record: &mut Record,
        sequence: u64,
    ) -> Result<(), Violation> {
        let fault = |reason| {
            let frame = kind::RETIRE_CONNECTION_ID.into();
            Err(Violation::in_frame(Code::PROTOCOL_VIOLATION, frame, reason))
        };
        let cold = &mut *record.cold;
        if sequence >= u64::from(cold.next_local_sequence) {
            return fault("retires an ID that was never given out");
        }
        // By now the ID of the packet at hand is the one in use (RFC 9000 §19.16).
        if sequence == u64::from(cold.local_sequence) {
            return fault("retires the ID that its packet came to");
        }
        let Some(spare) = cold
            .spare_local
            .filter(|spare| u64::from(spare.sequence) == sequence)
        else {
            // It was retired before; this is a repetition.
            return Ok(());
        };
        let active = record.active.as_ref();
        if active.is_some_and(|a| a.pending.unsaid == Some(spare.sequence)) {
            // Otherwise one packet could use up any number of IDs.
            return fault("retires an ID before it was given out");
        }
        let cold = &mut *record.cold;
        let id = self.cids.draw();
        let sequence = cold.next_local_sequence;
        cold.next_local_sequence += 1;
        cold.spare_local = Some(SpareId { sequence, id });
        self.notes.push_back(Note::IdRemoved(spare.id));
        self.notes.push_back(Note::IdAdded(id));
        let pending = &mut self.active(record).pending;
        pending.announce.retain(|&other| other != spare.sequence);
        pending.announce.push(sequence);
        pending.unsaid = Some(sequence);
        Ok(())
    }

    /// The peer offers an ID, and may take back older ones.
    ///
    /// # Errors
    ///
    /// What RFC 9000 §19.15 and §5.1.1 say of contradictions and of more IDs than were asked for.
    pub(super) fn handle_new_id(
        &mut self,
        record: &mut Record,
        offer: NewConnectionId<'_>,
    ) -> Result<(), Violation> {
        let fault = |code, reason| {
            let frame = kind::NEW_CONNECTION_ID.into();
            Err(Violation::in_frame(code, frame, reason))
        };
        if record.cold.remote_id.id().is_empty() {
            return fault(Code::PROTOCOL_VIOLATION, "an ID beside one of length 0");
        }
        // Four bytes count them, and the last number says that there is none.
        let sequence = u32::try_from(offer.sequence).ok();
        let Some(sequence) = sequence.filter(|&number| number != NO_SEQUENCE) else {
            return fault(Code::CONNECTION_ID_LIMIT_ERROR, "too many IDs");
        };
        let new = RemoteId::new(sequence, offer.id, Some(offer.reset_token));
        let mut is_known = false;
        for known in [Some(record.cold.remote_id), record.cold.spare_remote] {
            let Some(known) = known else { continue };
            let is_same = known.sequence == sequence;
            let contradicts = is_same && known.token().is_some() && known != new;
            if contradicts || (!is_same && known.id() == new.id()) {
                return fault(Code::PROTOCOL_VIOLATION, "one ID with two meanings");
            }
            is_known |= is_same;
        }
        let is_first_sight = sequence >= record.cold.next_remote_sequence;
        record.cold.next_remote_sequence = record.cold.next_remote_sequence.max(sequence + 1);
        // It is not above the sequence number.
        let prior = u32::try_from(offer.retire_prior_to).unwrap_or(sequence);
        let is_late = sequence < record.cold.retire_prior_to || !is_first_sight;
        if is_late && !is_known {
            // Too late, or seen before and retired since: the peer learns it (again) (RFC 9000 §5.1.2).
            return self.retire(record, &new);
        }
        let mut new = (!is_known).then_some(new);
        if prior > record.cold.retire_prior_to {
            record.cold.retire_prior_to = prior;
            if let Some(spare) = record.cold.spare_remote.filter(|s| s.sequence < prior) {
                record.cold.spare_remote = None;
                self.retire(record, &spare)?;
            }
            if record.cold.remote_id.sequence < prior {
                let next = record.cold.spare_remote.take().or_else(|| new.take());
                // The ID of the offer is not below what it retires, so there is a next one.
                if let Some(next) = next {
                    self.switch_remote(record, next)?;
                }
            }
        }
        let Some(new) = new else { return Ok(()) };
        if record.cold.spare_remote.is_some() {
            return fault(Code::CONNECTION_ID_LIMIT_ERROR, "more IDs than two");
        }
        record.cold.spare_remote = Some(new);
        Ok(())
    }

    /// Goes on with the spare ID of the peer, if there is one, so that the new path cannot be linked to the old one
    /// (RFC 9000 §9.5).
    pub(super) fn rotate_remote(&mut self, record: &mut Record) {
        if let Some(next) = record.cold.spare_remote.take() {
            // One retirement more than allowed at once: then the old ID stays open on the peer's side.
            let _ = self.switch_remote(record, next);
        }
    }

    fn switch_remote(&mut self, record: &mut Record, next: RemoteId) -> Result<(), Violation> {
        let old = std::mem::replace(&mut record.cold.remote_id, next);
        // Tokens count from the first to the last use of their ID (RFC 9000 §10.3.1).
        if let Some(&token) = old.token() {
            self.notes.push_back(Note::TokenRemoved(token));
        }
        if let Some(&token) = next.token() {
            self.notes.push_back(Note::TokenAdded(token));
        }
        self.retire(record, &old)
    }

    fn retire(&mut self, record: &mut Record, id: &RemoteId) -> Result<(), Violation> {
        let retire = &mut self.active(record).pending.retire;
        if retire.contains(&id.sequence) {
            return Ok(());
        }
        if retire.len() >= RETIREMENTS_MAX {
            return Err(Violation::in_frame(
                Code::CONNECTION_ID_LIMIT_ERROR,
                kind::NEW_CONNECTION_ID.into(),
                "IDs come and go too fast",
            ));
        }
        retire.push(id.sequence);
        Ok(())
    }
}
