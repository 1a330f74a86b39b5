//! What a connection is while it rests.
//!
//! A [`Record`] holds what every packet touches, a [`Cold`] box what few do, and an [`Active`] box what is under way.
//! The last one goes back to a pool as soon as nothing is.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{
    active::Active,
    frame::{CID_BYTES_MAX, RESET_TOKEN_BYTES},
    protect::{HeaderKey, PacketKey, Secret},
    rtt::Rtt,
    window::Received,
};
use crate::cid::CID_BYTES;

/// A connection ID of our own.
pub(crate) type LocalId = [u8; CID_BYTES];

/// Proof that a peer has lost its state (RFC 9000 §10.3).
pub(crate) type ResetToken = [u8; RESET_TOKEN_BYTES];

/// The keys of one direction: 76 bytes.
pub(super) struct Direction {
    pub(super) key: PacketKey,
    pub(super) header: HeaderKey,
    /// Of the current key phase; the next one is derived from it.
    pub(super) secret: Secret,
}

impl Direction {
    pub(super) fn new(secret: Secret, header: HeaderKey) -> Self {
        Self {
            key: secret.packet_key(),
            header,
            secret,
        }
    }

    fn touch(&self) -> u8 {
        self.key.touch() ^ self.header.touch()
    }

    /// Goes on to the next key phase (RFC 9001 §6.1), and gives back the key of the last one.
    pub(super) fn update(&mut self) -> PacketKey {
        self.secret = self.secret.next();
        std::mem::replace(&mut self.key, self.secret.packet_key())
    }
}

/// An address in 18 bytes; IPv4 in its mapped form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    ip: [u8; 16],
    port: [u8; 2],
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self {
            ip: mapped(addr.ip()),
            port: addr.port().to_be_bytes(),
        }
    }
}

impl From<Address> for SocketAddr {
    fn from(addr: Address) -> Self {
        let ip = Ipv6Addr::from(addr.ip).to_canonical();
        Self::new(ip, u16::from_be_bytes(addr.port))
    }
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// We closed it, and answer what still comes with the close (RFC 9000 §10.2.1).
    Closing,
    /// The peer closed it; nothing is sent any more (RFC 9000 §10.2.2).
    Draining,
}

/// One connection at rest: at most 256 bytes.
pub(crate) struct Record {
    pub(super) tx: Direction,
    pub(super) rx: Direction,
    /// Numbers of packets received.
    pub(super) received: Received,
    /// Number of the next packet sent.
    pub(super) next_number: u64,
    /// Where the stream goes on, while there is no [`Active`].
    pub(super) send_offset: u64,
    /// Bytes of the stream handed to the application.
    pub(super) recv_offset: u64,
    /// What is under way, if anything.
    pub(super) active: Option<Box<Active>>,
    pub(super) cold: Box<Cold>,
    /// The ID that the peer uses.
    pub(super) local_id: LocalId,
    /// When the idle timer was last restarted, in ticks of the engine.
    pub(super) restarted: u32,
    pub(super) remote: Address,
    pub(super) state: State,
    pub(super) is_client: bool,
    /// The key phase bit of both directions (RFC 9001 §6).
    pub(super) key_phase: bool,
    /// The peer has acknowledged a packet of this key phase.
    pub(super) is_phase_acked: bool,
    /// An ack-eliciting packet was sent since the last one was received (RFC 9000 §10.1).
    pub(super) has_sent_since: bool,
    /// A `send` was turned away: tell when there is room.
    pub(super) wants_writable: bool,
    /// The application wants no bytes now.
    pub(super) is_paused: bool,
}

/// A connection ID of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RemoteId {
    pub(crate) sequence: u32,
    length: u8,
    bytes: [u8; CID_BYTES_MAX],
    has_token: bool,
    token: ResetToken,
}

impl RemoteId {
    /// An ID of at most [`CID_BYTES_MAX`] bytes; a longer one would be cut.
    pub(crate) fn new(sequence: u32, id: &[u8], token: Option<ResetToken>) -> Self {
        let length = id.len().min(CID_BYTES_MAX);
        let mut bytes = [0; CID_BYTES_MAX];
        bytes[..length].copy_from_slice(&id[..length]);
        Self {
            sequence,
            length: length as u8,
            bytes,
            has_token: token.is_some(),
            token: token.unwrap_or_default(),
        }
    }

