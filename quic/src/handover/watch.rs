//! Follows a connection through its 1-RTT packets.
//!
//! quinn-proto drops repeated packets after they were decrypted, so everything here bears repetition. It also drops
//! 1-RTT packets that come before the handshake is complete; these are not looked at.

use quinn_proto::Side;

use super::{
    NotYet, Progress, RemoteId,
    ids::Ids,
    ledger::{Item, Ledger},
    numbers::Numbers,
    parameters::Declared,
    ranges::Ranges,
};
use crate::resident::{
    frame::{Ack, Frame, Stream},
    varint::Reader,
};

/// The one stream: the first bidirectional one of the client (RFC 9000 §2.1).
const STREAM: u64 = 0;

/// A limit that we told the peer.
#[derive(Debug)]
pub(super) struct Credit {
    pub(super) advertised: u64,
    acked: u64,
}

/// What was seen so far. Bounded: see [`Ledger`], [`Ranges`] and [`Ids`].
pub(super) struct Watch {
    side: Side,
    /// TLS is done: quinn-proto processes 1-RTT packets from here on.
    is_complete: bool,
    /// HANDSHAKE_DONE was acknowledged (server) or received (client).
    pub(super) is_confirmed: bool,

    pub(super) next_number: u64,
    pub(super) largest_acked: Option<u64>,
    /// The newest packet that elicits an acknowledgement, if it has got none.
    in_flight: Option<u64>,
    ledger: Ledger,
    pub(super) numbers: Numbers,
    is_ack_owed: bool,

    pub(super) sent_end: u64,
    sent_acked: Ranges,
    pub(super) received: Ranges,
    crypto_sent_end: u64,
    crypto_acked: Ranges,
    crypto_received: Ranges,

    pub(super) own_max_data: Credit,
    pub(super) own_max_stream_data: Credit,
    pub(super) peer_max_data: u64,
    pub(super) peer_max_stream_data: u64,
    pub(super) peer: Option<Declared>,
    pub(super) ids: Ids,

    tx_generation: u64,
    rx_generation: u64,
    /// The first packet that was sent in the generation `tx_generation`.
    pub(super) phase_first_number: u64,

    /// A PATH_CHALLENGE of ours without its response.
    challenge: Option<[u8; 8]>,
    /// A PATH_CHALLENGE of the peer without our response.
    is_response_owed: bool,
}

impl Credit {
    fn new(initial: u64) -> Self {
        Self {
            advertised: initial,
            acked: initial,
        }
    }

    fn is_open(&self) -> bool {
        self.acked < self.advertised
    }
}

impl Watch {
    /// From what we declare ourselves.
    pub(super) fn new(side: Side, own: &Declared) -> Result<Self, NotYet> {
        let id = own.initial_source_connection_id;
        let id = (*id).try_into().map_err(|_| NotYet::Untracked)?;
        let own_max_stream_data = match side {
            Side::Client => own.initial_max_stream_data_bidi_local,
            Side::Server => own.initial_max_stream_data_bidi_remote,
        };
        Ok(Self {
            side,
            is_complete: false,
            is_confirmed: false,
            next_number: 0,
            largest_acked: None,
            in_flight: None,
            ledger: Ledger::default(),
            numbers: Numbers::default(),
            is_ack_owed: false,
            sent_end: 0,
            sent_acked: Ranges::default(),
            received: Ranges::default(),
            crypto_sent_end: 0,
            crypto_acked: Ranges::default(),
            crypto_received: Ranges::default(),
            own_max_data: Credit::new(own.initial_max_data),
            own_max_stream_data: Credit::new(own_max_stream_data),
            peer_max_data: 0,
            peer_max_stream_data: 0,
            peer: None,
            ids: Ids::new(id),
            tx_generation: 0,
            rx_generation: 0,
            phase_first_number: 0,
            challenge: None,
            is_response_owed: false,
        })
    }

    /// The peer's transport parameters are known. quinn-proto compares the connection ID in them with that of the
    /// peer's first packet (RFC 9000 §7.3).
    pub(super) fn peer_declared(&mut self, peer: Declared) {
        let stream_limit = match self.side {
            Side::Client => peer.initial_max_stream_data_bidi_remote,
            Side::Server => peer.initial_max_stream_data_bidi_local,
        };
        self.peer_max_data = self.peer_max_data.max(peer.initial_max_data);
        self.peer_max_stream_data = self.peer_max_stream_data.max(stream_limit);
        self.ids.begin_remote(RemoteId {
            sequence: 0,
            id: peer.initial_source_connection_id,
            token: peer.stateless_reset_token,
        });
        self.peer = Some(peer);
    }

    pub(super) fn tls_complete(&mut self) {
        self.is_complete = true;
    }

