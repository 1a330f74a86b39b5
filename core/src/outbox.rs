//! What one session may be sent now.
//!
//! An outbox holds no messages. It remembers what is in flight and whether something may be owed that was not sent
//! yet; then it asks for a scan of everything owed, in order, and sends from that as far as its window goes. A message
//! pushed while it is caught up and has room goes out at once; any other push only leaves a mark, because the scan
//! will find the message where it is safe: among the pending, in the queue or in a log.
//!
//! The caller offers each message at most from one scan at a time and answers every scan that was asked for. Then a
//! session sends each message once (PROTO-27), in order, and never more than its window (PROTO-28).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use petrel_protocol::MessageId;

/// Where a sent message came from, hence where its ack goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// The device's own queue, or on its way there.
    Queue,
    /// A broadcast.
    Broadcast,
    /// To this device alone, now or never: nowhere stored.
    Transient,
    /// A broadcast that goes now or never.
    TransientBroadcast,
    /// A record of what is missing.
    Gap,
}

impl Route {
    /// Whether it goes now or never: nobody sends it again.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Transient | Self::TransientBroadcast)
    }
}

/// A message that was sent and not acked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InFlight {
    /// Which.
    pub id: MessageId,
    /// Where its ack goes.
    pub route: Route,
    /// Length of its frame.
    pub bytes: u32,
    sent_at: Instant,
}

/// Most that is in flight to one device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of frames; one message is always allowed.
    pub bytes: u64,
    /// After this long without an ack or any other word a device is unresponsive (PROTO-35).
    pub unresponsive_after: Duration,
}

/// What becomes of a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Push {
    /// Send it now; it is in flight.
    Send,
    /// It is in flight already.
    Known,
    /// Not now: a later scan will find it.
    Later,
}

/// The state of one session's deliveries. Nothing on the heap while nothing is in flight.
#[derive(Debug)]
pub struct Outbox {
    in_flight: VecDeque<InFlight>,
    /// Bounded by the window, and one message more, both far below 4 GiB.
    in_flight_bytes: u32,
    /// Acked since the running scan began: it may still contain them.
    acked_meanwhile: Vec<MessageId>,
    /// Newest message of the device's own queue that was sent. Pushes of these come in order, so one that is not newer
    /// was overtaken by a scan, which may have found it: sent already, and acked by now.
    newest_queued: MessageId,
    heard_at: Instant,
    is_scanning: bool,
    /// A message of the running or of the last scan did not fit. Until an ack makes room no scan can do better.
    is_full: bool,
    /// Something may be owed that was not sent.
    is_dirty: bool,
}

impl Outbox {
    /// Starts with everything still to be found out.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            acked_meanwhile: Vec::new(),
            newest_queued: MessageId::ZERO,
            heard_at: now,
            is_scanning: false,
            is_full: false,
            is_dirty: true,
        }
    }

    /// What is in flight, oldest first.
    pub fn in_flight(&self) -> impl Iterator<Item = &InFlight> {
        self.in_flight.iter()
    }

    /// Whether everything owed has been sent and acked, as far as this session knows.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && !self.is_scanning && !self.is_dirty
    }

    /// Whether its oldest message waits for an ack for too long, with no other word from the device (PROTO-35).
    #[must_use]
    pub fn is_unresponsive(&self, window: Window, now: Instant) -> bool {
        self.in_flight.front().is_some_and(|oldest| {
            let since = oldest.sent_at.max(self.heard_at);
            now.saturating_duration_since(since) >= window.unresponsive_after
        })
    }

    /// Something arrived from the device.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Leaves the mark that something may be owed, as after a change of what the device wants.
    pub fn mark(&mut self) {
        self.is_dirty = true;
    }

    fn has_room(&self, window: Window, bytes: u32) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < window.messages
                && u64::from(self.in_flight_bytes) + u64::from(bytes) <= window.bytes)
    }

    fn is_in_flight(&self, id: MessageId) -> bool {
        self.in_flight.iter().any(|m| m.id == id)
    }

    fn sent(&mut self, id: MessageId, route: Route, bytes: u32, now: Instant) {
        self.in_flight.push_back(InFlight {
            id,
            route,
            bytes,
            sent_at: now,
        });
        self.in_flight_bytes += bytes;
        if route == Route::Queue {
            self.newest_queued = self.newest_queued.max(id);
        }
    }

    /// A message that was just accepted or whose walk came by.
    pub fn push(
        &mut self,
        id: MessageId,
        route: Route,
        bytes: u32,
        window: Window,
        now: Instant,
    ) -> Push {
        if self.is_in_flight(id) {
            return Push::Known;
        }
        if self.is_scanning
            || self.is_dirty
            || (route == Route::Queue && id <= self.newest_queued)
            || self.is_unresponsive(window, now)
            || !self.has_room(window, bytes)
        {
            // A transient message is nowhere to be found later, so no scan is worth it.
            self.is_dirty |= !route.is_transient();
            return Push::Later;
        }
        self.sent(id, route, bytes, now);
        Push::Send
    }

    /// Takes an ack; what it was for, if that is in flight here.
    pub fn ack(&mut self, id: MessageId) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|m| m.id == id)?;
        let acked = self.in_flight.remove(at)?;
        self.in_flight_bytes -= acked.bytes;
        self.is_full &= self.is_scanning;
        if self.is_scanning {
            self.acked_meanwhile.push(id);
        }
        if self.in_flight.is_empty() {
            // Give the memory back: an idle device costs nothing.
            self.in_flight = VecDeque::new();
        }
        Some(acked)
    }

    /// Forgets the now-or-never messages in flight, as the session ends; how many there were.
    pub fn take_transient(&mut self) -> u64 {
        let before = self.in_flight.len();
        self.in_flight.retain(|m| !m.route.is_transient());
        (before - self.in_flight.len()) as u64
    }

    /// Whether to scan now, and then how many messages to ask for: what is in flight may be found again, so that many
    /// more. Waits until half of the window is free, so that a full one does not scan for every ack.
    pub fn poll_scan(&mut self, window: Window, now: Instant) -> Option<usize> {
        let has_half = self.in_flight.len() * 2 <= window.messages
            && u64::from(self.in_flight_bytes) * 2 <= window.bytes;
        let may_scan = !self.is_full && (has_half || self.in_flight.is_empty());
        if !self.is_dirty || self.is_scanning || !may_scan || self.is_unresponsive(window, now) {
            return None;
        }
        self.is_dirty = false;
        self.is_scanning = true;
        Some(self.in_flight.len() + window.messages.max(1))
    }

    /// Offers a message of the running scan, in order; whether to send it.
    pub fn offer(
        &mut self,
        id: MessageId,
        route: Route,
        bytes: u32,
        window: Window,
        now: Instant,
    ) -> bool {
        if self.is_in_flight(id) || self.acked_meanwhile.contains(&id) {
            return false;
        }
        // Once one did not fit, later ones wait too: order.
        self.is_full |= !self.has_room(window, bytes);
        if self.is_full {
            return false;
        }
        self.sent(id, route, bytes, now);
        true
    }

    /// Ends the running scan. `is_complete` says that nothing more was owed, when it was made, than what it offered.
    pub fn finish_scan(&mut self, is_complete: bool) {
        self.is_scanning = false;
        self.is_dirty |= self.is_full || !is_complete;
        // What was acked meanwhile may have made room already.
        self.is_full &= self.acked_meanwhile.is_empty() && !self.in_flight.is_empty();
        self.acked_meanwhile = Vec::new();
    }
}

#[cfg(test)]
mod tests;
