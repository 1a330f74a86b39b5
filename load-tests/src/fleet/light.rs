//! The devices of one socket: a dozen bytes each beside their connection, no task, no buffer while they are quiet.
//!
//! They run inside the socket's driver as its application. Orders come in from the run; counts are shown once a turn.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use petrel_protocol::codec::Decoder;
use petrel_quic::{App, CloseReason, ConnId, Event, SendError, ShardCore, Turn};

use super::Shared;
use super::frames::{self, Reader};
use super::gauges::{Gauges, Seen};
use super::keep_alive::KeepAlive;
use super::tally::Tally;
use crate::measure::latency::Latencies;

/// Connections begun, or ended, in one turn: others have theirs to do.
const STEPS_PER_TURN: u32 = 64;

/// Attempts of a device before it is given up, and the pause between them.
pub(super) const ATTEMPTS_MAX: u8 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// What the run tells the devices. Numbers are those of the whole fleet: a socket picks its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Devices below this number shall be online.
    Connect(u32),
    /// Devices below this number leave, and stay away until they are told to connect.
    Leave(u32),
    /// All leave, then the driver ends.
    Stop,
}

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Without a connection, and free to make one.
    Away,
    /// Between the first packet and the end of its opening.
    Opening,
    /// Its session is open, its subscription not yet answered.
    Subscribing,
    /// Ready for messages.
    Online,
    /// Closed by itself; the connection's end is not told yet.
    Leaving,
    /// Has nothing more to do: registered, given up, or cut off.
    Finished,
}

impl State {
    /// Whether it still counts as being on its way to a session.
    fn is_arriving(self) -> bool {
        matches!(self, Self::Opening | Self::Subscribing)
    }
}

/// One device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) conn: ConnId,
    pub(super) state: State,
    pub(super) attempts: u8,
}

/// The devices of one socket.
pub(super) struct Lights {
    pub(super) shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    gauges: Arc<Gauges>,
    /// The device at place `p` has the number `first + p * stride` in the fleet.
    first: u32,
    stride: u32,
    /// Handshakes of this socket in progress at once.
    handshakes_max: u32,
    pub(super) devices: Vec<Device>,
    place_by_slot: Vec<u32>,
    /// Frames that have not come whole.
    pub(super) partial: HashMap<u32, Decoder>,
    /// What the connection had no room for: at most an ack for each message of the broker's window.
    backlog: HashMap<u32, VecDeque<Bytes>>,
    /// When the handshakes in progress began.
    pub(super) begun: HashMap<u32, Instant>,
    /// Who tries again, and when; in order of time.
    retries: VecDeque<(Instant, u32)>,
    /// Places that are still to be connected.
    to_connect: Range<u32>,
    /// Places that are still to be closed.
    to_leave: Range<u32>,
    stopping: bool,
    pub(super) keep_alive: KeepAlive,
    pub(super) reader: Reader,
    pub(super) seen: Seen,
    pub(super) tally: Tally,
    /// From the first packet to `Welcome`: full handshakes, resumed ones.
    pub(super) connects: [Latencies; 2],
    /// Tokens of new registrations, with the device's number in the fleet.
    pub(super) tokens: Vec<(u32, String)>,
}

impl Lights {
    pub(super) fn new(
        shared: Arc<Shared>,
        orders: mpsc::Receiver<Order>,
        gauges: Arc<Gauges>,
        first: u32,
        stride: u32,
    ) -> Self {
        let away = Device {
            conn: ConnId {
                slot: 0,
                generation: 0,
            },
            state: State::Away,
            attempts: 0,
        };
        let count = places(shared.devices, first, stride);
        Self {
            devices: vec![away; count as usize],
            handshakes_max: (shared.concurrency / stride).max(1),
            place_by_slot: Vec::new(),
            partial: HashMap::new(),
            backlog: HashMap::new(),
            begun: HashMap::new(),
            retries: VecDeque::new(),
            to_connect: 0..0,
            to_leave: 0..0,
            stopping: false,
            keep_alive: KeepAlive::new(shared.keep_alive),
            reader: Reader::new(shared.run),
            seen: Seen::default(),
            tally: Tally::new(count, shared.messages_max, shared.warm_up),
            connects: [Latencies::new(), Latencies::new()],
            tokens: Vec::new(),
            shared,
            orders,
            gauges,
            first,
            stride,
        }
    }