    /// A packet goes out to the peer's ID `remote_id`. `Err` means that the connection will never be handed over.
    pub(super) fn sealed(
        &mut self,
        generation: u64,
        number: u64,
        remote_id: &[u8],
        payload: &[u8],
    ) -> Result<(), NotYet> {
        self.next_number = number + 1;
        if generation > self.tx_generation {
            self.tx_generation = generation;
            self.phase_first_number = number;
        }
        self.ids.used(remote_id);
        let mut elicits_ack = false;
        let mut challenge = None;
        let mut is_off_path = true;
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let frame = Frame::read(&mut reader).map_err(|_| NotYet::Untracked)?;
            match frame {
                // Not sent again if lost, and maybe sent beside the path: they do not count as in flight.
                Frame::PathChallenge(token) => challenge = Some(token),
                Frame::PathResponse(_) => self.is_response_owed = false,
                _ => elicits_ack |= frame.elicits_ack(),
            }
            is_off_path &= matches!(frame, Frame::Padding | Frame::PathResponse(_));
            self.frame_sent(number, &frame)?;
        }
        // Until a path is validated, quinn-proto repeats its challenge in every packet that it sends there. So one
        // without means that it succeeded or was given up.
        if !is_off_path {
            self.challenge = challenge;
        }
        if elicits_ack {
            self.in_flight = Some(number);
        }
        Ok(())
    }

    fn frame_sent(&mut self, number: u64, frame: &Frame<'_>) -> Result<(), NotYet> {
        let item = match frame {
            Frame::Ack(_) => {
                // quinn-proto acknowledges all it has received at once.
                self.is_ack_owed = false;
                return Ok(());
            }
            Frame::Stream(stream) => {
                let (start, end) = stream_bytes(stream)?;
                self.sent_end = self.sent_end.max(end);
                Item::Stream { start, end }
            }
            Frame::Crypto { offset, data } => {
                let end = offset + data.len() as u64;
                self.crypto_sent_end = self.crypto_sent_end.max(end);
                Item::Crypto {
                    start: *offset,
                    end,
                }
            }
            Frame::HandshakeDone => Item::HandshakeDone,
            Frame::NewConnectionId(new) => {
                self.ids.issued(new)?;
                Item::NewId(new.sequence)
            }
            Frame::RetireConnectionId(sequence) => {
                self.ids.retired(*sequence)?;
                Item::RetireId(*sequence)
            }
            Frame::MaxData(limit) => {
                let advertised = &mut self.own_max_data.advertised;
                *advertised = (*advertised).max(*limit);
                Item::MaxData(*limit)
            }
            Frame::MaxStreamData { stream, limit } => {
                only_the_stream(*stream)?;
                let advertised = &mut self.own_max_stream_data.advertised;
                *advertised = (*advertised).max(*limit);
                Item::MaxStreamData(*limit)
            }
            other => return ends_observation(other).map_or(Ok(()), Err),
        };
        self.ledger
            .note(number, item)
            .map_err(|_| NotYet::Untracked)
    }

    /// A packet was authenticated. `Err` means that the connection will never be handed over.
    pub(super) fn opened(
        &mut self,
        generation: u64,
        number: u64,
        payload: &[u8],
    ) -> Result<(), NotYet> {
        if !self.is_complete || !self.numbers.insert(number) {
            return Ok(());
        }
        self.rx_generation = self.rx_generation.max(generation);
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let frame = Frame::read(&mut reader).map_err(|_| NotYet::Untracked)?;
            self.is_ack_owed |= frame.elicits_ack();
            self.frame_received(&frame)?;
        }
        Ok(())
    }

    fn frame_received(&mut self, frame: &Frame<'_>) -> Result<(), NotYet> {
        match frame {
            Frame::Ack(ack) => self.ack_received(ack)?,
            Frame::Stream(stream) => {
                let (start, end) = stream_bytes(stream)?;
                insert(&mut self.received, start, end)?;
            }
            Frame::Crypto { offset, data } => {
                insert(
                    &mut self.crypto_received,
                    *offset,
                    offset + data.len() as u64,
                )?;
            }
            Frame::HandshakeDone => self.is_confirmed |= self.side == Side::Client,
            Frame::NewConnectionId(new) => self.ids.offered(new)?,
            Frame::RetireConnectionId(sequence) => self.ids.retired_by_peer(*sequence)?,
            Frame::MaxData(limit) => self.peer_max_data = self.peer_max_data.max(*limit),
            Frame::MaxStreamData { stream, limit } => {
                only_the_stream(*stream)?;
                self.peer_max_stream_data = self.peer_max_stream_data.max(*limit);
            }
            Frame::PathChallenge(_) => self.is_response_owed = true,
            Frame::PathResponse(token) if self.challenge == Some(*token) => self.challenge = None,
            other => return ends_observation(other).map_or(Ok(()), Err),
        }
        Ok(())
    }

    fn ack_received(&mut self, ack: &Ack<'_>) -> Result<(), NotYet> {
        self.largest_acked = self.largest_acked.max(Some(ack.largest));
        let is_acked = |number| ack.ranges().any(|(from, to)| (from..=to).contains(&number));
        self.in_flight = self.in_flight.filter(|&number| !is_acked(number));
        for item in self.ledger.acknowledge(ack) {
            match item {
                Item::Stream { start, end } => insert(&mut self.sent_acked, start, end)?,
                Item::Crypto { start, end } => insert(&mut self.crypto_acked, start, end)?,
                Item::HandshakeDone => self.is_confirmed |= self.side == Side::Server,
                Item::NewId(sequence) => self.ids.issue_acked(sequence),
                Item::RetireId(sequence) => self.ids.retire_acked(sequence),
                Item::MaxData(limit) => {
                    self.own_max_data.acked = self.own_max_data.acked.max(limit);
                }
                Item::MaxStreamData(limit) => {
                    self.own_max_stream_data.acked = self.own_max_stream_data.acked.max(limit);
                }
            }
        }
        let mut ledger = std::mem::take(&mut self.ledger);
        ledger.forget(|item| self.is_open(item));
        self.ledger = ledger;
        Ok(())
    }

    /// Whether an item that was sent still has to reach the peer.
    fn is_open(&self, item: Item) -> bool {
        match item {
            Item::Stream { start, end } => !self.sent_acked.contains(start, end),
            Item::Crypto { start, end } => !self.crypto_acked.contains(start, end),
            Item::HandshakeDone => !self.is_confirmed,
            Item::NewId(sequence) => self.ids.is_issue_open(sequence),
            Item::RetireId(sequence) => self.ids.is_retire_open(sequence),
            Item::MaxData(limit) => limit > self.own_max_data.acked,
            Item::MaxStreamData(limit) => limit > self.own_max_stream_data.acked,
        }
    }

    pub(super) fn is_path_open(&self) -> bool {
        self.challenge.is_some() || self.is_response_owed
    }

    pub(super) fn is_crypto_open(&self) -> bool {
        self.crypto_acked.prefix() < self.crypto_sent_end || self.crypto_received.has_gap()
    }

    pub(super) fn is_phase_acked(&self) -> bool {
        self.largest_acked >= Some(self.phase_first_number)
    }

    /// Whether nothing is under way on a confirmed connection. `generation` is the one that quinn-proto uses.
    pub(super) fn is_quiet(&self, generation: u64, progress: Progress) -> Result<(), NotYet> {
        let reasons = [
            (
                self.tx_generation != generation
                    || self.rx_generation != generation
                    || !self.is_phase_acked(),
                NotYet::KeyUpdate,
            ),
            (
                self.own_max_data.is_open() || self.own_max_stream_data.is_open(),
                NotYet::Credit,
            ),
            (self.sent_end != progress.written, NotYet::Unsent),
            (self.sent_acked.prefix() < self.sent_end, NotYet::Unacked),
            (self.received.prefix() != progress.read, NotYet::Unread),
            (self.received.has_gap(), NotYet::Gap),
            (self.in_flight.is_some(), NotYet::InFlight),
            (self.is_ack_owed, NotYet::AckOwed),
        ];
        let first = reasons.into_iter().find(|(applies, _)| *applies);
        first.map_or(Ok(()), |(_, reason)| Err(reason))
    }

    /// The key generation, if both directions have arrived in it and the peer acknowledged that.
    #[cfg(test)]
    pub(super) fn settled_generation(&self) -> Option<u64> {
        let is_settled = self.tx_generation == self.rx_generation && self.is_phase_acked();
        is_settled.then_some(self.tx_generation)
    }

    #[cfg(test)]
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

fn stream_bytes(stream: &Stream<'_>) -> Result<(u64, u64), NotYet> {
    only_the_stream(stream.id)?;
    if stream.is_last {
        return Err(NotYet::Streams);
    }
    Ok((stream.offset, stream.end()))
}

fn only_the_stream(id: u64) -> Result<(), NotYet> {
    if id == STREAM {
        Ok(())
    } else {
        Err(NotYet::Streams)
    }
}

fn insert(ranges: &mut Ranges, start: u64, end: u64) -> Result<(), NotYet> {
    ranges.insert(start, end).map_err(|_| NotYet::Untracked)
}

/// Frames that mean the same in both directions: most of them nothing.
fn ends_observation(frame: &Frame<'_>) -> Option<NotYet> {
    match frame {
        Frame::ResetStream { .. } | Frame::StopSending { .. } => Some(NotYet::Streams),
        Frame::Close { .. } => Some(NotYet::Closing),
        // A lost NEW_TOKEN is not sent again after a hand-over. It would only have saved a Retry.
        _ => None,
    }
}
