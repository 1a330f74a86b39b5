//! Files that are missing, damaged or do not fit: what heals and what is an error.

use super::super::*;
use super::{Scratch, at, handshake};

#[test]
fn damaged_files_of_the_certificate_are_issued_anew() {
    let scratch = Scratch::new();
    let other = Scratch::new();
    other.load(&[], at(0)).unwrap();
    let check = |damage: &dyn Fn(), expect: IssueReason| {
        scratch.load(&[], at(0)).unwrap();
        damage();
        let store = scratch.load(&[], at(0)).unwrap();
        assert_eq!(store.issued(), Some(expect));
        let (server, ca) = (ServerCertificate::made(store), scratch.file("ca.pem"));
        handshake(&server, &ca, "localhost", at(0)).unwrap();
    };
    for name in ["server.pem", "server.key", "server.json"] {
        check(
            &|| std::fs::remove_file(scratch.file(name)).unwrap(),
            IssueReason::Missing,
        );
        check(
            &|| std::fs::write(scratch.file(name), "nonsense").unwrap(),
            IssueReason::Unusable,
        );
        check(
            &|| std::fs::write(scratch.file(name), "").unwrap(),
            IssueReason::Unusable,
        );
    }
    let copy = |name: &str| std::fs::write(scratch.file(name), other.read(name)).unwrap();
    check(&|| copy("server.json"), IssueReason::OtherAuthority);
    check(&|| copy("server.key"), IssueReason::Unusable);
    let both = || {
        copy("server.key");
        copy("server.pem");
    };
    check(&both, IssueReason::Unusable);
}

#[test]
fn a_clock_that_was_ahead_does_not_leave_a_certificate_of_the_future() {
    let scratch = Scratch::new();
    scratch.load(&[], at(400)).unwrap();
    assert_eq!(
        scratch.load(&[], at(0)).unwrap().issued(),
        Some(IssueReason::Unusable)
    );
}

#[test]
fn a_damaged_ca_is_an_error_and_stays() {
    let scratch = Scratch::new();
    let other = Scratch::new();
    scratch.load(&[], at(0)).unwrap();
    other.load(&[], at(0)).unwrap();
    let check = |name: &str, content: Option<&[u8]>, at_fault: &str, expect: &str| {
        let good = scratch.read(name);
        match content {
            Some(content) => std::fs::write(scratch.file(name), content).unwrap(),
            None => std::fs::remove_file(scratch.file(name)).unwrap(),
        }
        // Also where the certificate itself would still serve.
        for days in [0, 80] {
            let error = scratch.load(&[], at(days)).unwrap_err().to_string();
            for part in [at_fault, expect, "from a backup", "every device"] {
                assert!(error.contains(part), "{error}");
            }
        }
        assert_eq!(std::fs::read(scratch.file(name)).ok().as_deref(), content);
        std::fs::write(scratch.file(name), good).unwrap();
        scratch.load(&[], at(0)).unwrap();
    };
    check(
        "ca.pem",
        Some(b"nonsense"),
        "ca.pem",
        "it holds no certificate in PEM form",
    );
    check(
        "ca.pem",
        Some(b""),
        "ca.pem",
        "it holds no certificate in PEM form",
    );
    check(
        "ca.pem",
        Some(&other.read("ca.pem")),
        "ca.pem",
        "do not belong together",
    );
    check(
        "ca.key",
        Some(b"nonsense"),
        "ca.key",
        "it holds no P-256 key",
    );
    check(
        "ca.key",
        Some(&other.read("ca.key")),
        "ca.pem",
        "do not belong together",
    );
    check(
        "ca.key",
        None,
        "ca.key",
        "it is missing, while ca.pem is there",
    );
}

#[test]
fn a_ca_certificate_that_is_missing_is_written_again_under_the_same_key() {
    let scratch = Scratch::new();
    scratch.load(&[], at(0)).unwrap();
    let old = scratch.directory.path().join("old.pem");
    std::fs::rename(scratch.file("ca.pem"), &old).unwrap();
    let server = ServerCertificate::made(scratch.load(&[], at(5)).unwrap());
    handshake(&server, &old, "localhost", at(5)).unwrap();
    handshake(&server, &scratch.file("ca.pem"), "localhost", at(5)).unwrap();
}

#[test]
fn a_renewal_that_fails_leaves_the_certificate_in_force() {
    let scratch = Scratch::new();
    let server = ServerCertificate::made(scratch.load(&[], at(0)).unwrap());
    let first = server.current();
    std::fs::create_dir(scratch.file("server.key.tmp")).unwrap();
    let error = server.renew_if_due(at(61)).unwrap_err().to_string();
    assert!(error.contains("server.key cannot be written"), "{error}");
    assert_eq!(server.current().cert, first.cert);
    std::fs::remove_dir(scratch.file("server.key.tmp")).unwrap();
    assert!(server.renew_if_due(at(61)).unwrap());
}