    /// A device's number in the fleet.
    pub(super) fn number(&self, place: u32) -> u32 {
        self.first + place * self.stride
    }

    /// The device that a connection belongs to; `None` for one that is over.
    fn place_of(&self, conn: ConnId) -> Option<u32> {
        let place = *self.place_by_slot.get(conn.slot as usize)?;
        let device = self.devices.get(place as usize)?;
        (device.conn == conn).then_some(place)
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Connect(devices) => {
                self.to_connect = 0..places(devices, self.first, self.stride)
            }
            Order::Leave(devices) => {
                self.to_connect = 0..0;
                self.retries.clear();
                self.to_leave = 0..places(devices, self.first, self.stride);
            }
            Order::Stop => {
                self.stopping = true;
                self.to_connect = 0..0;
                self.retries.clear();
                self.to_leave = 0..self.devices.len() as u32;
            }
        }
    }

    fn may_connect(&self) -> bool {
        self.begun.len() < self.handshakes_max as usize
    }

    /// Begins handshakes, as many as may be in progress.
    fn connect_some(&mut self, core: &mut ShardCore, now: Instant) {
        for _ in 0..STEPS_PER_TURN {
            if !self.may_connect() {
                return;
            }
            let place = match self.retries.front() {
                Some(&(at, place)) if at <= now => {
                    self.retries.pop_front();
                    place
                }
                _ => match self.to_connect.next() {
                    Some(place) => place,
                    None => return,
                },
            };
            if self.devices[place as usize].state == State::Away {
                self.connect(core, now, place);
            }
        }
    }

    fn connect(&mut self, core: &mut ShardCore, now: Instant, place: u32) {
        match core.connect(
            now,
            self.shared.broker,
            super::SERVER_NAME,
            &self.shared.client,
        ) {
            Ok(conn) => {
                let slot = conn.slot as usize;
                if self.place_by_slot.len() <= slot {
                    self.place_by_slot.resize(slot + 1, u32::MAX);
                }
                self.place_by_slot[slot] = place;
                let device = &mut self.devices[place as usize];
                device.conn = conn;
                device.state = State::Opening;
                self.begun.insert(place, now);
                self.seen.open += 1;
            }
            Err(error) => {
                self.shared
                    .complaints
                    .add(format!("a connection could not be begun: {error}"));
                self.devices[place as usize].state = State::Finished;
                self.seen.gave_up += 1;
            }
        }
    }

    /// Ends connections, a few each turn.
    fn leave_some(&mut self, core: &mut ShardCore) {
        for place in self.to_leave.by_ref().take(STEPS_PER_TURN as usize) {
            let device = &mut self.devices[place as usize];
            match device.state {
                State::Online => self.seen.online -= 1,
                state if state.is_arriving() => drop(self.begun.remove(&place)),
                _ => continue,
            }
            device.state = State::Leaving;
            core.close(device.conn, 0, b"");
        }
    }

    /// The opening of a session, as soon as the stream is there.
    fn open(&mut self, core: &mut ShardCore, place: u32) {
        let number = self.number(place);
        let registrations = &self.shared.registrations;
        let secret = registrations.secret(number);
        let opening = match registrations.token(number) {
            Some(token) => frames::hello(token, &secret, self.shared.topic.as_deref()),
            None => frames::register(&self.shared.project, &self.shared.app_key, &secret),
        };
        self.say(core, place, opening);
    }

    /// Sends, now or as soon as there is room.
    pub(super) fn say(&mut self, core: &mut ShardCore, place: u32, bytes: Bytes) {
        if let Some(waiting) = self.backlog.get_mut(&place) {
            waiting.push_back(bytes);
            return;
        }
        let conn = self.devices[place as usize].conn;
        if let Err(SendError::Full(bytes)) = core.send(conn, bytes) {
            self.backlog.insert(place, VecDeque::from([bytes]));
        }
    }

    fn go_on(&mut self, core: &mut ShardCore, place: u32) {
        for bytes in self.backlog.remove(&place).unwrap_or_default() {
            self.say(core, place, bytes);
        }
    }

    /// Says that quiet devices are still there. The one place that knows how.
    fn keep_alive(&mut self, core: &mut ShardCore, now: Instant) {
        let still_there = &self.shared.still_there;
        for place in self.keep_alive.due(now, self.devices.len() as u32) {
            let device = self.devices[place as usize];
            if device.state == State::Online {
                // Where there is no room, something is on its way that will do as well.
                let _ = core.send(device.conn, still_there.clone());
            }
        }
    }

    fn closed(&mut self, now: Instant, place: u32, reason: &CloseReason) {
        self.seen.open -= 1;
        self.partial.remove(&place);
        self.backlog.remove(&place);
        let device = &mut self.devices[place as usize];
        // Its connection may be another's soon.
        device.conn.generation = 0;
        match device.state {
            State::Leaving => device.state = State::Away,
            State::Away | State::Finished => {}
            State::Online => {
                device.state = State::Finished;
                self.seen.online -= 1;
                self.seen.cut_off += 1;
                self.shared
                    .complaints
                    .add(format!("a session was cut off: {reason}"));
            }
            State::Opening | State::Subscribing => {
                self.begun.remove(&place);
                device.attempts = device.attempts.saturating_add(1);
                if device.attempts >= ATTEMPTS_MAX {
                    device.state = State::Finished;
                    self.seen.gave_up += 1;
                    self.shared
                        .complaints
                        .add(format!("a device was given up: {reason}"));
                } else {
                    device.state = State::Away;
                    self.seen.retried += 1;
                    self.retries.push_back((now + PAUSE, place));
                }
            }
        }
    }
}

