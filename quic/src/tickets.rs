//! Stateless TLS session tickets (RFC 8446 §4.6.1) whose keys can be made again after a restart.
//!
//! The key of a day is derived from the persistent ticket key and the day's number (HKDF-SHA-256); tickets of today
//! and yesterday are accepted. So a ticket lives between one and two days, and nothing is stored. A ticket is
//! `day (4 bytes) ‖ nonce (12) ‖ AES-256-GCM(session, additional data = day) ‖ tag (16)`.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom, SystemRandom},
};
use rustls::server::ProducesTickets;

use crate::TransportKeys;

const DAY_SECS: u32 = 24 * 60 * 60;
const DAY_BYTES: usize = 4;
const HEADER_BYTES: usize = DAY_BYTES + NONCE_LEN;

/// A day, and its key.
type DayKey = (u32, Arc<LessSafeKey>);

/// Makes and opens tickets.
pub(crate) struct DayTickets {
    root: hkdf::Prk,
    random: SystemRandom,
    opened: AtomicU64,
    /// Keys made so far: of the two newest days asked for. Each shard has its own tickets, so that nobody waits for it.
    recent: Mutex<[Option<DayKey>; 2]>,
}

impl DayTickets {
    pub(crate) fn new(keys: &TransportKeys) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"petrel-quic session tickets v1");
        Self {
            root: salt.extract(keys.ticket()),
            random: SystemRandom::new(),
            opened: AtomicU64::new(0),
            recent: Mutex::default(),
        }
    }

    /// How many tickets were accepted so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    fn key(&self, day: u32) -> Option<Arc<LessSafeKey>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = recent.iter().flatten().find(|(of, _)| *of == day) {
            return Some(Arc::clone(key));
        }
        let key = Arc::new(self.derive(day)?);
        // `None` is below every day.
        if let Some(oldest) = recent
            .iter_mut()
            .min_by_key(|known| known.as_ref().map(|(of, _)| *of))
        {
            *oldest = Some((day, Arc::clone(&key)));
        }
        Some(key)
    }

    fn derive(&self, day: u32) -> Option<LessSafeKey> {
        let info = [b"day".as_slice(), &day.to_be_bytes()];
        let okm = self.root.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }

    fn seal(&self, today: u32, session: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = session.to_vec();
        // A random nonce of 96 bits is safe for 2^32 tickets of one key, and a key lives for one day.
        self.key(today)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(today.to_be_bytes()),
                &mut sealed,
            )
            .ok()?;
        Some([today.to_be_bytes().as_slice(), &nonce, &sealed].concat())
    }

    fn open(&self, today: u32, ticket: &[u8]) -> Option<Vec<u8>> {
        let (header, sealed) = ticket.split_at_checked(HEADER_BYTES)?;
        let (day, nonce) = header.split_at(DAY_BYTES);
        let day = u32::from_be_bytes(day.try_into().ok()?);
        if day != today && Some(day) != today.checked_sub(1) {
            return None;
        }
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce.try_into().ok()?);
        let len = self
            .key(day)?
            .open_in_place(nonce, Aad::from(day.to_be_bytes()), &mut session)
            .ok()?
            .len();
        session.truncate(len);
        Some(session)
    }
}

impl ProducesTickets for DayTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// One day: what a ticket made at the end of a day is sure to live.
    fn lifetime(&self) -> u32 {
        DAY_SECS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(today(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let session = self.open(today(), cipher)?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Some(session)
    }
}

impl fmt::Debug for DayTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DayTickets(…)")
    }
}

/// Days since 1970 by the wall clock: TLS calls back without telling the time.
fn today() -> u32 {
    let secs = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    u32::try_from(secs / u64::from(DAY_SECS)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn today_and_yesterday_are_accepted_and_no_other_day() {
        let keys = TransportKeys::generate();
        let ticket = DayTickets::new(&keys).seal(20_000, b"session").unwrap();
        // Another process with the same keys.
        let tickets = DayTickets::new(&keys);
        for (today, expect) in [
            (19_999, false),
            (20_000, true),
            (20_001, true),
            (20_002, false),
        ] {
            assert_eq!(
                tickets.open(today, &ticket).as_deref() == Some(b"session"),
                expect,
                "{today}"
            );
        }
        assert_eq!(
            DayTickets::new(&TransportKeys::generate()).open(20_000, &ticket),
            None
        );
    }

    /// In any order of days, also of a clock that is set back.
    #[test]
    fn every_day_has_its_own_key_however_often_it_was_asked_for() {
        let keys = TransportKeys::generate();
        let tickets = DayTickets::new(&keys);
        for day in [7, 8, 7, 9, 6, 8, 9, 6] {
            let ticket = tickets.seal(day, b"session").unwrap();
            let opened = DayTickets::new(&keys).open(day, &ticket);
            assert_eq!(opened.as_deref(), Some(b"session".as_slice()), "{day}");
            assert_eq!(tickets.open(day, &ticket), opened, "{day}");
        }
    }

    #[test]
    fn a_ticket_that_was_touched_or_cut_is_refused() {
        let tickets = DayTickets::new(&TransportKeys::generate());
        let ticket = tickets.seal(9, b"session").unwrap();
        for i in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[i] ^= 1;
            assert_eq!(tickets.open(9, &touched), None, "byte {i}");
            assert_eq!(tickets.open(9, &ticket[..i]), None, "cut to {i}");
        }
        assert_ne!(
            ticket,
            tickets.seal(9, b"session").unwrap(),
            "the nonce is new each time"
        );
    }

    #[test]
    fn only_accepted_tickets_are_counted() {
        let tickets = DayTickets::new(&TransportKeys::generate());
        let ticket = tickets.encrypt(b"session").unwrap();
        assert_eq!(
            tickets.decrypt(&ticket).as_deref(),
            Some(b"session".as_slice())
        );
        assert_eq!(tickets.decrypt(b"nonsense"), None);
        assert_eq!(tickets.opened(), 1);
    }
}
