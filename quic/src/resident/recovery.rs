//! Loss detection and congestion control (RFC 9002).

use super::{
    active::Active,
    error::{Code, Violation},
    frame::Ack,
    record::Record,
};

/// Size of a full datagram: what every path carries (RFC 9000 §14). Paths are not probed for more.
pub(crate) const DATAGRAM_BYTES: usize = 1200;

/// RFC 9002 §7.2: ten datagrams, at most 14,720 bytes.
pub(crate) const INITIAL_WINDOW: u32 = 10 * DATAGRAM_BYTES as u32;

/// RFC 9002 §7.2.
const MINIMUM_WINDOW: u32 = 2 * DATAGRAM_BYTES as u32;

/// RFC 9002 §6.1.1.
const PACKET_THRESHOLD: u64 = 3;

/// RFC 9002 §7.6.1.
const PERSISTENT_CONGESTION_THRESHOLD: u64 = 3;

/// Lost packets that are sent again at once; after them, one for each share of a round trip (RFC 9002 §7.7).
pub(super) const RESEND_BURST: u8 = 4;

/// Back-off is at most 2^10 probe timeouts: by then the idle timeout has long ended the connection.
const BACK_OFF_MAX: u8 = 10;

/// Packets in flight at most: more small ones wait, as if the window were full.
pub(super) const SENT_MAX: usize = 1024;

/// In [`Sent`]: no ID.
pub(super) const NO_SEQUENCE: u32 = u32::MAX;

/// An ack-eliciting packet on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) number: u64,
    pub(super) at: u64,
    /// What of the stream it carries.
    pub(super) offset: u64,
    pub(super) length: u16,
    pub(super) bytes: u16,
    /// The ID that it announces, or [`NO_SEQUENCE`].
    pub(super) announced: u32,
    /// The ID that it retires, or [`NO_SEQUENCE`].
    pub(super) retired: u32,
    pub(super) has_credit: bool,
    /// It says that credit is missing.
    pub(super) has_blocked: bool,
    pub(super) is_acked: bool,
}

impl Active {
    /// When something about lost packets is to be done: look for more losses, or probe (RFC 9002 §6.2).
    pub(super) fn recovery_deadline(&self, probe_timeout_us: u64) -> Option<u64> {
        let last = self.sent.back()?;
        Some(self.loss_at.unwrap_or_else(|| {
            let back_off = self.probe_count.min(BACK_OFF_MAX);
            last.at + (probe_timeout_us << back_off)
        }))
    }

    /// Whether the congestion window lets another datagram of full size go (RFC 9002 §7).
    pub(super) fn has_window(&self) -> bool {
        let has_room = self.in_flight.saturating_add(DATAGRAM_BYTES as u32) <= self.window;
        self.probes > 0 || (has_room && self.sent.len() < SENT_MAX)
    }

    /// The peer is elsewhere: what is on its way to where it was counts neither as in flight nor as lost to congestion
    /// (RFC 9000 §9.4), and is sent again.
    pub(super) fn leave_path(&mut self) {
        for _ in 0..self.sent.len() {
            if let Some(sent) = self.sent.pop_front() {
                self.on_sent_lost(sent);
            }
        }
        self.probe_count = 0;
        self.probes = 0;
        self.loss_at = None;
        self.resend_burst = RESEND_BURST;
    }

    /// Forgets what was learnt of a path that is not used any more (RFC 9000 §9.4).
    pub(super) fn forget_path(&mut self) {
        self.window = INITIAL_WINDOW;
        self.threshold = u32::MAX;
        self.recovery_began = None;
    }

    fn on_sent_lost(&mut self, lost: Sent) {
        self.in_flight = self.in_flight.saturating_sub(u32::from(lost.bytes));
        self.requeue(lost);
    }

    /// Puts what a packet carried where it will be sent again. Bytes and limits are those of now.
    pub(super) fn requeue(&mut self, lost: Sent) {
        if lost.length > 0 {
            self.send
                .lose(lost.offset, lost.offset + u64::from(lost.length));
        }
        self.pending.credit |= lost.has_credit;
        if lost.has_blocked {
            self.blocked_at = None;
        }
        if lost.announced != NO_SEQUENCE && !self.pending.announce.contains(&lost.announced) {
            self.pending.announce.push(lost.announced);
        }
        if lost.retired != NO_SEQUENCE && !self.pending.retire.contains(&lost.retired) {
            self.pending.retire.push(lost.retired);
        }
    }

