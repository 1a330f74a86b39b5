//! What `listen` shows to people: banners on a terminal, one plain line an event elsewhere.
//!
//! What a publisher wrote never reaches the terminal raw: control characters are escaped, so that no message can move
//! the cursor, change the title or hide a line.

use std::fmt::Write as _;
use std::time::Duration;

use petrel_client::{Event, Message};

use super::target::Publishing;

/// Length of the rules of a banner.
const WIDTH: usize = 60;

/// How events are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    /// Draws banners; `false`: one line each.
    pub(super) is_terminal: bool,
    /// May use colours.
    pub(super) has_colour: bool,
}

impl Screen {
    /// The text of an event, with its line breaks.
    pub(super) fn event(self, event: &Event, now_ms: u64) -> String {
        match event {
            Event::Registered {
                token,
                resumed,
                previous,
            } => {
                let how = if *resumed {
                    "registered before"
                } else {
                    "registered now"
                };
                let mut text = format!("token {token} ({how})");
                if let Some(previous) = previous {
                    let _ = write!(text, "; it takes the place of {previous}");
                }
                text + "\n"
            }
            Event::Message(delivery) if self.is_terminal => {
                self.banner(delivery.message(), delivery.redelivered(), now_ms)
            }
            Event::Message(delivery) => plain(delivery.message(), delivery.redelivered()),
            Event::Gap {
                topic,
                count,
                reasons,
            } => {
                let reasons: Vec<String> = reasons
                    .iter()
                    .map(|(reason, n)| format!("{n} {reason}"))
                    .collect();
                let of = match topic {
                    Some(topic) => format!("of topic {}", clean(topic)),
                    None => "to this device".to_owned(),
                };
                let reasons = clean(&reasons.join(", "));
                self.warning(&format!("{count} messages {of} will never come: {reasons}"))
            }
            Event::Recall { id } => self.dim(&format!("message {id} is withdrawn")),
            Event::Disconnected { cause, retry_in } => {
                self.disconnected(&cause.to_string(), *retry_in)
            }
            Event::Closed(cause) => self.warning(&format!("closed: {}", clean(&cause.to_string()))),
            other => self.dim(&clean(&format!("{other:?}"))),
        }
    }

    /// A subscription that the broker confirmed.
    pub(super) fn subscribed(self, topic: &str) -> String {
        self.dim(&format!("subscribed to {topic}"))
    }

    /// A session that was opened again.
    pub(super) fn back(self) -> String {
        self.dim("connected again")
    }

    /// The connection is gone.
    pub(super) fn disconnected(self, cause: &str, retry_in: Duration) -> String {
        self.dim(&format!(
            "connection lost: {}; trying again in {}",
            clean(cause).trim_end_matches('.'),
            span(retry_in)
        ))
    }

    /// How to reach this device, to be pasted.
    pub(super) fn invitation(self, token: &str, publishing: Option<&Publishing>) -> String {
        let mut text = String::new();
        let Some(Publishing {
            data_dir,
            http,
            project,
            api_key,
        }) = publishing
        else {
            return text;
        };
        let data_dir = data_dir
            .as_ref()
            .map_or(String::new(), |dir| format!(" --data-dir {dir}"));
        let _ = write!(
            text,
            "\nsend to it, in another terminal:\n\
             \n\
             \x20 petrel send{data_dir} --token {token} --title Hello --body World\n\
             \n\
             \x20 curl {http}/v1/projects/{project}/messages:send \\\n\
             \x20   -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\\n\
             \x20   -d '{{\"message\":{{\"token\":\"{token}\",\"notification\":{{\"title\":\"Hello\",\"body\":\"World\"}}}}}}'\n\
             \n\
             Ctrl-C ends it; what comes meanwhile waits at the broker.\n\n"
        );
        text
    }

