//! Requests of the app and their answers. What was asked for is a wish kept in the registration; this is the part that
//! lives as long as the process: who waits for which answer, what is to be sent, what was sent.
//!
//! Every request may be repeated safely, so after a lost connection all that is unanswered is simply asked again.

use std::collections::{BTreeMap, VecDeque};

use petrel_protocol::session::RequestId;
use tokio::sync::oneshot;

use crate::error::RequestError;
use crate::registration::{Membership, Registration};

/// Most requests sent and not answered.
const IN_FLIGHT_MAX: usize = 64;
/// Most callers that wait for an answer; one more is refused with `RequestError::Busy`.
const WAITERS_MAX: usize = 1024;

pub(crate) type Answer = Result<(), RequestError>;

/// What a request is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    Subscribe(String),
    Unsubscribe(String),
    SetAttributes,
    Rotate,
    Unregister,
}

impl Key {
    /// Whether the two must not be under way together: answers come in any order (PROTO-20), and the order of these
    /// two decides what holds in the end.
    fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Subscribe(a) | Self::Unsubscribe(a),
                Self::Subscribe(b) | Self::Unsubscribe(b),
            ) => a == b,
            (a, b) => a == b,
        }
    }

    /// The request that this one takes the place of.
    fn opposite(&self) -> Option<Self> {
        match self {
            Self::Subscribe(topic) => Some(Self::Unsubscribe(topic.clone())),
            Self::Unsubscribe(topic) => Some(Self::Subscribe(topic.clone())),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    waiters: Vec<(Key, oneshot::Sender<Answer>)>,
    to_send: VecDeque<Key>,
    in_flight: BTreeMap<RequestId, Key>,
}

impl Requests {
    /// Whether another caller may wait; forgets those that gave up.
    pub(super) fn has_room(&mut self) -> bool {
        self.waiters.retain(|(_, waiter)| !waiter.is_closed());
        self.waiters.len() < WAITERS_MAX
    }

    /// Takes a request of the app. It goes out at once if a session is open, else with the next one.
    pub(super) fn ask(&mut self, key: Key, waiter: oneshot::Sender<Answer>, open: bool) {
        if let Some(opposite) = key.opposite() {
            self.to_send.retain(|waiting| *waiting != opposite);
            self.resolve(&opposite, &Err(RequestError::Superseded));
        }
        if open {
            self.want(key.clone());
        }
        self.waiters.push((key, waiter));
    }

    /// Queues a request unless it waits to be sent already. One that is in flight is asked once more: what it says
    /// may have changed since.
    fn want(&mut self, key: Key) {
        if !self.to_send.contains(&key) {
            self.to_send.push_back(key);
        }
    }

    /// A session is open: everything that was never answered is asked (again).
    pub(super) fn begin(&mut self, registration: &Registration, attributes_differ: bool) {
        self.end();
        for (topic, membership) in &registration.topics {
            match membership {
                Membership::Joining => self.want(Key::Subscribe(topic.clone())),
                Membership::Leaving => self.want(Key::Unsubscribe(topic.clone())),
                Membership::Joined => {}
            }
        }
        if attributes_differ {
            self.want(Key::SetAttributes);
        }
        if registration.next_secret.is_some() {
            self.want(Key::Rotate);
        }
        // And what somebody waits for although it seems done, such as subscribing twice.
        let waited_for: Vec<Key> = self.waiters.iter().map(|(key, _)| key.clone()).collect();
        waited_for.into_iter().for_each(|key| self.want(key));
    }

    /// The session is gone: answers of it will not come.
    pub(super) fn end(&mut self) {
        self.in_flight.clear();
        self.to_send.clear();
    }

    /// The next request that may be sent now.
    pub(super) fn next(&mut self) -> Option<Key> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let at = self
            .to_send
            .iter()
            .position(|key| !self.in_flight.values().any(|sent| sent.conflicts(key)))?;
        self.to_send.remove(at)
    }

    /// It was sent under this number.
    pub(super) fn sent(&mut self, id: RequestId, key: Key) {
        self.in_flight.insert(id, key);
    }

    /// What a number stood for.
    pub(super) fn answered(&mut self, id: RequestId) -> Option<Key> {
        self.in_flight.remove(&id)
    }

    /// Whether an answer is due: then the stream must be read even if the app is slow.
    pub(super) fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether this was asked for and not answered.
    pub(super) fn is_wanted(&self, key: &Key) -> bool {
        self.waiters.iter().any(|(waiting, _)| waiting == key)
    }

    /// Tells everyone who waits for this, unless the same was asked again since: then that answer will tell them.
    pub(super) fn resolve(&mut self, key: &Key, answer: &Answer) {
        if self.to_send.contains(key) {
            return;
        }
        for (_, waiter) in self.waiters.extract_if(.., |(waiting, _)| waiting == key) {
            // A caller that gave up is no concern of ours.
            let _ = waiter.send(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news() -> (Key, Key) {
        (
            Key::Subscribe("news".into()),
            Key::Unsubscribe("news".into()),
        )
    }

    #[test]
    fn the_later_of_two_opposite_requests_holds_and_goes_second() {
        let (join, leave) = news();
        let mut requests = Requests::default();
        let (first, mut first_answer) = oneshot::channel();
        let (second, mut second_answer) = oneshot::channel();
        requests.ask(join.clone(), first, true);
        assert_eq!(requests.next(), Some(join.clone()));
        requests.sent(RequestId(1), join.clone());
        requests.ask(leave.clone(), second, true);
        assert!(matches!(
            first_answer.try_recv(),
            Ok(Err(RequestError::Superseded))
        ));
        assert_eq!(requests.next(), None, "not while the first is under way");
        assert_eq!(requests.answered(RequestId(1)), Some(join));
        assert_eq!(requests.next(), Some(leave.clone()));
        requests.sent(RequestId(2), leave.clone());
        assert_eq!(requests.answered(RequestId(2)), Some(leave.clone()));
        requests.resolve(&leave, &Ok(()));
        assert!(matches!(second_answer.try_recv(), Ok(Ok(()))));
    }

    #[test]
    fn a_new_session_asks_all_that_was_not_answered() {
        let mut registration = Registration::new("p").unwrap();
        registration.topics.insert("in".into(), Membership::Joining);
        registration
            .topics
            .insert("out".into(), Membership::Leaving);
        registration
            .topics
            .insert("there".into(), Membership::Joined);
        let mut requests = Requests::default();
        let (waiter, _answer) = oneshot::channel();
        requests.ask(Key::Unregister, waiter, false);
        assert_eq!(requests.next(), None, "no session yet");
        requests.begin(&registration, true);
        let asked: Vec<Key> = std::iter::from_fn(|| requests.next()).collect();
        let expected = [
            Key::Subscribe("in".into()),
            Key::Unsubscribe("out".into()),
            Key::SetAttributes,
            Key::Unregister,
        ];
        assert_eq!(asked, expected);
    }

    #[test]
    fn waiters_and_requests_in_flight_are_bounded() {
        let mut requests = Requests::default();
        let mut held = Vec::new();
        for n in 0..WAITERS_MAX {
            assert!(requests.has_room());
            let (waiter, answer) = oneshot::channel();
            held.push(answer);
            requests.ask(Key::Subscribe(n.to_string()), waiter, true);
        }
        assert!(!requests.has_room());
        let sent = (0..).map_while(|n| {
            let key = requests.next()?;
            requests.sent(RequestId(n), key);
            Some(n)
        });
        assert_eq!(sent.count(), IN_FLIGHT_MAX);
        held.clear();
        assert!(requests.has_room(), "callers that gave up make room");
    }
}