    /// Declares lost what was overtaken by acknowledged packets, in number or in time (RFC 9002 §6.1).
    ///
    /// How many packets were lost.
    pub(super) fn detect_losses(
        &mut self,
        now: u64,
        largest_acked: u64,
        loss_delay_us: u64,
        persistent_us: u64,
    ) -> u64 {
        self.loss_at = None;
        let mut count = 0;
        let (mut first_at, mut last_at) = (u64::MAX, 0);
        while let Some(&oldest) = self.sent.front() {
            if oldest.number >= largest_acked {
                break;
            }
            let is_overtaken = largest_acked - oldest.number >= PACKET_THRESHOLD;
            if !is_overtaken && oldest.at + loss_delay_us > now {
                self.loss_at = Some(oldest.at + loss_delay_us);
                break;
            }
            self.sent.pop_front();
            (first_at, last_at) = (first_at.min(oldest.at), last_at.max(oldest.at));
            count += 1;
            self.on_sent_lost(oldest);
        }
        if count > 0 {
            self.on_congestion(now, last_at);
            // RFC 9002 §7.6: everything sent over this long was lost.
            if last_at - first_at > persistent_us * PERSISTENT_CONGESTION_THRESHOLD {
                self.window = MINIMUM_WINDOW;
                self.recovery_began = None;
            }
            self.resend_burst = RESEND_BURST;
        }
        count
    }

    /// Halves the window, once for each round trip (RFC 9002 §7.3.2).
    fn on_congestion(&mut self, now: u64, sent_at: u64) {
        if self.recovery_began.is_some_and(|began| sent_at <= began) {
            return;
        }
        self.recovery_began = Some(now);
        self.window = (self.window / 2).max(MINIMUM_WINDOW);
        self.threshold = self.window;
    }

    /// Grows the window for an acknowledged packet (RFC 9002 §7.3.1, §7.3.3), if it was in use (§7.8).
    fn on_acked_bytes(&mut self, sent_at: u64, bytes: u32, was_limited: bool) {
        let in_recovery = self.recovery_began.is_some_and(|began| sent_at <= began);
        if in_recovery || !was_limited {
            return;
        }
        let growth = if self.window < self.threshold {
            bytes
        } else {
            (DATAGRAM_BYTES as u32).saturating_mul(bytes) / self.window.max(1)
        };
        self.window = self.window.saturating_add(growth);
    }

    /// A probe timeout has run out: something has to go, whatever the window says (RFC 9002 §6.2.4).
    pub(super) fn probe(&mut self) {
        self.probe_count = self.probe_count.saturating_add(1);
        self.probes = 1;
        self.resend_burst = self.resend_burst.max(1);
        // The oldest is sent again and stays in flight: it is not known to be lost.
        if let Some(oldest) = self.sent.front().copied() {
            self.requeue(oldest);
        }
        // What it carried may have arrived by another packet since, or be of no use any more.
        self.pending.ping |= !self.send.has_lost();
    }
}

impl Record {
    /// Takes an acknowledgement in. The number of packets that it showed to be lost.
    ///
    /// # Errors
    ///
    /// PROTOCOL_VIOLATION for packets that were never sent (RFC 9000 §13.1).
    pub(super) fn handle_ack(&mut self, ack: &Ack<'_>, now: u64) -> Result<u64, Violation> {
        if ack.largest >= self.next_number {
            return Err(NEVER_SENT);
        }
        let cold = &mut *self.cold;
        let before = cold.largest_acked;
        let largest = before.map_or(ack.largest, |b| b.max(ack.largest));
        cold.largest_acked = Some(largest);
        self.is_phase_acked |= ack.largest >= cold.phase_first;
        let Some(active) = self.active.as_deref_mut() else {
            return Ok(0);
        };
        if let Some(skipped) = active.skipped
            && ack
                .ranges()
                .any(|(low, high)| (low..=high).contains(&skipped))
        {
            return Err(NEVER_SENT);
        }
        let was_limited = active.in_flight * 2 >= active.window;
        let mut ranges = ack.ranges();
        let mut range = ranges.next();
        let mut newest: Option<Sent> = None;
        for index in (0..active.sent.len()).rev() {
            let sent = active.sent[index];
            while range.is_some_and(|(low, _)| low > sent.number) {
                range = ranges.next();
            }
            match range {
                None => break,
                Some((_, high)) if high < sent.number => continue,
                Some(_) => {}
            }
            active.sent[index].is_acked = true;
            newest = newest.or(Some(sent));
            active.in_flight = active.in_flight.saturating_sub(u32::from(sent.bytes));
            active
                .send
                .ack(sent.offset, sent.offset + u64::from(sent.length));
            active.on_acked_bytes(sent.at, u32::from(sent.bytes), was_limited);
        }
        let Some(newest) = newest else {
            return Ok(0);
        };
        active.sent.retain(|sent| !sent.is_acked);
        active.probe_count = 0;
        active.probes = 0;
        let mut latest_us = 0;
        // A sample needs the largest number to be newly acknowledged (RFC 9002 §5.1).
        if newest.number == ack.largest {
            latest_us = now - newest.at;
            // Delays are bounded by what the peer promised (RFC 9002 §5.3).
            let delay = ack
                .delay
                .saturating_mul(1 << cold.peer_ack_delay_exponent.min(20))
                .min(u64::from(cold.peer_ack_delay_us));
            cold.rtt.update(latest_us, delay);
        }
        let lost = active.detect_losses(
            now,
            largest,
            cold.rtt.loss_delay_us(latest_us),
            cold.probe_timeout_us(),
        );
        Ok(lost)
    }
}

const NEVER_SENT: Violation = Violation::in_frame(
    Code::PROTOCOL_VIOLATION,
    super::frame::kind::ACK as u64,
    "acknowledges a packet that was never sent",
);
