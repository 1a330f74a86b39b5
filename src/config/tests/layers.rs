//! Layers over each other, several errors at once, relations between keys.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::*;
use super::{check_errors, load};

#[test]
fn a_start_without_anything() {
    let env = [("HOME".to_owned(), "/".to_owned())].into_iter();
    let config = Config::load(None, env, &[]).unwrap();
    assert_eq!(
        config.quic.listen,
        "127.0.0.1:7443".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(config.quic.idle_timeout, Duration::from_secs(300));
    assert_eq!(config.http.body_max, ByteSize::new(65536));
    assert_eq!(config.store.engine, StoreEngine::Sled);
    assert_eq!(config.public_url, None);
    assert!(config.projects.is_empty() && config.tls.names.is_empty());
}

#[test]
fn later_layers_win_and_say_so() {
    let file =
        "[quic]\nlisten = \"127.0.0.1:1\"\nidle_timeout = \"6m\"\n[http]\nlisten = \"127.0.0.1:2\"";
    let env = [
        ("PETREL_QUIC__LISTEN", "127.0.0.1:3"),
        ("PETREL_HTTP__LISTEN", "127.0.0.1:4"),
        ("PATH", "/bin"),
    ];
    let flags = [Flag::new("--quic", "quic.listen", "127.0.0.1:5")];
    let config = load(file, &env, &flags).unwrap();
    assert_eq!(config.quic.listen.port(), 5);
    assert_eq!(config.http.listen.port(), 4);
    let shown = config.show();
    let check = |line: &str| assert!(shown.lines().any(|l| l == line), "{line} not in:\n{shown}");
    check("quic.listen = \"127.0.0.1:5\"  # flag --quic");
    check("http.listen = \"127.0.0.1:4\"  # PETREL_HTTP__LISTEN");
    check("quic.idle_timeout = \"6m\"  # petrel.toml:3");
    check("store.cache = \"64MiB\"  # default");
    check("public_url = (not set)  # default");
    assert_eq!(shown.lines().count(), KEYS.len());
}

#[test]
fn keys_of_the_top_level_come_from_every_layer() {
    let check = |file: &str, env: &[(&str, &str)], flags: &[Flag], expect: &str| {
        assert_eq!(load(file, env, flags).unwrap().data_dir, Path::new(expect));
    };
    let env = [("PETREL_DATA_DIR", "from-env")];
    check("", &[], &[], "./petrel-data");
    check("data_dir = \"from-file\"", &[], &[], "from-file");
    check("data_dir = \"from-file\"", &env, &[], "from-env");
    check(
        "",
        &env,
        &[Flag::new("--data-dir", "data_dir", "from-flag")],
        "from-flag",
    );
}

#[test]
fn flags_of_a_list_add_up() {
    let file = "[tls]\nnames = [\"Push.example.org\"]";
    let flags = ["a.example", "192.0.2.7"].map(|name| Flag::new("--name", "tls.names", name));
    let config = load(file, &[], &flags).unwrap();
    assert_eq!(
        config.tls.names,
        ["push.example.org", "a.example", "192.0.2.7"]
    );
    assert!(
        config
            .show()
            .contains("# petrel.toml:2 + flag --name + flag --name"),
        "{}",
        config.show()
    );
    let replaced = load(file, &[("PETREL_TLS__NAMES", "b.example, c.example")], &[]).unwrap();
    assert_eq!(replaced.tls.names, ["b.example", "c.example"]);
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let file = "[quic]\nlisten = \"nowhere\"\nidle = \"1m\"\n[queue]\npolicy = \"drop\"\n\
                [projects.demo]\napi_keys = [\"short\"]";
    let flags = [Flag::new("--admin", "admin.listen", "0.0.0.0:1")];
    let errors = load(file, &[("PETREL_LOG__LEVEL", "loud")], &flags).unwrap_err();
    let keys: Vec<&str> = errors.problems().iter().map(|p| p.key.as_str()).collect();
    let expect = [
        "quic.idle",
        "quic.listen",
        "queue.policy",
        "log.level",
        "projects.demo.api_keys[0]",
        "admin.listen",
    ];
    assert_eq!(keys, expect);
    let text = errors.to_string();
    assert!(
        text.starts_with("the configuration has 6 problems:\n  quic.idle"),
        "{text}"
    );
    assert!(
        text.contains("flag --admin") && text.contains("PETREL_LOG__LEVEL"),
        "{text}"
    );
}

#[test]
fn a_bad_value_is_reported_even_if_a_flag_overrides_it() {
    let flags = [Flag::new("--quic", "quic.listen", "127.0.0.1:0")];
    let errors = load("[quic]\nlisten = \"nowhere\"", &[], &flags).unwrap_err();
    assert_eq!(errors.problems().len(), 1);
}

#[test]
fn durations_that_contradict_each_other() {
    check_errors(
        "[quic]\nkeep_alive = \"5m\"",
        &["must be below quic.idle_timeout = \"5m\" (default)"],
    );
    check_errors("[quic]\nkeep_alive = \"299s\"", &[]);
    check_errors(
        "[quic]\nidle_timeout = \"60s\"",
        &[
            "quic.keep_alive = \"2m\" (default): must be below quic.idle_timeout = \"1m\" (petrel.toml:2)",
        ],
    );
    check_errors(
        "[session]\nunresponsive_after = \"5m\"",
        &["must be below quic.idle_timeout"],
    );
    check_errors(
        "[session]\nhello_timeout = \"5m\"",
        &["must be below quic.idle_timeout"],
    );
    check_errors(
        "[store]\nack_window = \"1s\"\n[http]\npublish_timeout = \"1s\"",
        &["must be below http.publish_timeout"],
    );
    // A relation with a value that could not be read is not judged.
    check_errors("[quic]\nidle_timeout = \"60\"", &["is not a duration"]);
}

#[test]
fn an_engine_that_is_not_built_in_is_refused() {
    let expect: &[&str] = if cfg!(feature = "fjall") {
        &[]
    } else {
        &["without cargo feature `fjall`; build it with `cargo build --release --features fjall`"]
    };
    check_errors("[store]\nengine = \"fjall\"", expect);
}

#[test]
fn counts_that_contradict_each_other() {
    check_errors(
        "[quic]\nretry_threshold = 4097",
        &["must be at most quic.handshakes_max"],
    );
    check_errors("[quic]\nretry_threshold = 4096", &[]);
    check_errors(
        "[quic]\nconnections_max = 4095",
        &["must be at most quic.connections_max"],
    );
    check_errors("[quic]\nconnections_max = 4096", &[]);
}

#[test]
fn plain_listeners_beyond_loopback_must_be_allowed_by_name() {
    let http = "[http]\nlisten = \"0.0.0.0:80\"";
    check_errors(http, &["say http.allow_plain_beyond_loopback = true"]);
    check_errors(&format!("{http}\nallow_plain_beyond_loopback = true"), &[]);
    check_errors(
        "[http]\nlisten = \"[::]:80\"",
        &["other machines could reach it"],
    );
    check_errors("[http]\nlisten = \"[::1]:80\"", &[]);
    check_errors("[http]\nlisten = \"[::ffff:127.0.0.1]:80\"", &[]);
    let admin = "[admin]\nlisten = \"192.0.2.1:80\"";
    check_errors(admin, &["say admin.allow_beyond_loopback = true"]);
    check_errors(&format!("{admin}\nallow_beyond_loopback = true"), &[]);
    check_errors(
        "[https]\nlisten = \"0.0.0.0:443\"\n[quic]\nlisten = \"0.0.0.0:443\"",
        &[],
    );
}

#[test]
fn listeners_share_no_port() {
    check_errors(
        "[https]\nlisten = \"0.0.0.0:7480\"",
        &["the same TCP port as http.listen"],
    );
    check_errors(
        "[admin]\nlisten = \"127.0.0.1:7443\"",
        &["the same TCP port as https.listen"],
    );
    check_errors("[https]\nlisten = \"127.0.0.2:7480\"", &[]);
    check_errors(
        "[https]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"",
        &[],
    );
}

#[test]
fn own_certificate_and_key_come_together() {
    check_errors("[tls]\ncertificate = \"a.pem\"", &["tls.key is missing"]);
    check_errors("[tls]\nkey = \"a.key\"", &["tls.certificate is missing"]);
    check_errors("[tls]\nkey = \"a.key\"\ncertificate = \"a.pem\"", &[]);
}
