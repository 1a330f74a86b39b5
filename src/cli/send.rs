//! `petrel send`: publish one message through the HTTP API, as any publisher's server does.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use petrel_protocol::Urgency;
use serde_json::{Map, Value};

use super::http::Http;
use super::{Failure, target};

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("target").args(["token", "topic"])))]
pub(super) struct Args {
    /// Send to the device with this token.
    #[arg(long, value_name = "T")]
    token: Option<String>,
    /// Send to every subscriber of this topic.
    #[arg(long, value_name = "T")]
    topic: Option<String>,
    /// First line of the notification.
    #[arg(long, value_name = "S")]
    title: Option<String>,
    /// Text of the notification.
    #[arg(long, value_name = "S")]
    body: Option<String>,
    /// Address of a picture for the notification.
    #[arg(long, value_name = "URL")]
    image: Option<String>,
    /// A key and value for the app; may be given many times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    data: Vec<(String, String)>,
    /// How long the message is worth delivering: 90, 60s, 5m, 12h, 7d [default: 4 weeks].
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: Option<String>,
    /// very-low, low, normal or high [default: high with a notification, else normal].
    #[arg(long, value_name = "URGENCY")]
    urgency: Option<Urgency>,
    /// A newer message with the same key replaces this one while it waits.
    #[arg(long, value_name = "KEY")]
    collapse_key: Option<String>,
    /// Begin with the message in this file (- for stdin), {"message": {…}} or what stands inside; flags win over it.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    broker: BrokerArgs,
}

/// Which broker, and what opens it.
#[derive(Debug, clap::Args)]
struct BrokerArgs {
    /// Data directory of the running broker [default: ./petrel-data].
    #[arg(long, value_name = "DIR", conflicts_with = "http")]
    data_dir: Option<PathBuf>,
    /// The broker's URL for publishers, http:// or https://.
    #[arg(long, value_name = "URL", requires_all = ["project", "api_key"])]
    http: Option<String>,
    /// The CA that signed the certificate of an https:// URL.
    #[arg(long, value_name = "FILE", requires = "http")]
    ca: Option<PathBuf>,
    /// The project.
    #[arg(long, value_name = "NAME", requires = "api_key")]
    project: Option<String>,
    /// One of the project's keys for publishers.
    #[arg(long, value_name = "KEY", requires = "project")]
    api_key: Option<String>,
}

impl BrokerArgs {
    /// A client, not connected yet, and the project.
    fn resolve(self) -> Result<(Http, String), Failure> {
        if let (Some(url), Some(project), Some(key)) = (&self.http, &self.project, &self.api_key) {
            return Ok((Http::new(url, self.ca.as_deref(), key)?, project.clone()));
        }
        let ready = target::ready(self.data_dir.as_deref())?;
        let project = target::demo_value(self.project.or(ready.project), "--project")?;
        let key = target::demo_value(self.api_key.or(ready.api_key), "--api-key")?;
        let http = Http::new(&ready.http, Some(Path::new(&ready.ca)), &key)?;
        Ok((http, project))
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let base = match &args.json {
        Some(path) => read_request(path)?,
        None => Map::new(),
    };
    let body = request(base, &args)?;
    let (mut http, project) = args.broker.resolve()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(http.publish(&project, body.to_string().into()))?;
    let name = answer.name().ok_or_else(|| Failure::new(answer.error()))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{name}")?;
    Ok(out.flush()?)
}

/// The request: what the file said, with the flags over it.
fn request(mut request: Map<String, Value>, args: &Args) -> Result<Value, Failure> {
    let not_object = || Failure::new("\"message\" of the JSON must be an object: correct it");
    let message = request
        .entry("message")
        .or_insert_with(|| Map::new().into());
    let message = message.as_object_mut().ok_or_else(not_object)?;
    for (name, target) in [("token", &args.token), ("topic", &args.topic)] {
        if let Some(target) = target {
            // One target only: the one on the command line is meant.
            for other in ["token", "topic", "condition", "fid"] {
                message.remove(other);
            }
            message.insert(name.to_owned(), target.as_str().into());
        }
    }
    if !["token", "topic", "condition", "fid"]
        .iter()
        .any(|key| message.contains_key(*key))
    {
        return Err(Failure::new(
            "whom to send to is not said: name a device with --token, or its subscribers with --topic",
        ));
    }
    let text = |value: &Option<String>| value.as_deref().map(Value::from);
    merge(
        message,
        "notification",
        [
            ("title", text(&args.title)),
            ("body", text(&args.body)),
            ("image", text(&args.image)),
        ],
    )?;
    let data = args.data.iter();
    merge(
        message,
        "data",
        data.map(|(key, value)| (key.as_str(), Some(value.as_str().into()))),
    )?;
    merge(
        message,
        "petrel",
        [
            ("ttl", text(&args.ttl)),
            (
                "urgency",
                args.urgency.map(|urgency| urgency.as_str().into()),
            ),
            ("collapse_key", text(&args.collapse_key)),
        ],
    )?;
    Ok(Value::Object(request))
}

/// Sets members of an object inside the message; makes it where there is something to set.
fn merge<'a>(
    message: &mut Map<String, Value>,
    name: &str,
    members: impl IntoIterator<Item = (&'a str, Option<Value>)>,
) -> Result<(), Failure> {
    for (key, value) in members {
        let Some(value) = value else { continue };
        let inner = message.entry(name).or_insert_with(|| Map::new().into());
        if inner.is_null() {
            *inner = Map::new().into();
        }
        let inner = inner.as_object_mut().ok_or_else(|| {
            Failure::new(format!(
                "message.{name} of the JSON must be an object: correct it"
            ))
        })?;
        inner.insert(key.to_owned(), value);
    }
    Ok(())
}

fn read_request(path: &Path) -> Result<Map<String, Value>, Failure> {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    };
    let mut text = String::new();
    if is_stdin {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    }
    .map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?;
    parse_request(&text).map_err(|problem| Failure::new(format!("{name} {problem}")))
}

