//! Bad values and unknown keys, each with its error; good values as they are printed.

use super::super::value::{Raw, Value};
use super::super::*;
use super::errors;

#[test]
fn each_bad_value_says_what_where_why_and_what_to_do() {
    let check = |file: &str, expect: &str| assert_eq!(errors(file, &[]), [expect], "{file}");
    check(
        "[quic]\nidle_timeout = \"5 minutes\"",
        r#"quic.idle_timeout = "5 minutes" (petrel.toml:2): is not a duration with its unit; write a number and a unit such as "250ms", "30s" or "5m", 5s to 6h"#,
    );
    check(
        "[quic]\nidle_timeout = 300",
        r#"quic.idle_timeout = 300 (petrel.toml:2): expected a duration with its unit, found an integer; write a number and a unit such as "250ms", "30s" or "5m", 5s to 6h"#,
    );
    check(
        "[drain]\nack_wait = \"0s\"",
        r#"drain.ack_wait = "0s" (petrel.toml:2): out of range: no number stands for "off" or "no limit"; write a number and a unit such as "250ms", "30s" or "5m", 100ms to 5m"#,
    );
    check(
        "[queue]\nmessages_max = -1",
        r#"queue.messages_max = -1 (petrel.toml:2): out of range: no number stands for "off" or "no limit"; write the number of messages, 1 to 1000000, without quotes"#,
    );
    check(
        "[queue]\nmessages_max = \"1000\"",
        r#"queue.messages_max = "1000" (petrel.toml:2): expected an integer, found a text; write the number of messages, 1 to 1000000, without quotes"#,
    );
    check(
        "[store]\ncache = \"64MB\"",
        r#"store.cache = "64MB" (petrel.toml:2): is not a size with its unit; write a number and a unit such as "16KiB" or "4MiB", 1MiB to 1024GiB"#,
    );
    check(
        "[store]\nengine = \"rocksdb\"",
        r#"store.engine = "rocksdb" (petrel.toml:2): is not one of the words; write "sled" or "fjall" or "memory""#,
    );
    check(
        "[quic]\nlisten = \"localhost:7443\"",
        r#"quic.listen = "localhost:7443" (petrel.toml:2): is not an address; write an IP address and a port such as "127.0.0.1:7443" or "[::1]:0""#,
    );
    check(
        "[admin]\nallow_beyond_loopback = \"yes\"",
        r#"admin.allow_beyond_loopback = "yes" (petrel.toml:2): expected true or false, found a text; write true or false"#,
    );
    check(
        "data_dir = \"\"",
        r#"data_dir = "" (petrel.toml:1): is not a path; write a path"#,
    );
    check(
        "[tls]\nnames = [\"under_score.example\"]",
        r#"tls.names = ["under_score.example"] (petrel.toml:2): is not a list of host names; write a list such as ["push.example.org", "192.0.2.7"]"#,
    );
    check(
        "public_url = \"https://user:hunter2@push.example.org\"",
        r#"public_url (petrel.toml:1): is not a URL; write a URL such as "https://push.example.org""#,
    );
    check(
        "[log]\nlevel = 1.5",
        r#"log.level = (a fraction) (petrel.toml:2): expected one of the words, found a fraction; write "error" or "warn" or "info" or "debug" or "trace""#,
    );
}

