//! What is known about one connection, and the question whether it can be handed over.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use quinn_proto::Side;

use super::{
    Handover, NotYet, PeerParameters, Progress,
    generations::{Generations, Pair},
    parameters::Declared,
    secrets::TrafficSecrets,
    watch::Watch,
};
use crate::resident::protect::{HeaderKey, PacketKey};

/// Follows one connection as long as quinn-proto serves it.
pub(crate) struct Tap {
    side: Side,
    /// From the moment when 1-RTT keys are made.
    generations: Option<Generations>,
    /// When the connection can never be handed over any more, only the reason is left.
    watch: Result<Watch, NotYet>,
}

/// A tap is held by its session, its packet keys and its shard, all of which run on one thread: the lock is there
/// because quinn-proto asks for `Sync`, and nobody ever waits for it.
#[derive(Clone)]
pub(crate) struct SharedTap(Arc<Mutex<Tap>>);

impl SharedTap {
    pub(super) fn new(side: Side, own: Option<&Declared>) -> Self {
        let watch = own
            .ok_or(NotYet::Untracked)
            .and_then(|own| Watch::new(side, own));
        Self(Arc::new(Mutex::new(Tap {
            side,
            generations: None,
            watch,
        })))
    }

    /// Never waits. After a panic in the midst of it, a tap is not to be trusted.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Tap> {
        self.0.lock().unwrap_or_else(|poisoned| {
            let mut tap = poisoned.into_inner();
            tap.give_up(NotYet::Untracked);
            tap
        })
    }
}

impl Tap {
    /// Everything that the resident engine goes on with, if the connection is quiet.
    ///
    /// To be asked when quinn-proto has nothing to transmit. On `Ok` the packet numbers from `next_number` on belong to
    /// the caller: it must send nothing more with quinn-proto, tell the endpoint to forget the connection, and drop it.
    /// Asked again, the tap answers [`NotYet::Closing`].
    ///
    /// # Errors
    ///
    /// The first reason why it is too early; see [`NotYet::is_final`].
    pub(crate) fn take(&mut self, progress: Progress) -> Result<Handover, NotYet> {
        let watch = self.watch.as_ref().map_err(|&reason| reason)?;
        let (Some(generations), Some(peer), true) =
            (&self.generations, &watch.peer, watch.is_confirmed)
        else {
            return Err(NotYet::Handshake);
        };
        if watch.is_path_open() {
            return Err(NotYet::Path);
        }
        if watch.is_crypto_open() {
            return Err(NotYet::Crypto);
        }
        let local_ids = watch.ids.settled_local()?;
        let (remote_id, spare_remote_id) = watch.ids.settled_remote()?;
        watch.is_quiet(generations.current(), progress)?;
        // Confirmation itself took a packet.
        let (received_largest, received_mask) = watch.numbers.newest().ok_or(NotYet::Handshake)?;
        let header = generations.header_keys();
        let handover = Handover {
            role: self.side,
            tx_secret: generations.tx().clone(),
            rx_secret: generations.rx().clone(),
            tx_header_key: header.tx,
            rx_header_key: header.rx,
            key_phase: generations.current() % 2 == 1,
            phase_first_number: watch.phase_first_number,
            is_phase_acked: watch.is_phase_acked(),
            next_number: watch.next_number,
            largest_acked: watch.largest_acked,
            received_largest,
            received_mask,
            local_ids,
            next_local_sequence: watch.ids.next_local(),
            remote_id,
            spare_remote_id,
            retire_prior_to: watch.ids.retire_prior_to(),
            send_offset: watch.sent_end,
            recv_offset: watch.received.prefix(),
            peer_max_data: watch.peer_max_data,
            peer_max_stream_data: watch.peer_max_stream_data,
            own_max_data: watch.own_max_data.advertised,
            own_max_stream_data: watch.own_max_stream_data.advertised,
            peer: peer.into(),
        };
        self.give_up(NotYet::Closing);
        Ok(handover)
    }

    /// TLS has made 1-RTT secrets; these are the first packet keys, and the header keys.
    pub(super) fn install(
        &mut self,
        secrets: TrafficSecrets,
    ) -> (Pair<PacketKey>, Pair<HeaderKey>) {
        let generations = Generations::new(self.side, secrets);
        let keys = (generations.first(), generations.header_keys());
        self.generations = Some(generations);
        keys
    }

    /// The keys after those in use, and the number of their generation. `None` before [`install`](Self::install).
    pub(super) fn next_keys(&mut self) -> Option<(u64, Pair<PacketKey>)> {
        self.generations.as_mut().map(Generations::next)
    }

    /// Notes why the connection can never be handed over, and frees what is not needed any more.
    ///
    /// The secrets stay: quinn-proto goes on and may update its keys.
    pub(super) fn give_up(&mut self, reason: NotYet) {
        self.watch = Err(reason);
    }

    pub(super) fn peer_declared(&mut self, peer: Option<Declared>) {
        match peer {
            Some(peer) => self.with_watch(|watch| {
                watch.peer_declared(peer);
                Ok(())
            }),
            None => self.give_up(NotYet::Untracked),
        }
    }

    pub(super) fn tls_complete(&mut self) {
        self.with_watch(|watch| {
            watch.tls_complete();
            Ok(())
        });
    }

    pub(super) fn sealed(
        &mut self,
        generation: u64,
        number: u64,
        remote_id: &[u8],
        payload: &[u8],
    ) {
        self.with_watch(|watch| watch.sealed(generation, number, remote_id, payload));
    }

    pub(super) fn opened(&mut self, generation: u64, number: u64, payload: &[u8]) {
        self.with_watch(|watch| watch.opened(generation, number, payload));
    }

    fn with_watch(&mut self, see: impl FnOnce(&mut Watch) -> Result<(), NotYet>) {
        if let Ok(watch) = &mut self.watch
            && let Err(reason) = see(watch)
        {
            self.give_up(reason);
        }
    }

    #[cfg(test)]
    pub(super) fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref().ok()
    }
}

impl From<&Declared> for PeerParameters {
    fn from(declared: &Declared) -> Self {
        Self {
            // quinn-proto refuses more than 20 (RFC 9000 §18.2).
            ack_delay_exponent: u8::try_from(declared.ack_delay_exponent).unwrap_or(u8::MAX),
            max_ack_delay: declared.max_ack_delay,
            max_udp_payload: u16::try_from(declared.max_udp_payload_size).unwrap_or(u16::MAX),
            max_idle_timeout: declared.max_idle_timeout,
            active_connection_id_limit: declared.active_connection_id_limit,
        }
    }
}

impl fmt::Debug for SharedTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedTap(…)")
    }
}