/// How many of the fleet's first `devices` one socket has.
fn places(devices: u32, first: u32, stride: u32) -> u32 {
    devices.saturating_sub(first).div_ceil(stride)
}

impl App for Lights {
    fn handle_event(&mut self, core: &mut ShardCore, now: Instant, event: Event) {
        let Some(place) = self.place_of(event.conn()) else {
            return;
        };
        match event {
            Event::Opened { .. } => self.open(core, place),
            Event::Bytes { bytes, .. } => self.hear(core, now, place, bytes),
            Event::Writable { .. } => self.go_on(core, place),
            Event::Closed { reason, .. } => self.closed(now, place, &reason),
        }
    }

    fn handle_turn(&mut self, core: &mut ShardCore, now: Instant) -> Turn {
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(mpsc::TryRecvError::Empty) => break,
                // The run is over, perhaps by a failure.
                Err(mpsc::TryRecvError::Disconnected) if self.stopping => break,
                Err(mpsc::TryRecvError::Disconnected) => self.obey(Order::Stop),
            }
        }
        self.leave_some(core);
        self.connect_some(core, now);
        self.seen.received = self.tally.received;
        self.gauges.show(self.seen);
        if self.stopping && self.to_leave.is_empty() {
            Turn::Stop
        } else if !self.to_leave.is_empty() || (!self.to_connect.is_empty() && self.may_connect()) {
            Turn::Busy
        } else {
            Turn::Idle
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let retry = self
            .retries
            .front()
            .filter(|_| self.may_connect())
            .map(|(at, _)| *at);
        [retry, self.keep_alive.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_timeout(&mut self, core: &mut ShardCore, now: Instant) {
        self.keep_alive(core, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_light() {
        let bytes = size_of::<Device>() + size_of::<u32>();
        assert!(
            bytes <= 16,
            "a device takes {bytes} bytes beside its connection and token"
        );
    }

    #[test]
    fn the_sockets_share_the_devices_without_a_rest() {
        for (devices, sockets) in [(1, 1), (7, 3), (64, 64), (5, 64), (1000, 64)] {
            let sum: u32 = (0..sockets)
                .map(|first| places(devices, first, sockets))
                .sum();
            assert_eq!(sum, devices, "{devices} over {sockets}");
        }
        assert_eq!(
            (places(10, 0, 4), places(10, 2, 4), places(10, 10, 11)),
            (3, 2, 0)
        );
    }
}