    fn banner(self, message: &Message, redelivered: bool, now_ms: u64) -> String {
        let notification = message.notification.clone().unwrap_or_default();
        let title = match (&notification.title, &message.notification) {
            (Some(title), _) => clean(title),
            (None, Some(_)) => "(no title)".to_owned(),
            (None, None) => "data message".to_owned(),
        };
        let rule = "─".repeat(WIDTH.saturating_sub(title.chars().count() + 4).max(2));
        let mut text = format!("╭─ {} {rule}\n", self.paint("1", &title));
        let mut row = |label: &str, value: &str| {
            for line in value.lines() {
                let _ = writeln!(text, "│ {}{}", self.paint("2", label), clean(line));
            }
        };
        row("", notification.body.as_deref().unwrap_or_default());
        row("image ", notification.image.as_deref().unwrap_or_default());
        for (key, value) in &message.data {
            row(&format!("{} = ", clean(key)), value.as_str());
            if value.is_empty() {
                row(&format!("{} = ", clean(key)), "\"\"");
            }
        }
        let mut foot = Vec::new();
        foot.extend(
            message
                .topic
                .as_ref()
                .map(|t| format!("topic {}", clean(t))),
        );
        foot.extend(
            message
                .condition
                .as_ref()
                .map(|c| format!("condition {}", clean(c))),
        );
        foot.push(message.urgency.to_string());
        foot.extend(
            message
                .collapse_key
                .as_ref()
                .map(|k| format!("collapse key {}", clean(k))),
        );
        foot.push(age(now_ms.saturating_sub(message.sent_at_ms)));
        if redelivered {
            foot.push("seen before".to_owned());
        }
        let _ = writeln!(text, "╰─ {}", self.paint("2", &foot.join(" · ")));
        text
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text) + "\n"
    }

    fn warning(self, text: &str) -> String {
        self.paint("33", text) + "\n"
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.has_colour && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// One line for logs and pipes.
fn plain(message: &Message, redelivered: bool) -> String {
    let mut text = format!("message {}", message.id);
    let mut field = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(text, " {name}=\"{}\"", quoted(value));
        }
    };
    field("topic", message.topic.as_deref());
    field("condition", message.condition.as_deref());
    if let Some(notification) = &message.notification {
        field("title", notification.title.as_deref());
        field("body", notification.body.as_deref());
        field("image", notification.image.as_deref());
    }
    for (key, value) in &message.data {
        field(&format!("data.{}", clean(key)), Some(value));
    }
    field("collapse_key", message.collapse_key.as_deref());
    let _ = write!(text, " urgency={}", message.urgency);
    if redelivered {
        text.push_str(" redelivered");
    }
    text + "\n"
}

/// Control characters, and those that turn the direction of text, escaped.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn quoted(text: &str) -> String {
    clean(&text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn span(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} s", duration.as_secs())
    }
}

fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms ago"),
        1_000..120_000 => format!("{} s ago", ms / 1_000),
        120_000..7_200_000 => format!("{} min ago", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h ago", ms / 3_600_000),
        _ => format!("{} days ago", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Screen = Screen {
        is_terminal: true,
        has_colour: false,
    };

    fn message(json: serde_json::Value) -> Message {
        serde_json::from_value(json).unwrap()
    }

    fn full() -> Message {
        message(serde_json::json!({
            "id": "1-2", "topic": "news", "urgency": "high", "collapse_key": "k",
            "notification": {"title": "Hello", "body": "two\nlines \u{1b}[2J", "image": "http://i"},
            "data": {"a": "1 \"x\"", "b": ""},
            "sent_at_ms": 1000, "expires_at_ms": 9, "received_at_ms": 1001
        }))
    }

    #[test]
    fn a_banner_shows_everything_and_no_escape_sequence() {
        let text = PLAIN.banner(&full(), false, 4000);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("╭─ Hello ──"), "{text}");
        assert_eq!(
            lines[1..],
            [
                "│ two",
                "│ lines \\u{1b}[2J",
                "│ image http://i",
                "│ a = 1 \"x\"",
                "│ b = \"\"",
                "╰─ topic news · high · collapse key k · 3 s ago",
            ]
        );
    }

    #[test]
    fn a_plain_line_is_one_line() {
        let text = plain(&full(), true);
        assert_eq!(
            text,
            "message 1-2 topic=\"news\" title=\"Hello\" body=\"two\\nlines \\u{1b}[2J\" image=\"http://i\" \
             data.a=\"1 \\\"x\\\"\" data.b=\"\" collapse_key=\"k\" urgency=high redelivered\n"
        );
    }

    #[test]
    fn colours_only_where_allowed() {
        let colourful = Screen {
            has_colour: true,
            ..PLAIN
        };
        assert_eq!(colourful.back(), "\x1b[2mconnected again\x1b[0m\n");
        assert_eq!(PLAIN.back(), "connected again\n");
    }

    #[test]
    fn the_invitation_is_ready_to_paste_and_only_there_with_keys() {
        let publishing = Publishing {
            data_dir: Some("/d".to_owned()),
            http: "http://127.0.0.1:7480".to_owned(),
            project: "demo".to_owned(),
            api_key: "KEY".to_owned(),
        };
        let text = PLAIN.invitation("TOKEN", Some(&publishing));
        for part in [
            "petrel send --data-dir /d --token TOKEN ",
            "curl http://127.0.0.1:7480/v1/projects/demo/messages:send",
            "Bearer KEY'",
            r#"-d '{"message":{"token":"TOKEN","notification":{"title":"Hello","body":"World"}}}'"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(PLAIN.invitation("TOKEN", None), "");
    }

    #[test]
    fn ages() {
        for (ms, expected) in [
            (0, "0 ms ago"),
            (999, "999 ms ago"),
            (1_000, "1 s ago"),
            (120_000, "2 min ago"),
            (7_200_000, "2 h ago"),
            (172_800_000, "2 days ago"),
        ] {
            assert_eq!(age(ms), expected);
        }
    }
}
