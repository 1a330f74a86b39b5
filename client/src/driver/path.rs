//! The path of a connection: kept alive, followed to another network, given up; and what is learnt from each.

use std::time::{Duration, Instant};

use petrel_protocol::wire::{self, to_broker};
use quinn::ConnectionError;

use super::link::Link;
use super::{Driver, End, PathLost};
use crate::device::{DeviceState, now_ms};
use crate::dial::{Silence, explain};
use crate::error::{Cause, CauseKind};
use crate::keep_alive::{Answer, Beat, Bounds, Moment, Path, Pulse};

/// Least idle timeout of a connection.
const IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(60);
/// Round trips that a connection gets to answer after the device moved, and the bounds of that time. QUIC repeats what
/// it sends after about two round trips, then after four: eight leave room for two packets lost.
const MOVE_ROUND_TRIPS: u32 = 8;
const MOVE_MIN: Duration = Duration::from_secs(1);
const MOVE_MAX: Duration = Duration::from_secs(3);

/// With headers and tag still one datagram of 1,200 bytes, which every path carries.
const ANNOUNCEMENT_BYTES: usize = 1_100;

/// Now.
pub(super) fn moment() -> Moment {
    Moment {
        at: Instant::now(),
        wall_ms: now_ms(),
    }
}

/// A connection ended by itself. QUIC may give it up sooner than the session does: then, too, silence may be to blame.
pub(super) fn ended(link: &Link, error: &ConnectionError) -> End {
    let timed_out = matches!(error, ConnectionError::TimedOut);
    End {
        path_lost: timed_out.then(|| PathLost {
            silence: link.pulse.silence_in_question(),
        }),
        ..End::failed(explain(&link.broker, error))
    }
}

impl Driver {
    fn bounds(&self) -> Bounds {
        Bounds::new(
            self.settings.keep_alive_start,
            self.settings.keep_alive_max,
            self.registration.keep_alive_seconds,
        )
    }

    /// What was learnt for the network that the device is on.
    fn interval(&mut self) -> Duration {
        let bounds = self.bounds();
        self.registration
            .networks
            .enter(&self.network, &bounds)
            .interval(&bounds)
    }

    pub(super) fn pulse(&mut self) -> Pulse {
        Pulse::new(self.interval(), self.settings.answer_timeout, moment())
    }

    pub(super) fn transport_silence(&self) -> Silence {
        let hint = Duration::from_secs(self.registration.keep_alive_seconds.into());
        Silence {
            last_resort: (!hint.is_zero()).then_some(hint * 2),
            idle_timeout: IDLE_TIMEOUT_MIN.max(self.settings.keep_alive_max * 2),
        }
    }

    /// The broker said how long the device may stay silent.
    pub(super) fn hinted(&mut self, link: &mut Link, seconds: u32) {
        self.registration.keep_alive_seconds = seconds;
        self.apply_interval(link);
    }

    fn apply_interval(&mut self, link: &mut Link) {
        link.pulse.set_interval(self.interval());
        self.tell_stats();
    }

    pub(super) fn tell_stats(&mut self) {
        let (interval, interval_max) = (self.interval(), self.bounds().max);
        // What was measured at another interval, or elsewhere, does not hold here.
        let former = self.shared.stats();
        if former.interval != interval || former.network != self.network {
            self.meter.begin_anew();
        }
        let stats = self
            .meter
            .stats(self.network.clone(), interval, interval_max);
        self.shared.set_stats(stats);
    }

    /// Takes note of the network that the app says the device is on, and binds its socket anew. Says whether there was
    /// anything to take note of.
    pub(super) fn enter_network(&mut self) -> bool {
        let Some(network) = self.shared.take_network() else {
            return false;
        };
        // Nobody can say any more what the former network did.
        self.suspected = None;
        if let Err(error) = self.settings.socket.rebind(&network) {
            tracing::debug!(%error, "no new socket for another network: the old one stays");
        }
        self.network = network;
        self.tell_stats();
        true
    }

