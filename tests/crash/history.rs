//! What to print of a message or a device when something is wrong with it.

use std::fmt::Write as _;
use std::time::Instant;

use crate::account::Ack;
use crate::book::Book;

/// Lines of a device's log that are shown.
const LOG_LINES: usize = 60;

impl Book {
    /// Notes that something is wrong, with what is known of the message and the device.
    pub(crate) fn violation(&mut self, device: Option<usize>, label: Option<usize>, what: &str) {
        // The first few say it all.
        if self.violations.len() >= 20 {
            return;
        }
        let mut text = String::new();
        if let Some(label) = label {
            let _ = write!(text, "#{label} ");
        }
        let _ = write!(text, "{what}");
        if let Some(device) = device {
            let account = &self.accounts[device];
            let _ = write!(text, " [device {device} {}]", account.name);
        }
        let now = Instant::now();
        let _ = write!(
            text,
            " at {} ms, after {} kills",
            self.millis(now),
            self.kills.len()
        );
        if let Some(label) = label {
            text += &self.history(label, device);
        }
        if let Some(device) = device {
            text += &self.log(device);
        }
        self.violations.push(text);
    }

    /// The log of the device that had the most sessions.
    pub(crate) fn busy(&self) -> String {
        let accounts = self.accounts.iter().enumerate();
        let most = accounts.max_by_key(|(_, account)| account.sessions);
        most.map_or_else(String::new, |(device, _)| self.log(device))
    }

    /// When a message was sent, answered, delivered and acked.
    fn history(&self, label: usize, device: Option<usize>) -> String {
        let publication = &self.publications[label];
        let mut text = format!(
            "\n    to {:?} key {:?} urgency {} ttl {:?}: sent {} ms, {:?}",
            publication.address,
            publication.key,
            publication.urgency,
            publication.ttl,
            self.millis(publication.sent_at),
            publication.id.map(|id| id.to_string()),
        );
        if let Some(at) = publication.answered_at() {
            let how = if publication.is_accepted() {
                "200"
            } else {
                "unsure"
            };
            let _ = write!(text, ", answered {how} at {} ms", self.millis(at));
        }
        let Some(device) = device else {
            return text;
        };
        let account = &self.accounts[device];
        let _ = write!(text, ", for this device: {:?}", self.is_for(label, device));
        let Some(kept) = publication.id.and_then(|id| account.kept.get(&id)) else {
            return text + ", never came";
        };
        for (at, session) in &kept.came {
            let _ = write!(
                text,
                "\n    came at {} ms in session {session}",
                self.millis(*at)
            );
        }
        match kept.ack {
            Ack::None => text += ", no ack",
            Ack::Sent(at) => _ = write!(text, ", acked at {} ms", self.millis(at)),
            Ack::Arrived(at) => _ = write!(text, ", acked at {} ms, arrived", self.millis(at)),
            Ack::Confirmed(at, by) => {
                let (at, by) = (self.millis(at), self.millis(by));
                let _ = write!(text, ", acked at {at} ms, confirmed by {by} ms");
            }
        }
        text
    }

    /// The last doings of a device, and the kills among them.
    fn log(&self, device: usize) -> String {
        let log = &self.accounts[device].log;
        let log = &log[log.len().saturating_sub(LOG_LINES)..];
        let began = log.first().map_or(self.began, |(at, _)| *at);
        let mut lines: Vec<(Instant, String)> = log.to_vec();
        let kills = self
            .kills
            .iter()
            .enumerate()
            .filter(|(_, kill)| kill.0 >= began);
        lines.extend(kills.map(|(n, kill)| (kill.0, format!("KILL {}", n + 1))));
        lines.sort_by_key(|(at, _)| *at);
        lines.iter().fold(String::new(), |mut text, (at, what)| {
            let _ = write!(text, "\n      {:>7} ms  {what}", self.millis(*at));
            text
        })
    }
}
