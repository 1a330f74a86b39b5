//! The timing of one connection: when it has been silent for long enough, whether what ended the silence was answered,
//! and when to give the path up. Pure: says what to do, and is told the time and what the connection counted.

use std::time::{Duration, Instant};

use super::{Counters, Moment};

/// Packets that follow the last word of either end (acknowledgements, window updates) have come and gone after this.
const SETTLE: Duration = Duration::from_secs(1);
/// Beyond two round trips, what an acknowledgement may be late: the peer's delay of 25 ms, and a busy machine.
const FIRST_LOOK_SLACK: Duration = Duration::from_millis(50);
/// Longest time between two looks for an answer.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

/// What to do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Beat {
    Nothing,
    /// Say something: the connection was silent for the interval.
    Ask,
    /// What was sent was answered.
    Answered(Answer),
    /// What was sent was not answered in time.
    Unanswered {
        /// The silence before it, where it is known.
        silence: Option<Duration>,
    },
}

/// An answer, and what it tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    /// How long the connection had been silent; `None` where that is not known for sure.
    pub(crate) silence: Option<Duration>,
    pub(crate) path: Path,
    /// It answers a keep-alive.
    pub(crate) keep_alive: bool,
    /// What the connection did since it was last looked at, where that was nothing but keeping alive.
    pub(crate) idle: Option<Idle>,
}

/// On which path an answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Path {
    /// As far as anybody can tell, the one that was there before.
    Same,
    /// Another one, though the device did not move: the former was forgotten during the silence.
    Forgotten,
    /// The one that the device moved to.
    Chosen,
}

/// A stretch of time in which nobody used the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Idle {
    pub(crate) time: Duration,
    pub(crate) counted: Counters,
    /// Bursts of packets, each of which wakes a radio.
    pub(crate) bursts: u32,
}

/// A look at the counters.
#[derive(Clone, Copy, Debug)]
struct Look {
    moment: Moment,
    counters: Counters,
}

#[derive(Debug)]
enum Phase {
    /// Used a moment ago.
    Busy { look_at: Instant },
    /// Nothing but keeping alive since this look.
    Quiet(Look),
    /// Something was sent; its answer is awaited.
    Asked(Question),
}

#[derive(Debug)]
struct Question {
    sent: Look,
    silence: Option<Duration>,
    keep_alive: bool,
    /// A keep-alive that was not written yet.
    to_be_written: bool,
    /// The look before the silence.
    idle_from: Option<Look>,
    /// Packets had passed within the silence that nobody here knew of.
    stirred: bool,
    /// The device moved itself: a challenge tells nothing.
    moved_itself: bool,
    /// Somebody used the connection meanwhile.
    used: bool,
    look_at: Instant,
    look_every: Duration,
    give_up_at: Instant,
}

/// The timing of one connection.
#[derive(Debug)]
pub(crate) struct Pulse {
    interval: Duration,
    answer_timeout: Duration,
    /// When something was last sent or received that the driver knows of.
    used: Moment,
    phase: Phase,
}

impl Pulse {
    pub(crate) fn new(interval: Duration, answer_timeout: Duration, now: Moment) -> Self {
        let mut pulse = Self {
            interval,
            answer_timeout,
            used: now,
            phase: Phase::Busy { look_at: now.at },
        };
        pulse.settle(now);
        pulse
    }

    /// How long the connection may be silent from now on.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Something is about to be written to the stream. Called before it is: an answer may be there before the write
    /// returns.
    pub(crate) fn handle_write(&mut self, now: Moment, counters: Counters, rtt: Duration) {
        if let Phase::Asked(question) = &mut self.phase {
            let keep_alive = std::mem::take(&mut question.to_be_written);
            question.used |= !keep_alive;
        } else {
            self.ask(now, counters, rtt, false);
        }
    }

    /// Something was read from the stream.
    pub(crate) fn handle_read(&mut self, now: Moment) {
        match &mut self.phase {
            Phase::Asked(question) => question.used = true,
            Phase::Busy { .. } | Phase::Quiet(_) => self.settle(now),
        }
    }

