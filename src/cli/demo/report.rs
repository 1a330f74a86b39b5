//! What the demo ends with: the checks, the table, and the same as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::verdict::Verdict;

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) devices: usize,
    pub(super) sockets: usize,
    pub(super) connect_per_s: f64,
    /// Microseconds from the intended time of a publish to the app.
    pub(super) publish_to_app: Histogram<u64>,
    pub(super) steady_per_s: f64,
    pub(super) broadcasts: usize,
    pub(super) deliveries_per_s: f64,
    /// `None` where the kernel does not tell.
    pub(super) server_bytes_per_device: Option<u64>,
    /// Devices online at the end.
    pub(super) online: usize,
    /// Publishes answered under the traffic that the kill cut.
    pub(super) answered_under_traffic: usize,
    pub(super) renewed: u64,
    pub(super) gaps: u64,
    pub(super) closed: Vec<String>,
    pub(super) verdict: Verdict,
    pub(super) elapsed: Duration,
}

/// One thing that must hold.
#[derive(Debug)]
struct Check {
    holds: bool,
    text: String,
}

#[derive(Serialize)]
struct Json {
    devices: usize,
    sockets: usize,
    connect_per_s: f64,
    publish_to_app_ms: Quantiles,
    deliveries_per_s: f64,
    server_bytes_per_device: Option<u64>,
    published: u64,
    answered: u64,
    unanswered: u64,
    replayed: u64,
    lost: u64,
    doubled: u64,
    seconds: f64,
    ok: bool,
}

#[derive(Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

impl Report {
    /// Whether every check holds.
    pub(super) fn is_good(&self) -> bool {
        self.checks().iter().all(|check| check.holds)
    }

    fn checks(&self) -> Vec<Check> {
        let v = &self.verdict;
        let check = |holds, text: String| Check { holds, text };
        let none = |count: u64, good: &str, bad: &str| Check {
            holds: count == 0,
            text: if count == 0 {
                good.to_owned()
            } else {
                format!("{} {bad}", grouped(count))
            },
        };
        let why = self.closed.first().map_or("", String::as_str);
        vec![
            check(
                v.lost == 0 && v.promised > 0,
                format!(
                    "{} publishes were answered 200 and promise {} deliveries: {} lost",
                    grouped(v.answered),
                    grouped(v.promised),
                    grouped(v.lost)
                ),
            ),
            none(v.doubled, "nothing came twice", "deliveries came twice"),
            none(
                v.foreign,
                "nothing came to a device that it was not for",
                "deliveries came to a device that they were not for",
            ),
            check(
                self.answered_under_traffic > 0,
                format!(
                    "the broker was killed under traffic: {} publishes answered, {} cut off",
                    grouped(self.answered_under_traffic as u64),
                    grouped(v.unanswered)
                ),
            ),
            check(
                self.online == self.devices,
                format!(
                    "{} of {} devices came back by themselves or when asked to",
                    grouped(self.online as u64),
                    grouped(self.devices as u64)
                ),
            ),
            none(
                self.renewed,
                "no device lost its token",
                "devices lost their token",
            ),
            none(
                self.closed.len() as u64,
                "no device was closed",
                &format!("devices were closed: {why}"),
            ),
            none(
                v.refused,
                "no publish was refused",
                "publishes were refused",
            ),
            none(
                v.unsent,
                "no publish failed to leave while the broker ran",
                "publishes did not leave although the broker ran",
            ),
            none(
                self.gaps,
                "the broker gave up nothing",
                "messages were given up by the broker",
            ),
        ]
    }

    /// The checks, one a line.
    pub(super) fn checks_text(&self) -> String {
        let mut text = String::new();
        for check in self.checks() {
            let mark = if check.holds { '✓' } else { '✗' };
            let _ = writeln!(text, "{mark} {}", check.text);
        }
        text
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let v = &self.verdict;
        let of = if v.unanswered > 0 {
            format!(
                ", {} unanswered ({} arrived)",
                grouped(v.unanswered),
                grouped(v.unanswered_arrived)
            )
        } else {
            String::new()
        };
        let memory = self
            .server_bytes_per_device
            .map_or("unknown".to_owned(), |bytes| {
                format!(
                    "{:.1} KiB a device, handshakes included (at rest: petrel-load run idle)",
                    bytes as f64 / 1024.0
                )
            });
        let rows = [
            (
                "devices",
                format!(
                    "{} on {} sockets",
                    grouped(self.devices as u64),
                    self.sockets
                ),
            ),
            (
                "connect rate",
                format!("{} a second", rate(self.connect_per_s)),
            ),
            (
                "publish → app",
                format!(
                    "p50 {:.1} ms, p99 {:.1} ms ({} messages, {} a second)",
                    self.quantile_ms(0.5),
                    self.quantile_ms(0.99),
                    grouped(self.publish_to_app.len()),
                    rate(self.steady_per_s)
                ),
            ),
            (
                "broadcast",
                format!(
                    "{} deliveries a second ({} to {} devices)",
                    rate(self.deliveries_per_s),
                    self.broadcasts,
                    grouped(self.devices as u64)
                ),
            ),
            ("broker's memory", memory),
            (
                "published",
                format!(
                    "{}: {} answered 200{of}",
                    grouped(v.published),
                    grouped(v.answered)
                ),
            ),
            ("replayed", format!("{} deliveries", grouped(v.replayed))),
            ("lost", grouped(v.lost)),
            ("doubled", grouped(v.doubled)),
            ("time", format!("{:.1} s", self.elapsed.as_secs_f64())),
        ];
        let mut text = String::new();
        for (name, value) in rows {
            let _ = writeln!(text, "  {name:<17}{value}");
        }
        text
    }

