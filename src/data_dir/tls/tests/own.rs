//! Files of the operator.

use std::path::{Path, PathBuf};

use super::super::*;
use super::{Scratch, at, handshake};

/// A certificate and key as an operator would bring them, signed by the CA of another broker.
fn own_files() -> (Scratch, PathBuf, PathBuf) {
    let scratch = Scratch::new();
    scratch.load(&["push.example.org"], at(0)).unwrap();
    let (certificate, key) = (scratch.file("server.pem"), scratch.file("server.key"));
    (scratch, certificate, key)
}

#[test]
fn files_of_the_operator_are_shown_and_read_again() {
    let (theirs, certificate, key) = own_files();
    let tls = crate::config::Tls {
        certificate: Some(certificate.clone()),
        key: Some(key),
        names: Vec::new(),
    };
    let ours = Scratch::new();
    let server = ServerCertificate::open(&ours.data_dir, &tls, &[], at(0)).unwrap();
    assert!(!ours.file("").exists(), "tls/ is not touched");
    assert_eq!(server.ca(), certificate);
    let ca = theirs.file("ca.pem");
    let (first, _) = handshake(&server, &ca, "push.example.org", at(0)).unwrap();
    assert!(!server.reload(at(0)).unwrap());
    assert!(!server.renew_if_due(at(89)).unwrap());
    theirs.load(&["push.example.org"], at(70)).unwrap();
    assert_eq!(
        handshake(&server, &ca, "push.example.org", at(70))
            .unwrap()
            .0,
        first
    );
    assert!(server.reload(at(70)).unwrap());
    assert_ne!(
        handshake(&server, &ca, "push.example.org", at(100))
            .unwrap()
            .0,
        first
    );
}

#[test]
fn files_of_the_operator_that_cannot_be_used_are_named() {
    let (scratch, certificate, key) = own_files();
    let nonsense = scratch.file("nonsense.pem");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let broken = scratch.file("broken.pem");
    std::fs::write(
        &broken,
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let empty = scratch.file("empty.pem");
    std::fs::write(
        &empty,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let missing = scratch.file("missing.pem");
    let directory = scratch.file("");
    let other_key = scratch.file("ca.key");
    let check = |certificate: &Path, key: &Path, at_fault: &Path, expect: &str| {
        let error = ServerCertificate::own(certificate.to_owned(), key.to_owned())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&at_fault.display().to_string()) && error.contains(expect),
            "{error}"
        );
        assert!(error.contains("in the configuration"), "{error}");
    };
    check(
        &missing,
        &key,
        &missing,
        "there is no such file; correct the file, or tls.certificate",
    );
    check(
        &certificate,
        &missing,
        &missing,
        "there is no such file; correct the file, or tls.key",
    );
    check(
        &nonsense,
        &key,
        &nonsense,
        "it holds no certificate in PEM form",
    );
    check(&key, &key, &key, "it holds no certificate in PEM form");
    check(&broken, &key, &broken, "it is not PEM");
    check(&empty, &key, &empty, "its first certificate cannot be used");
    check(
        &certificate,
        &nonsense,
        &nonsense,
        "it holds no private key in PEM form",
    );
    check(
        &certificate,
        &certificate,
        &certificate,
        "it holds no private key in PEM form",
    );
    check(
        &certificate,
        &other_key,
        &other_key,
        "it is the key of another certificate",
    );
    check(&directory, &key, &directory, "it cannot be read");
}

#[test]
fn a_reload_that_fails_leaves_the_certificate_in_force() {
    let (scratch, certificate, key) = own_files();
    let server = ServerCertificate::own(certificate.clone(), key).unwrap();
    let first = server.current();
    std::fs::write(&certificate, "half").unwrap();
    server.reload(at(0)).unwrap_err();
    assert_eq!(server.current().cert, first.cert);
    handshake(&server, &scratch.file("ca.pem"), "localhost", at(0)).unwrap();
}
