//! Every [`NotYet`] that passes is reached, and passes.

use std::{net::SocketAddr, time::Duration};

use quinn_proto::Side;

use super::{
    pair::{Pair, WINDOW},
    tls::Tls,
};
use crate::handover::{NotYet, OWN_MAX_ACK_DELAY, ledger::Item, tap::Tap};

pub(super) const SHORT: Duration = Duration::from_millis(15);
pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) fn opened() -> Pair {
    let mut pair = Pair::new();
    pair.open();
    pair
}

/// Both ends come to rest and can be handed over.
fn settles(mut pair: Pair) {
    pair.run(LONG);
    for side in [Side::Client, Side::Server] {
        if let Err(reason) = pair.end(side).take() {
            panic!("{side:?}: {reason}");
        }
    }
}

/// Loses the first packet of `from` with an item that fits.
fn lose_first(pair: &mut Pair, from: Side, mut fits: impl FnMut(&Item) -> bool + 'static) {
    let mut is_lost = false;
    pair.drops = Box::new(move |side, items| {
        let hit = !is_lost && side == from && items.iter().any(&mut fits);
        is_lost |= hit;
        hit
    });
}

#[test]
fn before_the_handshake() {
    let mut pair = Pair::new();
    assert_eq!(pair.client.reason(), NotYet::Handshake);
    pair.run(SHORT);
    assert_eq!(pair.server.reason(), NotYet::Handshake);
    settles(pair);
}

#[test]
fn handshake_done_is_lost() {
    let mut pair = Pair::new();
    lose_first(&mut pair, Side::Server, |item| *item == Item::HandshakeDone);
    pair.run(Duration::from_millis(45));
    assert!(pair.client.is_connected && pair.server.is_connected);
    assert_eq!(pair.client.reason(), NotYet::Handshake);
    assert_eq!(pair.server.reason(), NotYet::Handshake);
    settles(pair);
}

#[test]
fn a_ticket_is_lost() {
    let mut tls = Tls::new();
    // Enough for several packets.
    tls.server.send_tls13_tickets = 16;
    let mut pair = Pair::with(&tls);
    let mut is_lost = false;
    pair.drops = Box::new(move |_, items| {
        let hit = !is_lost && matches!(items, [Item::Crypto { start: 1.., .. }]);
        is_lost |= hit;
        hit
    });
    // First the client misses it, then the server learns so.
    for side in [Side::Client, Side::Server] {
        while pair.end(side).reason() != NotYet::Crypto {
            pair.run(Duration::from_millis(1));
        }
    }
    settles(pair);
}

#[test]
fn a_new_connection_id_is_lost() {
    for side in [Side::Client, Side::Server] {
        let mut pair = Pair::new();
        let mut losses = 0;
        pair.drops = Box::new(move |from, items| {
            let hit = from == side && items.iter().any(|item| matches!(item, Item::NewId(_)));
            losses += u32::from(hit);
            hit && losses <= 3
        });
        settles(pair);
    }
}

#[test]
fn a_retirement_is_lost() {
    for side in [Side::Client, Side::Server] {
        let mut pair = opened();
        lose_first(&mut pair, side, |item| matches!(item, Item::RetireId(_)));
        // Makes quinn-proto use the peer's spare ID.
        pair.end(side).conn().local_address_changed();
        pair.run(2 * SHORT);
        assert_eq!(pair.end(side).reason(), NotYet::RemoteIds);
        settles(pair);
    }
}

#[test]
fn a_path_is_validated() {
    let mut pair = opened();
    pair.client_at = SocketAddr::from(([192, 0, 2, 77], 5));
    pair.client.write(b"moved");
    let mut answers = 0;
    pair.drops = Box::new(move |from, _| {
        answers += u32::from(from == Side::Client);
        from == Side::Client && (2..4).contains(&answers)
    });
    for _ in 0..3 {
        pair.run(SHORT);
        assert_eq!(pair.server.reason(), NotYet::Path);
    }
    settles(pair);
}