    /// One line of JSON, without its end.
    pub(super) fn json(&self) -> Result<String, serde_json::Error> {
        let v = &self.verdict;
        serde_json::to_string(&Json {
            devices: self.devices,
            sockets: self.sockets,
            connect_per_s: tenths(self.connect_per_s),
            publish_to_app_ms: Quantiles {
                p50: self.quantile_ms(0.5),
                p99: self.quantile_ms(0.99),
            },
            deliveries_per_s: tenths(self.deliveries_per_s),
            server_bytes_per_device: self.server_bytes_per_device,
            published: v.published,
            answered: v.answered,
            unanswered: v.unanswered,
            replayed: v.replayed,
            lost: v.lost,
            doubled: v.doubled,
            seconds: tenths(self.elapsed.as_secs_f64()),
            ok: self.is_good(),
        })
    }

    fn quantile_ms(&self, quantile: f64) -> f64 {
        self.publish_to_app.value_at_quantile(quantile) as f64 / 1000.0
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn rate(value: f64) -> String {
    grouped(value.round().max(0.0) as u64)
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let mut publish_to_app = Histogram::new(3).unwrap();
        publish_to_app.record(1500).unwrap();
        Report {
            devices: 10,
            sockets: 10,
            connect_per_s: 123.45,
            publish_to_app,
            steady_per_s: 500.0,
            broadcasts: 10,
            deliveries_per_s: 1000.0,
            server_bytes_per_device: Some(2048),
            online: 10,
            answered_under_traffic: 5,
            renewed: 0,
            gaps: 0,
            closed: Vec::new(),
            verdict: Verdict {
                published: 21,
                answered: 20,
                unanswered: 1,
                promised: 30,
                replayed: 7,
                ..Verdict::default()
            },
            elapsed: Duration::from_millis(9870),
        }
    }

    #[test]
    fn the_json_has_every_key_in_order() {
        assert_eq!(
            good().json().unwrap(),
            r#"{"devices":10,"sockets":10,"connect_per_s":123.5,"publish_to_app_ms":{"p50":1.5,"p99":1.5},"deliveries_per_s":1000.0,"server_bytes_per_device":2048,"published":21,"answered":20,"unanswered":1,"replayed":7,"lost":0,"doubled":0,"seconds":9.9,"ok":true}"#
        );
    }

    #[test]
    fn each_check_can_fail() {
        assert!(good().is_good(), "{}", good().checks_text());
        let spoils: [fn(&mut Report); 11] = [
            |r| r.verdict.lost = 1,
            |r| r.verdict.promised = 0,
            |r| r.verdict.doubled = 1,
            |r| r.verdict.foreign = 1,
            |r| r.verdict.refused = 1,
            |r| r.verdict.unsent = 1,
            |r| r.answered_under_traffic = 0,
            |r| r.online = 9,
            |r| r.renewed = 1,
            |r| r.closed.push("replaced".to_owned()),
            |r| r.gaps = 1,
        ];
        for (index, spoil) in spoils.into_iter().enumerate() {
            let mut report = good();
            spoil(&mut report);
            assert!(!report.is_good(), "{index}");
            assert_eq!(report.checks_text().matches('✗').count(), 1, "{index}");
            assert!(report.json().unwrap().ends_with(r#""ok":false}"#));
        }
    }

    #[test]
    fn the_table_shows_what_was_lost_and_doubled() {
        let mut report = good();
        report.verdict.lost = 1234;
        let table = report.table();
        assert!(table.contains("  lost             1,234\n"), "{table}");
        assert!(table.contains("p50 1.5 ms"), "{table}");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
