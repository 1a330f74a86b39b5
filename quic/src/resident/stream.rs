//! The one stream, both ways: bidirectional, the first of the client, open as long as the connection (RFC 9000 §2, §3).

use bytes::Bytes;

use super::{
    Engine, Note,
    error::{Code, Violation},
    frame::{Stream, kind},
    record::{Record, State},
};
use crate::{SendError, close_code};

/// The first bidirectional stream of the client (RFC 9000 §2.1).
pub(super) const STREAM: u64 = 0;

/// What became of a stream frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// It cannot be kept now: the packet has to count as lost.
    No,
    /// The peer broke a rule of this crate.
    Broken(u32),
}

impl Engine {
    /// Accepts bytes for the stream, all or none. See [`ShardCore::send`](crate::ShardCore::send).
    pub(crate) fn send(&mut self, record: &mut Record, bytes: Bytes) -> Result<(), SendError> {
        if record.state != State::Open {
            return Err(SendError::Gone);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.has_room(record) {
            record.wants_writable = true;
            // The peer may have to be told that it holds us up.
            let _ = self.active(record);
            return Err(SendError::Full(bytes));
        }
        self.active(record).send.write(bytes);
        Ok(())
    }

    /// Whether the peer's credit and our own window take at least one byte more.
    fn has_room(&self, record: &Record) -> bool {
        let (held, end) = match &record.active {
            Some(active) => (active.send.held(), active.send.end()),
            None => (0, record.send_offset),
        };
        held < self.send_window && end < record.cold.credit()
    }

    /// Tells a sender that was turned away, as soon as it need not be any more.
    pub(super) fn note_room(&mut self, record: &mut Record) {
        if record.wants_writable && record.state == State::Open && self.has_room(record) {
            record.wants_writable = false;
            self.notes.push_back(Note::Writable);
        }
    }

    /// Takes bytes of the stream in.
    ///
    /// # Errors
    ///
    /// What RFC 9000 §4.1 and §4.6 say of bytes beyond the limits and of streams that cannot be.
    pub(super) fn handle_stream(
        &mut self,
        record: &mut Record,
        frame: Stream<'_>,
    ) -> Result<Taken, Violation> {
        check_id(record, frame.id, kind::STREAM)?;
        if frame.end() > record.max_data_end() {
            return Err(Violation::in_frame(
                Code::FLOW_CONTROL_ERROR,
                kind::STREAM.into(),
                "more than the receive window allows",
            ));
        }
        let ends_at = self.final_size(record, frame)?;
        let known = record.recv_offset.saturating_sub(frame.offset);
        let data = usize::try_from(known)
            .ok()
            .and_then(|k| frame.data.get(k..));
        let taken = match data {
            Some(data) if !data.is_empty() => {
                self.take_bytes(record, frame.offset.max(record.recv_offset), data)
            }
            _ => Taken::Yes,
        };
        match ends_at {
            Some(end) if taken == Taken::Yes && end == record.recv_offset => {
                Ok(Taken::Broken(close_code::STREAM_FINISHED))
            }
            Some(end) if taken == Taken::Yes => {
                self.active(record).final_size = Some(end);
                Ok(Taken::Yes)
            }
            _ => Ok(taken),
        }
    }

    /// Where the peer's half ends, as far as it is known with this frame.
    ///
    /// # Errors
    ///
    /// FINAL_SIZE_ERROR for an end that changes, or lies before bytes that came (RFC 9000 §4.5).
    fn final_size(&self, record: &Record, frame: Stream<'_>) -> Result<Option<u64>, Violation> {
        let active = record.active.as_deref();
        let known = active.and_then(|active| active.final_size);
        let held = active.map_or(0, |active| active.reassembly.held() as u64);
        let is_wrong = match (known, frame.is_last) {
            (Some(known), true) => frame.end() != known,
            (Some(known), false) => frame.end() > known,
            (None, true) => frame.end() < record.recv_offset + held,
            (None, false) => false,
        };
        if is_wrong {
            return Err(Violation::in_frame(
                Code::FINAL_SIZE_ERROR,
                kind::STREAM.into(),
                "bytes beyond the final size, or another final size",
            ));
        }
        Ok(known.or(frame.is_last.then_some(frame.end())))
    }

    fn take_bytes(&mut self, record: &mut Record, offset: u64, data: &[u8]) -> Taken {
        let is_next = offset == record.recv_offset;
        let holds = record
            .active
            .as_ref()
            .is_some_and(|active| !active.reassembly.is_empty());
        if is_next && !record.is_paused {
            record.recv_offset += data.len() as u64;
            let bytes = self.share(data);
            self.notes.push_back(Note::Bytes(bytes));
            if let Some(active) = record.active.as_deref_mut().filter(|_| holds) {
                active.reassembly.advance(data.len());
                self.hand_out(record);
            }
            self.extend_credit(record);
            return Taken::Yes;
        }
        // Both fit: the receive window bounds them.
        let ahead = (offset - record.recv_offset) as u32;
        let reassembly = &mut self.active(record).reassembly;
        if !reassembly.has_place(ahead, data.len() as u32) {
            return Taken::No;
        }
        reassembly.insert(ahead, data);
        self.hand_out(record);
        Taken::Yes
    }

    /// Gives the application what is in order by now.
    fn hand_out(&mut self, record: &mut Record) {
        if record.is_paused {
            return;
        }
        let Some(active) = record.active.as_deref_mut() else {
            return;
        };
        let ready = active.reassembly.ready();
        if ready.is_empty() {
            return;
        }
        let count = ready.len();
        let bytes = self.share(ready);
        active.reassembly.advance(count);
        record.recv_offset += count as u64;
        self.notes.push_back(Note::Bytes(bytes));
        self.extend_credit(record);
    }

    /// Stops or resumes handing out bytes.
    pub(crate) fn pause_reading(&mut self, record: &mut Record, is_paused: bool) {
        record.is_paused = is_paused;
        if record.state == State::Open {
            self.hand_out(record);
            self.rest(record);
        }
    }

    /// Offers the peer more once it has used half of the window (RFC 9000 §4.2).
    fn extend_credit(&mut self, record: &mut Record) {
        let wanted = record.recv_offset + self.receive_window;
        if wanted >= record.cold.own_max_data + self.receive_window / 2 {
            record.cold.own_max_data = wanted;
            self.active(record).pending.credit = true;
        }
    }

    /// The peer raises a limit; it never falls (RFC 9000 §4.1).
    pub(super) fn handle_max_data(&mut self, record: &mut Record, limit: u64) {
        let cold = &mut record.cold;
        cold.peer_max_data = cold.peer_max_data.max(limit);
    }

    /// Likewise, of the stream.
    pub(super) fn handle_max_stream_data(
        &mut self,
        record: &mut Record,
        stream: u64,
        limit: u64,
    ) -> Result<(), Violation> {
        check_id(record, stream, kind::MAX_STREAM_DATA)?;
        let cold = &mut record.cold;
        cold.peer_max_stream_data = cold.peer_max_stream_data.max(limit);
        Ok(())
    }

    /// The peer gives its half of the stream up.
    pub(super) fn handle_reset(
        &mut self,
        record: &Record,
        stream: u64,
        final_size: u64,
    ) -> Result<Taken, Violation> {
        check_id(record, stream, kind::RESET_STREAM)?;
        let held = record.active.as_ref().map_or(0, |a| a.reassembly.held());
        let fault =
            |code, reason| Err(Violation::in_frame(code, kind::RESET_STREAM.into(), reason));
        if final_size > record.max_data_end() {
            return fault(Code::FLOW_CONTROL_ERROR, "final size beyond the window");
        }
        if final_size < record.recv_offset + held as u64 {
            return fault(Code::FINAL_SIZE_ERROR, "bytes beyond the final size");
        }
        let known = record.active.as_ref().and_then(|a| a.final_size);
        if known.is_some_and(|known| known != final_size) {
            return fault(Code::FINAL_SIZE_ERROR, "another final size");
        }
        Ok(Taken::Broken(close_code::STREAM_RESET))
    }

    /// A command of the load harness and of tests: asks the peer for a sign of life.
    pub(crate) fn ping(&mut self, record: &mut Record) {
        if record.state == State::Open {
            self.active(record).pending.ping = true;
        }
    }

    /// Begins a key update, if the last one is over (RFC 9001 §6.1). Whether it could.
    pub(crate) fn update_keys(&mut self, record: &mut Record) -> bool {
        let is_over = record.active.as_ref().is_none_or(|a| a.old_key.is_none());
        if record.state != State::Open || !record.is_phase_acked || !is_over {
            return false;
        }
        self.begin_key_update(record);
        true
    }
}

/// Whether the application has got all bytes of a stream that is finished. Only while it was paused this was not found
/// when the end came.
pub(super) fn has_ended(record: &Record) -> bool {
    let active = record.active.as_deref();
    active.is_some_and(|active| active.final_size == Some(record.recv_offset))
}

/// Only one stream can be spoken of.
///
/// # Errors
///
/// STREAM_LIMIT_ERROR for further streams of the peer (RFC 9000 §4.6), STREAM_STATE_ERROR for streams that only this side
/// could have opened, and for credit where only the peer sends (§19.5, §19.8, §19.10).
pub(super) fn check_id(record: &Record, stream: u64, frame: u8) -> Result<(), Violation> {
    if stream == STREAM {
        return Ok(());
    }
    // The low bit tells who opens it, the next one whether it has one direction only (RFC 9000 §2.1).
    let is_ours = (stream & 1 == 0) == record.is_client;
    let is_for_sender = matches!(frame, kind::STOP_SENDING | kind::MAX_STREAM_DATA);
    let (code, reason) = if is_ours {
        (Code::STREAM_STATE_ERROR, "a stream that was never opened")
    } else if is_for_sender && stream & 2 != 0 {
        (
            Code::STREAM_STATE_ERROR,
            "a stream that only the peer sends on",
        )
    } else {
        (Code::STREAM_LIMIT_ERROR, "there is one stream only")
    };
    Err(Violation::in_frame(code, frame.into(), reason))
}