#[test]
fn a_challenge_of_the_peer_awaits_its_response() {
    const CHALLENGE: &[u8] = &[0x1a, 1, 2, 3, 4, 5, 6, 7, 8];
    const RESPONSE: &[u8] = &[0x1b, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut pair = opened();
    let (next, id) = (1_000, &[0x40; 8]);
    let tap = pair.server.tap.clone().unwrap();
    tap.lock().opened(0, next, CHALLENGE);
    assert_eq!(pair.server.reason(), NotYet::Path);
    tap.lock().sealed(0, next, id, RESPONSE);
    assert_eq!(pair.server.reason(), NotYet::AckOwed);
    // Of ours: another response does not count, nor does an answer beside the path end it.
    tap.lock().sealed(0, next + 1, id, CHALLENGE);
    tap.lock().sealed(0, next + 2, id, RESPONSE);
    tap.lock().opened(0, next + 1, &[0x1b; 9]);
    assert_eq!(pair.server.reason(), NotYet::Path);
    tap.lock().opened(0, next + 2, RESPONSE);
    assert_eq!(pair.server.reason(), NotYet::AckOwed);
}

#[test]
fn a_path_that_cannot_be_validated_is_given_up() {
    let mut pair = opened();
    let home = pair.client_at;
    pair.client_at = SocketAddr::from(([192, 0, 2, 77], 5));
    pair.client.write(b"moved");
    pair.drops = Box::new(|from, _| from == Side::Server);
    pair.run(SHORT);
    assert_eq!(pair.server.reason(), NotYet::Path);
    pair.client_at = home;
    pair.run(Duration::from_secs(3));
    pair.drops = Box::new(|_, _| false);
    pair.client.write(b"back");
    pair.server.write(b"welcome back");
    settles(pair);
}

#[test]
fn a_new_connection_id_of_ours_is_not_acknowledged() {
    for side in [Side::Client, Side::Server] {
        let mut pair = opened();
        lose_first(&mut pair, side, |item| matches!(item, Item::NewId(_)));
        // The other end moves on to our spare ID, and is given another.
        pair.end(!side).conn().local_address_changed();
        pair.run(SHORT);
        assert_eq!(pair.end(side).reason(), NotYet::LocalIds);
        settles(pair);
    }
}

#[test]
fn a_key_update_is_under_way() {
    for side in [Side::Client, Side::Server] {
        let mut pair = opened();
        pair.end(side).conn().force_key_update();
        assert_eq!(pair.end(side).reason(), NotYet::KeyUpdate);
        pair.end(side).write(b"x");
        pair.run(SHORT);
        // It arrived, and no answer yet.
        assert_eq!(pair.end(side).reason(), NotYet::KeyUpdate);
        assert_eq!(pair.end(!side).reason(), NotYet::KeyUpdate);
        pair.end(!side).write(b"y");
        settles(pair);
    }
}

#[test]
fn credit_is_not_acknowledged() {
    for side in [Side::Client, Side::Server] {
        let mut pair = opened();
        pair.end(side).write(&vec![0; WINDOW as usize / 2]);
        lose_first(&mut pair, !side, |item| {
            matches!(item, Item::MaxData(_) | Item::MaxStreamData(_))
        });
        pair.run(2 * SHORT);
        assert_eq!(pair.end(!side).reason(), NotYet::Credit);
        settles(pair);
    }
}

#[test]
fn bytes_are_on_their_way() {
    for side in [Side::Client, Side::Server] {
        let mut pair = opened();
        pair.end(side).write(b"to go");
        assert_eq!(pair.end(side).reason(), NotYet::Unsent);
        pair.send();
        assert_eq!(pair.end(side).reason(), NotYet::Unacked);
        pair.end(!side).is_reading = false;
        pair.run(3 * SHORT);
        assert_eq!(pair.end(!side).reason(), NotYet::Unread);
        pair.end(!side).is_reading = true;
        settles(pair);
    }
}

#[test]
fn bytes_are_missing() {
    for side in [Side::Client, Side::Server] {
        let mut pair = opened();
        lose_first(&mut pair, side, |item| matches!(item, Item::Stream { .. }));
        for _ in 0..2 {
            pair.end(side).write(b"piece");
            pair.send();
        }
        pair.run(SHORT);
        assert_eq!(pair.end(!side).reason(), NotYet::Gap);
        settles(pair);
    }
}

#[test]
fn a_ping_is_on_its_way() {
    for side in [Side::Client, Side::Server] {
        let mut pair = opened();
        pair.end(side).conn().ping();
        pair.send();
        assert_eq!(pair.end(side).reason(), NotYet::InFlight);
        pair.run(SHORT);
        // It arrived, and is acknowledged after 25 ms.
        assert_eq!(pair.end(!side).reason(), NotYet::AckOwed);
        settles(pair);
    }
}

#[test]
fn a_long_life_with_quinn_costs_nothing() {
    let mut pair = opened();
    let mut losses = 0;
    pair.drops = Box::new(move |_, _| {
        losses += 1;
        losses % 10 == 0
    });
    for _ in 0..500 {
        pair.client.write(&[1; 100]);
        pair.server.write(&[2; 2000]);
        pair.run(Duration::from_millis(100));
    }
    pair.drops = Box::new(|_, _| false);
    pair.run(LONG);
    for side in [Side::Client, Side::Server] {
        let end = pair.end(side);
        assert_eq!(
            end.tap
                .as_ref()
                .unwrap()
                .lock()
                .watch()
                .unwrap()
                .ledger()
                .len(),
            0
        );
    }
    settles(pair);
}

/// What a tap costs a connection that is never handed over. Raise the number only with a reason.
#[test]
fn a_tap_keeps_within_its_budget() {
    let bytes = size_of::<Tap>();
    assert!(bytes <= 1_024, "a tap is {bytes} bytes");
}

#[test]
fn what_was_declared_arrived() {
    let mut pair = opened();
    let of_server = pair.client.take().ok().unwrap().peer;
    let of_client = pair.server.take().ok().unwrap().peer;
    assert_eq!(of_server.max_ack_delay, OWN_MAX_ACK_DELAY);
    assert_eq!(of_client.max_ack_delay, Duration::from_millis(25));
    for peer in [of_server, of_client] {
        assert_eq!(peer.active_connection_id_limit, 2);
        assert_eq!(peer.ack_delay_exponent, 3);
        assert_eq!(peer.max_udp_payload, 1472);
        assert_eq!(peer.max_idle_timeout, Some(Duration::from_secs(600)));
    }
}
