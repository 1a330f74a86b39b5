//! The history over a store in memory: written behind in slices, kept of broadcasts in counts, not of who is gone.

use petrel_core::Route;
use petrel_core::{Happening, Timeline};

use super::*;
use crate::store::{BroadcastHistory, HistoryStore as _};

const NEWEST: MessageId = MessageId {
    epoch: u32::MAX,
    sequence: u64::MAX,
};

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Opens the store anew, as after a crash.
fn reopened(map: &MemoryMap) -> Embedded<MemoryMap> {
    let mut store = Embedded::new(map.clone(), 7);
    store.load().unwrap();
    store
}

fn names(timeline: &Timeline) -> Vec<&'static str> {
    timeline.steps().iter().map(|(h, _)| h.as_str()).collect()
}

impl Life {
    /// What the committer answers to somebody who asks for a device.
    fn history(&mut self, ordinal: u32, limit: usize) -> Vec<Timeline> {
        let Target::Token(token) = self.token(ordinal) else {
            panic!("a token");
        };
        let delivery = Arc::clone(&self.delivery);
        let read = async move { delivery.history(PROJECT, &token, NEWEST, limit).await };
        let mut read = std::pin::pin!(read);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(read.as_mut().poll(&mut context).is_pending());
        self.turn(Duration::ZERO);
        match read.poll(&mut context) {
            std::task::Poll::Ready(history) => history.unwrap().timelines,
            std::task::Poll::Pending => panic!("no answer after the turn"),
        }
    }
}

#[test]
fn it_is_written_behind_in_slices_and_told_before_that() {
    let map = MemoryMap::default();
    let mut life = Life::begin(&map, 1000, settings());
    for secret in 0..200 {
        life.register(secret);
    }
    let way = [Happening::Accepted, Happening::Sent, Happening::Acked];
    for n in 0..6000_u32 {
        let id = MessageId {
            epoch: 7,
            sequence: u64::from(n) + 1,
        };
        for happening in way {
            life.delivery.note(Ordinal(n % 200), id, happening);
        }
    }
    let told = life.history(3, 99);
    assert_eq!(told.len(), 30);
    assert!(
        told.iter()
            .all(|t| names(t) == ["accepted", "sent", "acked"])
    );
    assert_eq!(
        reopened(&map).stats().history_bytes,
        0,
        "not before its time"
    );

    // 200 buckets in slices: some is written, the rest is still told, and all of it is in the end.
    let mut turns = 0;
    let mut held = 0;
    loop {
        turns += 1;
        let at = millis(500 + turns * 10);
        let turn = life.turn(at);
        assert_eq!(life.history(199, 99).len(), 30);
        let bytes = reopened(&map).stats().history_bytes;
        if bytes == held {
            break;
        }
        held = bytes;
        let Turn::Until(next) = turn else {
            panic!("stopped");
        };
        assert!(next <= life.began + at + millis(10), "it goes on at once");
    }
    // Four slices, two in each round: asking takes a turn, too. In the third round nothing was left.
    assert_eq!(turns, 3);
    assert!(held / 6000 <= 20, "{held} bytes");
    let stored = reopened(&map);
    let page = stored.history_of_device(Ordinal(199), NEWEST, 99).unwrap();
    assert_eq!(page, life.history(199, 99));
}

#[test]
fn at_the_end_everything_is_written_at_once() {
    let map = MemoryMap::default();
    let mut life = Life::begin(&map, 1000, settings());
    for secret in 0..200 {
        life.register(secret);
    }
    let id = life.publish(life.token(9), 60).unwrap();
    for device in 0..200 {
        life.delivery.note(Ordinal(device), id, Happening::Sent);
    }
    let mut group = vec![Operation::Stop];
    assert_eq!(life.committer.turn(&mut group, life.began), Turn::Stopped);
    let stored = reopened(&map);
    let all = (0..200).filter(|d| stored.history_of(Ordinal(*d), id).unwrap().is_some());
    assert_eq!(all.count(), 200);
    let way = stored.history_of(Ordinal(9), id).unwrap().unwrap();
    assert_eq!(names(&way), ["accepted", "queued", "sent"]);
}

#[test]
fn what_comes_late_of_a_device_that_is_gone_is_not_written() {
    let map = MemoryMap::default();
    let mut life = Life::begin(&map, 1000, settings());
    life.register(0);
    life.register(1);
    let id = life.publish(life.token(0), 60).unwrap();
    life.turn(millis(600));
    life.publish(life.token(0), 60).unwrap();
    assert!(reopened(&map).history_of(Ordinal(0), id).unwrap().is_some());

    let Target::Token(token) = life.token(0) else {
        panic!("a token");
    };
    let delivery = Arc::clone(&life.delivery);
    let erased = async move { delivery.erase(PROJECT, &token).await };
    let mut erased = std::pin::pin!(erased);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(erased.as_mut().poll(&mut context).is_pending());
    life.turn(millis(700));
    assert!(erased.poll(&mut context).is_ready());
    life.delivery.note(Ordinal(0), id, Happening::Acked);
    life.delivery.note(Ordinal(1), id, Happening::Acked);
    life.turn(millis(1300));
    life.turn(millis(1900));
    let stored = reopened(&map);
    let left = stored.history_of_device(Ordinal(0), NEWEST, 9).unwrap();
    assert_eq!(left, []);
    assert!(stored.history_of(Ordinal(1), id).unwrap().is_some());
}

#[test]
fn of_a_broadcast_counts_are_kept_over_restarts_and_nothing_for_each_device() {
    let map = MemoryMap::default();
    let mut life = Life::begin(&map, 1000, settings());
    let topic = TopicName::parse("t").unwrap();
    for ordinal in 0..3 {
        life.register(ordinal);
        let device = life.delivery.directory.device(Ordinal(ordinal.into()));
        let subscribe = petrel_protocol::session::RequestBody::Subscribe(topic.clone());
        life.delivery
            .request(device.unwrap(), 1, subscribe, place(0))
            .unwrap();
        life.turn(Duration::ZERO);
    }
    let id = life.publish(Target::Topic(topic), 60).unwrap();
    let route = Some(Route::Broadcast);
    life.delivery.ack(Ordinal(1), id, route).unwrap();
    life.turn(millis(600));
    let read = |map: &MemoryMap| -> BroadcastHistory {
        let history = reopened(map).history_of_broadcast(id).unwrap();
        history.unwrap()
    };
    let first = read(&map);
    assert_eq!((first.targeted, first.acked), (3, 1));
    drop(life);

    let mut life = Life::begin(&map, 1000, settings());
    life.delivery.ack(Ordinal(2), id, route).unwrap();
    life.turn(millis(600));
    let second = read(&map);
    assert_eq!((second.targeted, second.acked), (3, 2));
    let (first_ack, last_ack) = second.acks.unwrap();
    assert_eq!(Some(first_ack), first.acks.map(|(first, _)| first));
    assert!(first_ack <= last_ack && second.committed_at == first.committed_at);
    drop(life);

    let mut life = Life::begin(&map, 1001, settings());
    life.turn(millis(600));
    let last = read(&map);
    assert_eq!(
        (last.acked, last.dropped[DropReason::Expired.index()]),
        (2, 1)
    );
    assert_eq!(last.acked + last.dropped.iter().sum::<u64>(), last.targeted);
    assert!(reopened(&map).load().unwrap().broadcasts.is_empty());
    for device in 0..3 {
        assert_eq!(life.history(device, 9), []);
    }
}