    pub(crate) fn id(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub(crate) fn token(&self) -> Option<&ResetToken> {
        self.has_token.then_some(&self.token)
    }
}

/// A connection ID of ours beside the one in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SpareId {
    pub(super) sequence: u32,
    pub(super) id: LocalId,
}

/// What few packets touch.
pub(crate) struct Cold {
    /// Limits that the peer gave us: of the connection and of the stream (RFC 9000 §4.1).
    pub(super) peer_max_data: u64,
    pub(super) peer_max_stream_data: u64,
    /// The limit that we gave the peer, the same for both, since one stream is all there is.
    pub(super) own_max_data: u64,
    /// Largest packet number that the peer acknowledged.
    pub(super) largest_acked: Option<u64>,
    /// Number of the first packet sent in this key phase.
    pub(super) phase_first: u64,
    pub(super) rtt: Rtt,
    /// Congestion window for the next burst.
    pub(super) window: u32,
    pub(super) idle_timeout_ms: u32,
    /// The peer's max_ack_delay.
    pub(super) peer_ack_delay_us: u32,
    /// Packets that could not be opened (RFC 9001 §6.6).
    pub(super) forged: u32,
    pub(super) local_sequence: u32,
    pub(super) next_local_sequence: u32,
    pub(super) spare_local: Option<SpareId>,
    pub(super) remote_id: RemoteId,
    pub(super) spare_remote: Option<RemoteId>,
    /// IDs of the peer below this are retired.
    pub(super) retire_prior_to: u32,
    /// The next sequence number of an ID of the peer that was not seen yet.
    pub(super) next_remote_sequence: u32,
    /// The address that the peer reaches us at; all zero if the system does not tell.
    local_ip: [u8; 16],
    pub(super) peer_ack_delay_exponent: u8,
}

impl Cold {
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        let ip = Ipv6Addr::from(self.local_ip);
        (!ip.is_unspecified()).then(|| ip.to_canonical())
    }

    pub(super) fn set_local_ip(&mut self, ip: Option<IpAddr>) {
        self.local_ip = ip.map_or([0; 16], mapped);
    }

    fn touch(&self) -> u64 {
        let id = u64::from(self.remote_id.length) ^ u64::from(self.local_ip[0]);
        self.peer_max_data ^ self.phase_first ^ u64::from(self.rtt.smoothed_us) ^ id
    }

    /// How far the peer lets the stream go.
    pub(super) fn credit(&self) -> u64 {
        self.peer_max_data.min(self.peer_max_stream_data)
    }

    pub(super) fn probe_timeout_us(&self) -> u64 {
        self.rtt.probe_timeout_us(u64::from(self.peer_ack_delay_us))
    }
}

impl Record {
    /// Size of the box that every record has.
    pub(crate) const COLD_BYTES: u64 = size_of::<Cold>() as u64;

