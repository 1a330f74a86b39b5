//! What is issued, when, and for which names.

use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::*;
use super::{Scratch, at, handshake};

#[test]
fn a_first_start_makes_a_ca_and_a_certificate_for_the_usual_names() {
    let scratch = Scratch::new();
    let listen: [IpAddr; 2] = ["0.0.0.0".parse().unwrap(), "192.0.2.7".parse().unwrap()];
    let names = [
        "push.example.org".to_owned(),
        "*.push.example.org".to_owned(),
    ];
    let store = TlsStore::load_or_make(&scratch.data_dir, &names, &listen, at(0)).unwrap();
    assert_eq!(store.issued(), Some(IssueReason::Missing));
    assert_eq!(store.not_after(), at(90));
    let expect = [
        "*.push.example.org",
        "127.0.0.1",
        "192.0.2.7",
        "::1",
        "localhost",
        "push.example.org",
    ];
    assert_eq!(store.names().collect::<Vec<_>>(), expect);

    let ca = store.ca_path().to_owned();
    let server = ServerCertificate::made(store);
    assert_eq!(server.ca(), ca);
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "192.0.2.7",
        "push.example.org",
        "a.push.example.org",
    ] {
        let (_, protocol) = handshake(&server, &ca, name, at(0)).unwrap();
        assert_eq!(protocol.as_deref(), Some(&b"h2"[..]), "{name}");
    }
    handshake(&server, &ca, "other.example.org", at(0)).unwrap_err();
    handshake(&server, &ca, "localhost", at(89)).unwrap();
    handshake(&server, &ca, "localhost", at(91)).unwrap_err();
}

#[test]
fn private_files_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = Scratch::new();
    scratch.load(&[], at(0)).unwrap();
    for (name, expect) in [("ca.key", 0o600), ("server.key", 0o600), (".", 0o700)] {
        let mode = std::fs::metadata(scratch.file(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, expect, "{name}");
    }
}

#[test]
fn the_ca_ends_after_ten_years() {
    let scratch = Scratch::new();
    let store = scratch.load(&[], at(0)).unwrap();
    let ca = CertificateDer::from_pem_file(store.ca_path()).unwrap();
    // Dates stand in a certificate as text: 2026-01-01 and 3653 days are 2036-01-02.
    let has = |text: &[u8]| ca.windows(text.len()).any(|window| window == text);
    assert!(has(b"251231000000Z") && has(b"360102000000Z"));
    drop(store);
    let later = scratch.load(&[], at(3500)).unwrap();
    let (server, ca) = (ServerCertificate::made(later), scratch.file("ca.pem"));
    handshake(&server, &ca, "localhost", at(3500)).unwrap();
}

#[test]
fn issued_anew_with_less_than_thirty_days_left_and_not_before() {
    let scratch = Scratch::new();
    scratch.load(&[], at(0)).unwrap();
    let (ca, first) = (scratch.read("ca.pem"), scratch.read("server.pem"));
    assert_eq!(scratch.load(&[], at(60)).unwrap().issued(), None);
    assert_eq!(scratch.read("server.pem"), first);
    let past = at(60) + Duration::from_secs(1);
    assert_eq!(
        scratch.load(&[], past).unwrap().issued(),
        Some(IssueReason::Expiring)
    );
    assert_ne!(scratch.read("server.pem"), first);
    assert_eq!(scratch.read("ca.pem"), ca);
    assert_eq!(scratch.load(&[], past).unwrap().issued(), None);
}

#[test]
fn renewal_swaps_what_running_listeners_show() {
    let scratch = Scratch::new();
    let server = ServerCertificate::made(scratch.load(&[], at(0)).unwrap());
    let ca = server.ca();
    let (first, _) = handshake(&server, &ca, "localhost", at(60)).unwrap();
    assert!(!server.renew_if_due(at(60)).unwrap());
    assert_eq!(
        handshake(&server, &ca, "localhost", at(60)).unwrap().0,
        first
    );
    assert!(server.renew_if_due(at(61)).unwrap());
    let (second, _) = handshake(&server, &ca, "localhost", at(120)).unwrap();
    assert_ne!(second, first);
    assert!(!server.renew_if_due(at(61)).unwrap());
    assert!(!server.reload(at(61)).unwrap());
    assert_eq!(
        scratch.load(&[], at(61)).unwrap().current().cert,
        server.current().cert
    );
}

#[test]
fn a_reload_does_what_a_start_does() {
    let scratch = Scratch::new();
    let server = ServerCertificate::made(scratch.load(&["a.example"], at(0)).unwrap());
    let ca = server.ca();
    let shown = || handshake(&server, &ca, "a.example", at(0)).unwrap().0;
    let first = shown();
    assert!(!server.reload(at(0)).unwrap());
    assert_eq!(shown(), first);
    // What a restore from a backup with other files leaves: another one is issued.
    std::fs::write(scratch.file("server.key"), "damaged").unwrap();
    assert!(server.reload(at(0)).unwrap());
    let second = shown();
    assert_ne!(second, first);
    // The CA is never made anew: its damage is an error, and the certificate stays.
    std::fs::write(scratch.file("ca.key"), "damaged").unwrap();
    server.reload(at(0)).unwrap_err();
    assert_eq!(shown(), second);
}

#[test]
fn other_names_are_another_certificate_of_the_same_ca() {
    let scratch = Scratch::new();
    let check = |names: &[&str], expect: Option<IssueReason>| {
        assert_eq!(
            scratch.load(names, at(0)).unwrap().issued(),
            expect,
            "{names:?}"
        );
    };
    check(&["a.example"], Some(IssueReason::Missing));
    let ca = scratch.read("ca.pem");
    check(&["a.example"], None);
    check(&["a.example", "b.example"], Some(IssueReason::NamesChanged));
    check(&["b.example", "a.example", "localhost"], None);
    check(&[], Some(IssueReason::NamesChanged));
    assert_eq!(scratch.read("ca.pem"), ca);
}

#[test]
fn a_name_that_cannot_stand_in_a_certificate_is_an_error() {
    let scratch = Scratch::new();
    let error = scratch.load(&["ü.example"], at(0)).unwrap_err().to_string();
    assert!(
        error.contains("ü.example") && error.contains("tls.names"),
        "{error}"
    );
}
