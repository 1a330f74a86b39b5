use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const WINDOW: Window = Window {
    messages: 4,
    bytes: 1_000,
    unresponsive_after: Duration::from_secs(30),
};

fn id(sequence: u64) -> MessageId {
    MessageId { epoch: 1, sequence }
}

/// An outbox that has found out that nothing is owed.
fn caught_up(now: Instant) -> Outbox {
    let mut outbox = Outbox::new(now);
    assert!(outbox.poll_scan(WINDOW, now).is_some());
    outbox.finish_scan(true);
    assert!(outbox.is_idle());
    outbox
}

fn push(outbox: &mut Outbox, sequence: u64, now: Instant) -> Push {
    outbox.push(id(sequence), Route::Queue, 10, WINDOW, now)
}

#[test]
fn the_window_is_exact_and_an_ack_makes_room() {
    let now = Instant::now();
    let mut outbox = caught_up(now);
    for sequence in 1..=4 {
        assert_eq!(push(&mut outbox, sequence, now), Push::Send);
    }
    assert_eq!(push(&mut outbox, 4, now), Push::Known);
    assert_eq!(push(&mut outbox, 5, now), Push::Later);
    assert!(outbox.ack(id(1)).is_some());
    assert_eq!(outbox.poll_scan(WINDOW, now), None, "not half free yet");
    assert!(outbox.ack(id(2)).is_some());
    assert_eq!(outbox.poll_scan(WINDOW, now), Some(2 + 4));
    for sequence in 3..=5 {
        let is_new = outbox.offer(id(sequence), Route::Queue, 10, WINDOW, now);
        assert_eq!(is_new, sequence == 5);
    }
    outbox.finish_scan(true);
    assert_eq!(outbox.in_flight().count(), 3);
}

#[test]
fn bytes_bound_the_window_but_one_message_always_goes() {
    let now = Instant::now();
    let mut outbox = caught_up(now);
    let big = |outbox: &mut Outbox, s| outbox.push(id(s), Route::Queue, 1_001, WINDOW, now);
    assert_eq!(big(&mut outbox, 1), Push::Send);
    assert_eq!(push(&mut outbox, 2, now), Push::Later);
    outbox.ack(id(1));
    assert_eq!(outbox.in_flight_bytes, 0);
}

/// A message that does not fit beside little that is in flight must not be scanned for again and again.
#[test]
fn a_scan_that_found_no_room_waits_for_an_ack() {
    let now = Instant::now();
    let mut outbox = caught_up(now);
    push(&mut outbox, 1, now);
    outbox.mark();
    assert!(outbox.poll_scan(WINDOW, now).is_some());
    assert!(!outbox.offer(id(2), Route::Queue, 999, WINDOW, now));
    outbox.finish_scan(true);
    assert_eq!(outbox.poll_scan(WINDOW, now), None);
    outbox.ack(id(1));
    assert!(outbox.poll_scan(WINDOW, now).is_some());
    assert!(outbox.offer(id(2), Route::Queue, 999, WINDOW, now));
}

#[test]
fn what_is_acked_while_a_scan_runs_is_not_sent_again() {
    let now = Instant::now();
    let mut outbox = caught_up(now);
    push(&mut outbox, 1, now);
    outbox.mark();
    assert!(outbox.poll_scan(WINDOW, now).is_some());
    outbox.ack(id(1));
    assert!(!outbox.offer(id(1), Route::Queue, 10, WINDOW, now));
    outbox.finish_scan(true);
    assert!(outbox.is_idle());
}

#[test]
fn a_push_during_a_scan_leads_to_another_scan() {
    let now = Instant::now();
    let mut outbox = Outbox::new(now);
    assert!(outbox.poll_scan(WINDOW, now).is_some());
    assert_eq!(push(&mut outbox, 2, now), Push::Later);
    assert!(outbox.offer(id(1), Route::Queue, 10, WINDOW, now));
    outbox.finish_scan(true);
    assert!(outbox.poll_scan(WINDOW, now).is_some());
}

#[test]
fn a_transient_message_that_cannot_go_leaves_no_mark() {
    let now = Instant::now();
    let mut outbox = caught_up(now);
    for sequence in 1..=4 {
        push(&mut outbox, sequence, now);
    }
    let transient = outbox.push(id(5), Route::Transient, 10, WINDOW, now);
    assert_eq!(transient, Push::Later);
    for sequence in 1..=4 {
        outbox.ack(id(sequence));
    }
    assert!(outbox.is_idle());
}