    /// Takes a connection over.
    pub(crate) fn new(taken: crate::handover::Handover, place: Place) -> Self {
        let sequence = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let remote =
            |id: &crate::handover::RemoteId| RemoteId::new(sequence(id.sequence), &id.id, id.token);
        let mut local = taken.local_ids.iter();
        let (local_sequence, local_id) = local.next().copied().unwrap_or_default();
        let remote_id = remote(&taken.remote_id);
        let spare_remote = taken.spare_remote_id.as_ref().map(remote);
        let mut cold = Cold {
            peer_max_data: taken.peer_max_data,
            peer_max_stream_data: taken.peer_max_stream_data,
            own_max_data: taken.own_max_data.min(taken.own_max_stream_data),
            largest_acked: taken.largest_acked,
            phase_first: taken.phase_first_number,
            rtt: Rtt::from_sample(u32::try_from(place.rtt.as_micros()).unwrap_or(u32::MAX)),
            window: super::recovery::INITIAL_WINDOW,
            idle_timeout_ms: place.idle_timeout_ms,
            peer_ack_delay_us: u32::try_from(taken.peer.max_ack_delay.as_micros())
                .unwrap_or(u32::MAX),
            forged: 0,
            local_sequence: sequence(local_sequence),
            next_local_sequence: sequence(taken.next_local_sequence),
            spare_local: local.next().map(|&(number, id)| SpareId {
                sequence: sequence(number),
                id,
            }),
            next_remote_sequence: spare_remote
                .map_or(remote_id.sequence, |s| s.sequence.max(remote_id.sequence))
                .saturating_add(1),
            remote_id,
            spare_remote,
            retire_prior_to: sequence(taken.retire_prior_to),
            local_ip: [0; 16],
            peer_ack_delay_exponent: taken.peer.ack_delay_exponent,
        };
        cold.set_local_ip(place.local_ip);
        Self {
            tx: Direction::new(taken.tx_secret, taken.tx_header_key),
            rx: Direction::new(taken.rx_secret, taken.rx_header_key),
            received: Received {
                largest: taken.received_largest,
                mask: taken.received_mask,
            },
            next_number: taken.next_number,
            send_offset: taken.send_offset,
            recv_offset: taken.recv_offset,
            active: None,
            cold: Box::new(cold),
            local_id,
            restarted: place.now_ticks,
            remote: place.remote.into(),
            state: State::Open,
            is_client: taken.role.is_client(),
            key_phase: taken.key_phase,
            is_phase_acked: taken.is_phase_acked,
            has_sent_since: false,
            wants_writable: place.wants_writable,
            is_paused: place.is_paused,
        }
    }

    /// Reads a little of everything that serving it takes. Nobody looks at the result.
    ///
    /// Most of hundreds of thousands of connections are in no cache. Done for several before the first of them is served,
    /// this waits for the memory of all of them at once.
    pub(crate) fn touch(&self) -> u64 {
        let keys = [&self.tx, &self.rx].map(|direction| u64::from(direction.touch()));
        let active = self.active.as_deref().map_or(0, Active::touch);
        let own = self.received.mask ^ self.next_number ^ u64::from(self.restarted);
        keys[0] ^ keys[1] ^ own ^ self.cold.touch() ^ active
    }

    /// The address that the peer reaches us at, where the system tells.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.cold.local_ip()
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote.into()
    }

    /// The peer may address it by these.
    pub(crate) fn local_ids(&self) -> impl Iterator<Item = LocalId> {
        let spare = self.cold.spare_local.map(|spare| spare.id);
        std::iter::once(self.local_id).chain(spare)
    }

    pub(crate) fn has_local_id(&self, id: LocalId) -> bool {
        self.local_id == id || self.cold.spare_local.is_some_and(|spare| spare.id == id)
    }

    /// The tokens by which the peer may say that it has lost its state: at most one, since those of IDs that were not
    /// used yet, or are retired, must not be looked at (RFC 9000 §10.3.1).
    pub(crate) fn reset_tokens(&self) -> impl Iterator<Item = ResetToken> {
        self.cold.remote_id.token().copied().into_iter()
    }

    /// Whether this is such a token, found out in the same time for every wrong one (RFC 9000 §10.3.1).
    pub(crate) fn is_reset_token(&self, token: &ResetToken) -> bool {
        self.cold.remote_id.token().is_some_and(|known| {
            let difference = known.iter().zip(token).fold(0, |d, (a, b)| d | (a ^ b));
            std::hint::black_box(difference) == 0
        })
    }

    pub(super) fn max_data_end(&self) -> u64 {
        self.cold.own_max_data
    }
}

/// What a record is made with beside the state of the connection.
pub(crate) struct Place {
    pub(crate) remote: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) rtt: std::time::Duration,
    /// The smaller one of both sides (RFC 9000 §10.1).
    pub(crate) idle_timeout_ms: u32,
    pub(crate) now_ticks: u32,
    pub(crate) is_paused: bool,
    pub(crate) wants_writable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resting_connection_keeps_within_its_budget() {
        assert!(size_of::<Record>() <= 256, "{}", size_of::<Record>());
        assert!(size_of::<Cold>() <= 224, "{}", size_of::<Cold>());
    }

    #[test]
    fn addresses_come_back() {
        for text in ["10.1.2.3:4433", "[2001:db8::7]:1", "[::1]:65535"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Address::from(addr)), addr);
        }
    }
}
