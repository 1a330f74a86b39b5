//! Bytes of strangers into the device protocol: no panic, no endless talk, and what is refused stays refused.
//!
//! `tests/corpus.rs` includes this file, so it names nothing of the fuzzer's.

use bytes::Bytes;
use petrel_protocol::session::{
    BrokerEvent, BrokerSession, DeviceEvent, DeviceSession, WelcomeTerms,
    states::{BrokerState, DeviceState},
};
use petrel_protocol::{ErrorCode, MessageId, Ordinal, ProjectId, SealKey, TokenSealer, Unsealed};
use petrel_protocol::{limits, wire};
use zeroize::Zeroizing;

/// Both ends of a session read the stream that `data` is, in pieces as large as its first byte says.
pub fn frames(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else {
        return;
    };
    let pieces = || {
        stream
            .chunks(usize::from(piece) * 16 + 1)
            .map(Bytes::copy_from_slice)
    };
    broker(pieces(), stream.len());
    device(
        DeviceSession::hello(wire::Hello::default()),
        pieces(),
        stream.len(),
    );
    device(
        DeviceSession::register(wire::Register::default()),
        pieces(),
        stream.len(),
    );
}

fn broker(pieces: impl Iterator<Item = Bytes>, bytes: usize) {
    let terms = WelcomeTerms {
        server_time_ms: 1,
        keep_alive_seconds: 60,
        window_messages: 8,
        topics_max: 8,
        settled_up_to: MessageId::ZERO,
    };
    let mut session = BrokerSession::default();
    let mut events = 0;
    for piece in pieces {
        session.handle_bytes(piece);
        while let Some(event) = session.poll_event() {
            events += 1;
            assert!(events <= 2 * bytes, "more events than bytes");
            match event {
                BrokerEvent::Opening(_) => {
                    assert_eq!(session.state(), BrokerState::Admitting);
                    assert!(!session.admit(None, terms).is_empty());
                }
                BrokerEvent::Ack { sequences, .. } => {
                    assert!((1..=limits::ACK_SEQUENCES_MAX).contains(&sequences.len()));
                }
                BrokerEvent::Fault { code, message } => {
                    // Said once; acknowledgements are read until the connection is gone.
                    let was_open = session.state() != BrokerState::Closing;
                    let end = session.end(code, &message, 0);
                    assert_eq!(end.is_some(), was_open);
                    assert_eq!(session.state(), BrokerState::Closing);
                }
                _ => {}
            }
        }
    }
}

fn device(mut session: DeviceSession, pieces: impl Iterator<Item = Bytes>, bytes: usize) {
    let mut events = 0;
    for piece in pieces {
        session.handle_bytes(piece);
        while let Some(event) = session.poll_event() {
            events += 1;
            assert!(events <= bytes, "more events than bytes");
            if let DeviceEvent::Fault(code, _) = event {
                assert_ne!(code, ErrorCode::Internal, "it is the broker's fault");
                assert_eq!(session.state(), DeviceState::Closed);
            }
        }
    }
}

/// A text is a token of this broker if, and only if, it seals what it says.
pub fn token(data: &[u8]) {
    let key = |id: u8| SealKey {
        id,
        key: Zeroizing::new([id; 32]),
    };
    let sealer = TokenSealer::new(&[key(1), key(2)]).expect("there are keys");
    let text = String::from_utf8_lossy(data);
    let unsealed = sealer.unseal(&text);
    if let Ok(unsealed) = unsealed {
        let older = TokenSealer::new(&[key(2), key(1)]).expect("there are keys");
        let tokens = [sealer.seal(unsealed), older.seal(unsealed)];
        assert!(tokens.iter().any(|token| token.as_str() == text));
    }
    // A true one with one byte that `data` chooses.
    let number = |at: usize| data.get(at).copied().map_or(0, u32::from);
    let whose = Unsealed {
        project: ProjectId(number(0) << 24 | number(1)),
        ordinal: Ordinal(number(2) << 24 | number(3)),
    };
    let token = sealer.seal(whose);
    assert_eq!(sealer.unseal(token.as_str()), Ok(whose));
    let mut bytes = token.as_str().as_bytes().to_vec();
    let at = number(4) as usize % bytes.len();
    let was = std::mem::replace(&mut bytes[at], data.get(5).copied().unwrap_or(b'A') & 0x7f);
    let changed = String::from_utf8_lossy(&bytes).into_owned();
    let is_same = bytes[at] == was;
    assert_eq!(sealer.unseal(&changed).is_ok(), is_same, "{changed}");
}