/// PROTO-35: sent nothing new until something arrives, then resumed.
#[test]
fn an_unresponsive_device_gets_nothing_new_until_it_speaks() {
    let start = Instant::now();
    let mut outbox = caught_up(start);
    push(&mut outbox, 1, start);
    let almost = start + WINDOW.unresponsive_after - Duration::from_millis(1);
    assert_eq!(push(&mut outbox, 2, almost), Push::Send);
    let late = start + WINDOW.unresponsive_after;
    assert!(outbox.is_unresponsive(WINDOW, late));
    assert_eq!(push(&mut outbox, 3, late), Push::Later);
    assert_eq!(outbox.poll_scan(WINDOW, late), None);
    outbox.heard(late);
    assert!(outbox.poll_scan(WINDOW, late).is_some());
}

#[test]
fn an_idle_outbox_has_nothing_on_the_heap_and_a_bounded_size() {
    let now = Instant::now();
    let mut outbox = caught_up(now);
    push(&mut outbox, 1, now);
    outbox.ack(id(1));
    assert_eq!(outbox.in_flight.capacity(), 0);
    assert_eq!(outbox.acked_meanwhile.capacity(), 0);
    assert!(size_of::<Outbox>() <= 104, "{}", size_of::<Outbox>());
}

#[derive(Clone, Debug)]
enum Step {
    Publish { is_pushed: bool },
    BeginScan,
    EndScan,
    Ack(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(|is_pushed| Step::Publish { is_pushed }),
        2 => Just(Step::BeginScan),
        2 => Just(Step::EndScan),
        3 => any::<usize>().prop_map(Step::Ack),
    ]
}

proptest! {
    /// PROTO-27, PROTO-28: whatever the order of pushes, scans and acks, each message is sent once, in order, within the
    /// window, and in the end all of them are.
    #[test]
    fn every_message_is_sent_once_in_order(steps in proptest::collection::vec(any_step(), 1..120)) {
        let now = Instant::now();
        let mut outbox = Outbox::new(now);
        let mut owed = BTreeSet::new();
        let mut sent = Vec::new();
        let mut scan: Option<Vec<MessageId>> = None;
        let mut complete = true;
        let mut next = 1;
        let drain = steps.len();
        let tail = (0..400).map(|n| match n % 3 {
            0 => Step::BeginScan,
            1 => Step::EndScan,
            _ => Step::Ack(0),
        });
        for (at, step) in steps.into_iter().chain(tail).enumerate() {
            match step {
                // A message that is not pushed is one whose push was lost: the caller marks the outbox instead.
                Step::Publish { is_pushed } if at < drain => {
                    let message = id(next);
                    next += 1;
                    owed.insert(message);
                    if !is_pushed {
                        outbox.mark();
                    } else if outbox.push(message, Route::Queue, 300, WINDOW, now) == Push::Send {
                        sent.push(message);
                    }
                }
                Step::BeginScan if scan.is_none() => {
                    if let Some(limit) = outbox.poll_scan(WINDOW, now) {
                        complete = owed.len() <= limit;
                        scan = Some(owed.iter().copied().take(limit).collect());
                    }
                }
                Step::EndScan => {
                    for message in scan.take().into_iter().flatten() {
                        if outbox.offer(message, Route::Queue, 300, WINDOW, now) {
                            sent.push(message);
                        }
                    }
                    if outbox.is_scanning {
                        outbox.finish_scan(complete);
                    }
                }
                Step::Ack(pick) => {
                    let flying: Vec<_> = outbox.in_flight().map(|m| m.id).collect();
                    if let Some(&message) = flying.get(pick % flying.len().max(1)) {
                        prop_assert!(outbox.ack(message).is_some());
                        owed.remove(&message);
                    }
                }
                _ => {}
            }
            prop_assert!(outbox.in_flight().count() <= WINDOW.messages);
            prop_assert!(u64::from(outbox.in_flight_bytes) <= WINDOW.bytes);
        }
        prop_assert!(owed.is_empty() && outbox.is_idle());
        let mut times = BTreeMap::new();
        for message in &sent {
            *times.entry(*message).or_insert(0) += 1;
        }
        prop_assert!(times.values().all(|&n| n == 1) && times.len() as u64 == next - 1);
        prop_assert!(sent.is_sorted());
    }
}