#[test]
fn bounds_hold_at_the_limit_and_one_past_it() {
    let check = |key: &str, value: &str, expect: bool| {
        let config = Config::load(None, std::iter::empty(), &[Flag::new("--x", key, value)]);
        assert_eq!(config.is_ok(), expect, "{key} = {value}");
    };
    check("store.batch_operations_max", "256", true);
    check("store.batch_operations_max", "257", false);
    check("store.batch_operations_max", "1", true);
    check("store.batch_operations_max", "0", false);
    check("store.ack_window", "1s", true);
    check("store.ack_window", "1001ms", false);
    check("queue.bytes_max", "16KiB", true);
    check("queue.bytes_max", "16383B", false);
    check("queue.bytes_max", "99999999999999999999GiB", false);
    check("queue.messages_max", "1_000_000", true);
    check("queue.messages_max", "1000001", false);
    check("queue.messages_max", &"9".repeat(60), false);
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    let check = |file: &str, expect: &str| assert_eq!(errors(file, &[]), [expect], "{file}");
    check(
        "[quic]\nidle-timeout = \"5m\"",
        "quic.idle-timeout (petrel.toml:2): no such key; did you mean quic.idle_timeout?",
    );
    check(
        "[quik]\nlisten = \"127.0.0.1:0\"",
        "quik.listen (petrel.toml:2): no such key; did you mean quic.listen?",
    );
    check(
        "keep_alive = \"1m\"",
        "keep_alive (petrel.toml:1): no such key; did you mean quic.keep_alive?",
    );
    check(
        "[kitchen]",
        "kitchen (petrel.toml:1): no such key; remove it; `petrel config show` lists all keys",
    );
    check(
        "quic = 5",
        "quic (petrel.toml:1): is a section, not a key; set its keys one by one; in a file they stand below its name in brackets",
    );
    check(
        "[quic.listen]\nip = 1",
        "quic.listen.ip (petrel.toml:2): no such key; did you mean quic.listen?",
    );
    check(
        "[[quic]]\nlisten = \"127.0.0.1:0\"",
        "quic (petrel.toml:1): is a section, not a key; set its keys one by one; in a file they stand below its name in brackets",
    );
}

#[test]
fn unknown_variables_are_errors_with_a_suggestion() {
    let check =
        |name: &str, expect: &str| assert_eq!(errors("", &[(name, "x")]), [expect], "{name}");
    check(
        "PETREL_QUIC_LISTEN",
        "quic_listen (PETREL_QUIC_LISTEN): no such key; did you mean PETREL_QUIC__LISTEN?",
    );
    check(
        "PETREL_PROJECTS__MY_APP__API_KEY",
        "projects.my-app.api_key (PETREL_PROJECTS__MY_APP__API_KEY): no such key; did you mean PETREL_PROJECTS__MY_APP__API_KEYS?",
    );
    check(
        "PETREL_",
        "PETREL_: no such key; remove it; `petrel config show` lists all keys",
    );
}

#[test]
fn values_print_as_they_are_written() {
    let check = |kind: &Kind, text: &str, expect: &str| {
        let value = kind.parse(&Raw::Bare(text.to_owned()));
        assert_eq!(
            value.as_ref().map(Value::to_string).ok().as_deref(),
            Some(expect),
            "{text}"
        );
        // What is printed, read as a file, is the same value.
        let file = format!("x = {expect}");
        let table = toml::de::DeTable::parse(&file).unwrap();
        if let Some(text) = table.get_ref()["x"].get_ref().as_str() {
            assert_eq!(kind.parse(&Raw::Text(text.to_owned())), value);
        }
    };
    let span = Kind::Span {
        min_ms: 0,
        max_ms: u64::MAX,
    };
    let size = Kind::Size {
        min: 0,
        max: u64::MAX,
    };
    check(&span, "300s", "\"5m\"");
    check(&span, "90s", "\"90s\"");
    check(&span, "1500ms", "\"1500ms\"");
    check(&span, "0s", "\"0ms\"");
    check(&span, "48h", "\"2d\"");
    check(&size, "4096KiB", "\"4MiB\"");
    check(&size, "1000B", "\"1000B\"");
    check(&size, "0B", "\"0B\"");
    check(&Kind::Path, "a\"b\\c\nd", "\"a\\\"b\\\\c\\u000Ad\"");
    check(&Kind::Names, "a.example,::1", "[\"a.example\", \"::1\"]");
    check(
        &Kind::Networks,
        "10.0.0.0/8,::1",
        "[\"10.0.0.0/8\", \"::1/128\"]",
    );
    check(&Kind::Switch, "true", "true");
}