    /// The device moved to another path and said so: the answer has to come within `patience`.
    pub(crate) fn handle_move(
        &mut self,
        now: Moment,
        counters: Counters,
        rtt: Duration,
        patience: Duration,
    ) {
        self.phase = Phase::Busy { look_at: now.at };
        self.ask(now, counters, rtt, false);
        if let Phase::Asked(question) = &mut self.phase {
            question.moved_itself = true;
            question.give_up_at = now.at + patience;
        }
    }

    /// The silence before what waits for its answer, where it is known: what a connection that ends now may have
    /// ended of.
    pub(crate) fn silence_in_question(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Asked(question) => question.silence,
            Phase::Busy { .. } | Phase::Quiet(_) => None,
        }
    }

    /// When to call [`Pulse::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Instant {
        match &self.phase {
            Phase::Busy { look_at } => *look_at,
            Phase::Quiet(_) => self.used.at + self.interval,
            Phase::Asked(question) => question.look_at,
        }
    }

    /// The time has come, or has not: says what to do.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Moment,
        counters: Counters,
        rtt: Duration,
    ) -> Beat {
        if now.at < self.poll_timeout() {
            return Beat::Nothing;
        }
        match &mut self.phase {
            Phase::Busy { .. } => {
                self.phase = Phase::Quiet(Look {
                    moment: now,
                    counters,
                });
                Beat::Nothing
            }
            Phase::Quiet(_) => {
                self.ask(now, counters, rtt, true);
                Beat::Ask
            }
            Phase::Asked(question) => {
                if counters.acks > question.sent.counters.acks {
                    return self.answered(now, counters);
                }
                if now.at < question.give_up_at {
                    question.look_at = (now.at + question.look_every).min(question.give_up_at);
                    question.look_every = (question.look_every * 2).min(LOOK_EVERY_MAX);
                    return Beat::Nothing;
                }
                // Flow control may have kept it here, and then nothing was asked. What still arrives shows that the
                // path is there; after a move it may have come by the former one.
                let sent = &question.sent.counters;
                let nothing_left = counters.datagrams_sent == sent.datagrams_sent;
                let others_arrived = counters.datagrams_received > sent.datagrams_received;
                let silence = question.silence;
                if nothing_left || (others_arrived && !question.moved_itself) {
                    self.settle(now);
                    return Beat::Nothing;
                }
                Beat::Unanswered { silence }
            }
        }
    }

    fn ask(&mut self, now: Moment, counters: Counters, rtt: Duration, keep_alive: bool) {
        let idle_from = match &self.phase {
            Phase::Quiet(look) => Some(*look),
            Phase::Busy { .. } | Phase::Asked(_) => None,
        };
        let stirred = idle_from.is_some_and(|look| look.counters != counters);
        let look_every = (rtt * 2 + FIRST_LOOK_SLACK).min(LOOK_EVERY_MAX);
        let first_look = now.at + look_every;
        self.phase = Phase::Asked(Question {
            sent: Look {
                moment: now,
                counters,
            },
            silence: idle_from
                .filter(|_| !stirred)
                .and_then(|_| now.since(&self.used)),
            keep_alive,
            to_be_written: keep_alive,
            idle_from,
            stirred,
            moved_itself: false,
            used: !keep_alive,
            look_at: first_look,
            look_every,
            give_up_at: (now.at + self.answer_timeout).max(first_look),
        });
    }

    fn answered(&mut self, now: Moment, counters: Counters) -> Beat {
        let look = Look {
            moment: now,
            counters,
        };
        let quiet = Phase::Quiet(look);
        let Phase::Asked(question) = std::mem::replace(&mut self.phase, quiet) else {
            return Beat::Nothing;
        };
        let path = if question.moved_itself {
            Path::Chosen
        } else if counters.challenges > question.sent.counters.challenges {
            Path::Forgotten
        } else {
            Path::Same
        };
        let idle = question
            .idle_from
            .filter(|_| !question.used)
            .map(|from| Idle {
                time: now.at.saturating_duration_since(from.moment.at),
                counted: counters.since(&from.counters),
                bursts: 1 + u32::from(question.stirred),
            });
        if question.used {
            self.settle(now);
        } else {
            self.used = question.sent.moment;
        }
        Beat::Answered(Answer {
            silence: question.silence,
            path,
            keep_alive: question.keep_alive,
            idle,
        })
    }

    fn settle(&mut self, now: Moment) {
        self.used = now;
        self.phase = Phase::Busy {
            look_at: now.at + SETTLE.min(self.interval / 4),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(100);
    const INTERVAL: Duration = Duration::from_secs(30);
    const TIMEOUT: Duration = Duration::from_secs(15);

    /// A connection under virtual time.
    struct Fixture {
        pulse: Pulse,
        now: Moment,
        counters: Counters,
        began: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let now = Moment {
                at: Instant::now(),
                wall_ms: 1_000_000,
            };
            Self {
                pulse: Pulse::new(INTERVAL, TIMEOUT, now),
                now,
                counters: Counters::default(),
                began: now.at,
            }
        }

        fn advance(&mut self, time: Duration) {
            self.now.at += time;
            self.now.wall_ms += u64::try_from(time.as_millis()).unwrap();
        }

        /// Goes to the next timeout.
        fn beat(&mut self) -> Beat {
            self.advance(
                self.pulse
                    .poll_timeout()
                    .saturating_duration_since(self.now.at),
            );
            self.pulse.handle_timeout(self.now, self.counters, RTT)
        }

        fn write(&mut self) {
            self.pulse.handle_write(self.now, self.counters, RTT);
        }

        fn sends(&mut self) {
            self.counters.datagrams_sent += 1;
            self.counters.bytes_sent += 40;
        }

        fn is_answered(&mut self) {
            self.counters.datagrams_received += 1;
            self.counters.bytes_received += 30;
            self.counters.acks += 1;
        }

        fn elapsed(&self) -> Duration {
            self.now.at.duration_since(self.began)
        }

        /// Goes through the silence, up to the question.
        fn asks(&mut self) {
            assert_eq!(self.beat(), Beat::Nothing, "a look once all is quiet");
            assert_eq!(self.beat(), Beat::Ask);
            self.write();
            self.sends();
        }
    }

    #[test]
    fn silence_is_ended_after_the_interval_and_the_answer_tells_how_long_it_was() {
        let mut fixture = Fixture::new();
        fixture.asks();
        assert_eq!(fixture.elapsed(), INTERVAL);
        fixture.is_answered();
        let Beat::Answered(answer) = fixture.beat() else {
            panic!("no answer");
        };
        assert_eq!(
            (answer.silence, answer.path, answer.keep_alive),
            (Some(INTERVAL), Path::Same, true)
        );
        // The next period counts from the keep-alive, not from the look for its answer.
        assert_eq!(fixture.beat(), Beat::Ask);
        assert_eq!(fixture.elapsed(), INTERVAL * 2);
        fixture.sends();
        fixture.is_answered();
        let Beat::Answered(answer) = fixture.beat() else {
            panic!("no answer");
        };
        let idle = answer.idle.unwrap();
        assert_eq!((idle.time, idle.bursts), (INTERVAL, 1));
        assert_eq!(
            (idle.counted.bytes_sent, idle.counted.bytes_received),
            (40, 30)
        );
    }

    #[test]
    fn a_challenge_with_the_answer_means_that_the_binding_was_lost() {
        let mut fixture = Fixture::new();
        fixture.asks();
        fixture.is_answered();
        fixture.counters.challenges += 1;
        assert!(matches!(fixture.beat(), Beat::Answered(answer) if answer.path == Path::Forgotten));
        // Unless the device moved itself.
        fixture
            .pulse
            .handle_move(fixture.now, fixture.counters, RTT, Duration::from_secs(1));
        fixture.sends();
        fixture.is_answered();
        fixture.counters.challenges += 1;
        assert!(
            matches!(fixture.beat(), Beat::Answered(answer) if answer.path == Path::Chosen && answer.silence.is_none())
        );
    }

    #[test]
    fn no_answer_gives_the_path_up_in_bounded_time() {
        let mut fixture = Fixture::new();
        fixture.asks();
        let asked = fixture.elapsed();
        let mut looks = 0;
        let silence = loop {
            match fixture.beat() {
                Beat::Nothing => looks += 1,
                Beat::Unanswered { silence } => break silence,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(silence, Some(INTERVAL));
        assert_eq!(fixture.elapsed() - asked, TIMEOUT);
        assert!(looks < 20, "{looks} looks");
        // Sooner after a move.
        let patience = Duration::from_secs(1);
        let mut fixture = Fixture::new();
        fixture
            .pulse
            .handle_move(fixture.now, fixture.counters, RTT, patience);
        fixture.sends();
        while fixture.beat() == Beat::Nothing {}
        assert_eq!(fixture.elapsed(), patience);
    }

    #[test]
    fn what_flow_control_kept_here_is_no_lost_path() {
        let mut fixture = Fixture::new();
        for messages_arrive in [false, true] {
            fixture.write();
            for _ in 0..100 {
                if messages_arrive {
                    // Acknowledged by packets that elicit no acknowledgement.
                    fixture.counters.datagrams_received += 1;
                    fixture.counters.datagrams_sent += 1;
                }
                let beat = fixture.beat();
                assert!(matches!(beat, Beat::Nothing | Beat::Ask), "{beat:?}");
            }
        }
    }

    #[test]
    fn after_a_move_what_arrives_by_the_former_path_is_no_answer() {
        let mut fixture = Fixture::new();
        let patience = Duration::from_secs(1);
        fixture
            .pulse
            .handle_move(fixture.now, fixture.counters, RTT, patience);
        fixture.sends();
        fixture.counters.datagrams_received += 1;
        while fixture.beat() == Beat::Nothing {}
        assert_eq!(fixture.elapsed(), patience);
    }

    #[test]
    fn use_puts_the_keep_alive_off_and_is_no_idle_time() {
        let mut fixture = Fixture::new();
        for _ in 0..3 {
            fixture.beat();
            fixture.advance(INTERVAL / 2);
            fixture.pulse.handle_read(fixture.now);
        }
        let used_at = fixture.elapsed();
        fixture.asks();
        assert_eq!(fixture.elapsed(), used_at + INTERVAL);
        // Used while the answer is on its way: not idle, and the counters are looked at anew.
        fixture.pulse.handle_read(fixture.now);
        fixture.is_answered();
        assert!(matches!(fixture.beat(), Beat::Answered(answer) if answer.idle.is_none()));
        fixture.asks();
    }

    #[test]
    fn what_the_app_says_after_a_silence_is_a_question_too() {
        let mut fixture = Fixture::new();
        fixture.beat();
        fixture.advance(Duration::from_secs(20));
        fixture.write();
        fixture.sends();
        let silence = Some(fixture.elapsed());
        assert_eq!(fixture.pulse.silence_in_question(), silence);
        fixture.is_answered();
        assert!(
            matches!(fixture.beat(), Beat::Answered(answer) if answer.silence == silence && !answer.keep_alive)
        );
    }

    #[test]
    fn a_silence_that_something_stirred_or_the_device_slept_through_is_not_known() {
        let mut stirred = Fixture::new();
        stirred.beat();
        stirred.is_answered();
        stirred.beat();
        let mut slept = Fixture::new();
        slept.beat();
        slept.now.wall_ms += 600_000;
        slept.beat();
        for (mut fixture, bursts) in [(stirred, 2), (slept, 1)] {
            fixture.sends();
            fixture.is_answered();
            let Beat::Answered(answer) = fixture.beat() else {
                panic!("no answer");
            };
            assert_eq!(answer.silence, None);
            assert_eq!(answer.idle.unwrap().bursts, bursts);
        }
    }
}