/// Takes a whole request, or the message inside it. What is in there the broker judges.
fn parse_request(text: &str) -> Result<Map<String, Value>, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    match value {
        Value::Object(object) if object.contains_key("message") => Ok(object),
        Value::Object(message) => Ok(Map::from_iter([(
            "message".to_owned(),
            Value::Object(message),
        )])),
        _ => Err("must hold an object: {\"message\": {…}}, or what stands inside".to_owned()),
    }
}

/// `k=v`; the value may hold further `=` and may be empty.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}

/// A time as the API takes it: `300s`. Without a unit it is seconds.
fn seconds(text: &str) -> Result<String, String> {
    let malformed = || "write it as 90, 60s, 5m, 12h or 7d".to_owned();
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let is_decimal = number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    if unit == "s" && is_decimal {
        return Ok(format!("{number}s"));
    }
    let factor: u64 = match unit {
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(malformed()),
    };
    let number: u64 = number.parse().map_err(|_| malformed())?;
    Ok(format!("{}s", number.saturating_mul(factor)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(std::iter::once("send").chain(line.split_whitespace()))
            .map(|line| line.args)
    }

    fn body(base: &str, line: &str) -> Value {
        request(parse_request(base).unwrap(), &args(line).unwrap()).unwrap()
    }

    #[test]
    fn flags_become_an_fcm_body() {
        assert_eq!(
            body(
                "{}",
                "--token t --title T --body B --image U --data a=1 --data b=x=y --ttl 5m --urgency very-low \
                 --collapse-key k"
            ),
            json!({"message": {
                "token": "t",
                "notification": {"title": "T", "body": "B", "image": "U"},
                "data": {"a": "1", "b": "x=y"},
                "petrel": {"ttl": "300s", "urgency": "very-low", "collapse_key": "k"},
            }})
        );
        assert_eq!(
            body("{}", "--topic news"),
            json!({"message": {"topic": "news"}})
        );
    }

    #[test]
    fn flags_win_over_the_json_and_leave_the_rest() {
        let base = r#"{"message":{"token":"t","notification":{"title":"old","body":"b"},"android":{"ttl":"1s"}}}"#;
        assert_eq!(
            body(base, "--topic news --title new --data k=v"),
            json!({"message": {
                "topic": "news",
                "notification": {"title": "new", "body": "b"},
                "android": {"ttl": "1s"},
                "data": {"k": "v"},
            }})
        );
        let dry = r#"{"message":{"token":"t"},"validate_only":true}"#;
        assert_eq!(
            body(dry, ""),
            json!({"message": {"token": "t"}, "validate_only": true})
        );
        let inner = r#"{"condition":"'a' in topics"}"#;
        assert_eq!(
            body(inner, ""),
            json!({"message": {"condition": "'a' in topics"}})
        );
    }

    #[test]
    fn what_cannot_be_sent_is_said() {
        let error = request(Map::new(), &args("--title T").unwrap()).unwrap_err();
        assert!(error.to_string().contains("--token"), "{error}");
        let base = parse_request(r#"{"token":"t","data":"x"}"#).unwrap();
        assert!(request(base, &args("--data a=b").unwrap()).is_err());
        let base = parse_request(r#"{"message":1}"#).unwrap();
        assert!(request(base, &args("--token t").unwrap()).is_err());
        for text in ["", "[]", "1"] {
            assert!(parse_request(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_checked() {
        for line in [
            "--token t --topic n",
            "--token t --data =v",
            "--token t --data kv",
            "--token t --ttl soon",
            "--token t --urgency urgent",
            "--token t --http http://h",
            "--token t --http http://h --project p --api-key k --data-dir d",
        ] {
            assert!(args(line).is_err(), "{line}");
        }
        assert!(args("--token t --http http://h --project p --api-key k").is_ok());
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("90", Some("90s")),
            ("0", Some("0s")),
            ("3.5s", Some("3.5s")),
            ("5m", Some("300s")),
            ("12h", Some("43200s")),
            ("7d", Some("604800s")),
            ("1.5h", None),
            ("ms", None),
            ("-1s", None),
            ("10ms", None),
            ("", None),
        ] {
            assert_eq!(seconds(text).ok().as_deref(), expected, "{text}");
        }
    }
}