    /// Takes an open connection along. A socket bound anew sends a PING by itself, which shows the broker the new path;
    /// the announcement opens it for what waits there, and is the sign where the socket stayed or moved before.
    pub(super) fn move_to_network(&mut self, link: &mut Link) {
        let (now, counters) = (moment(), link.counters());
        if !self.enter_network() {
            return;
        }
        let rtt = link.connection.rtt();
        let patience = (rtt * MOVE_ROUND_TRIPS).clamp(MOVE_MIN, MOVE_MAX);
        link.pulse.handle_move(now, counters, rtt, patience);
        link.pulse.set_interval(self.interval());
        if link.out.is_empty() {
            link.session.say(announcement());
        }
    }

    /// The time has come to look at the connection.
    pub(super) async fn beat(&mut self, link: &mut Link) -> Result<(), End> {
        let rtt = link.connection.rtt();
        match link.pulse.handle_timeout(moment(), link.counters(), rtt) {
            Beat::Nothing => {}
            Beat::Ask => {
                self.meter.handle_ask();
                say_something(link);
            }
            Beat::Answered(answer) => self.learn(link, &answer).await?,
            Beat::Unanswered { silence } => {
                let text = match silence {
                    Some(silence) => format!(
                        "the path to {} gave no answer after a silence of {} s",
                        link.broker,
                        silence.as_secs()
                    ),
                    None => format!("the path to {} gave no answer", link.broker),
                };
                return Err(End {
                    path_lost: Some(PathLost { silence }),
                    ..End::failed(Cause::new(CauseKind::Lost, text))
                });
            }
        }
        Ok(())
    }

    async fn learn(&mut self, link: &mut Link, answer: &Answer) -> Result<(), End> {
        self.meter.handle_answer(answer);
        let bounds = self.bounds();
        let learner = self.registration.networks.enter(&self.network, &bounds);
        let news = match (answer.path, answer.silence) {
            (Path::Same, Some(silence)) => learner.survived(silence, &bounds, now_ms()),
            (Path::Forgotten, Some(silence)) => learner.failed(silence, &bounds, now_ms()),
            (Path::Chosen, _) | (_, None) => false,
        };
        let interval = learner.interval(&bounds);
        if news {
            tracing::debug!(?interval, path = ?answer.path, "learnt of the network");
        }
        self.apply_interval(link);
        if news { self.store().await } else { Ok(()) }
    }

    /// A connection was lost after a silence. Only if the network works otherwise, which a connection made at the first
    /// attempt proves, was the silence to blame.
    pub(super) async fn judge_suspicion(&mut self, connected: bool) {
        let Some(silence) = self.suspected.take().filter(|_| connected) else {
            return;
        };
        self.meter.handle_loss();
        let bounds = self.bounds();
        let learner = self.registration.networks.enter(&self.network, &bounds);
        if learner.failed(silence, &bounds, now_ms()) {
            tracing::debug!(interval = ?learner.interval(&bounds), "a path was lost to silence");
            // Should this fail, it is stored with the next change.
            let _ = self.save().await;
        }
        self.tell_stats();
    }
}

/// A state that says nothing new, and fills a datagram.
///
/// Until a new address is validated, a broker may send three times what came from it (RFC 9000 section 8.1), and its
/// first packet, a challenge, has 1,200 bytes. After a short packet messages would have to wait for the response to
/// that: two round trips instead of one. The filling is a list of muted categories that is not meant, as `muted_known`
/// says: brokers do not look at it.
fn announcement() -> to_broker::Frame {
    to_broker::Frame::SetState(wire::SetState {
        muted_categories: vec![" ".repeat(ANNOUNCEMENT_BYTES)],
        muted_known: false,
        ..wire::SetState::default()
    })
}

/// A state that says nothing new: the shortest frame that a broker must accept (PROTO-4, PROTO-22). Not added to what
/// the stream does not take: that will do as well, once it does.
fn say_something(link: &mut Link) {
    if link.out.is_empty() {
        link.session.say(DeviceState::default().to_frame());
    }
}
