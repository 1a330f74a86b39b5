//! The files of `config/` against the table, and files that cannot be used.

use std::io;
use std::path::Path;

use super::super::value::Raw;
use super::super::*;
use super::{errors, load};

const REFERENCE: &str = include_str!("../../../config/petrel.toml");
const DEV: &str = include_str!("../../../config/dev.toml");

/// After a change to the table, this prints what `config/petrel.toml` must be.
#[test]
fn reference_file_is_the_table() {
    let expect = Config::reference();
    assert!(
        expect == REFERENCE,
        "config/petrel.toml must be this:\n{expect}"
    );
}

#[test]
fn reference_file_gives_the_defaults() {
    let from_file = load(REFERENCE, &[], &[]).unwrap();
    let from_nothing = Config::load(None, std::iter::empty(), &[]).unwrap();
    for shown in &from_file.shown {
        let key = KEYS.iter().find(|key| key.name == shown.key).unwrap();
        let is_in_file = matches!(shown.origin, Origin::File { .. });
        assert_eq!(is_in_file, key.default.is_some(), "{}", key.name);
    }
    let without_origins = |config: Config| Config {
        shown: Vec::new(),
        ..config
    };
    assert_eq!(without_origins(from_file), without_origins(from_nothing));
}

#[test]
fn reference_file_documents_every_key() {
    for key in KEYS {
        let (section, name) = key.parts();
        let start = match section {
            "" => 0,
            section => REFERENCE.find(&format!("\n[{section}]\n")).unwrap(),
        };
        let lines: Vec<&str> = REFERENCE[start..].lines().collect();
        let is_entry = |line: &&str| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{name} = "))
        };
        let at = lines.iter().position(is_entry).unwrap();
        assert!(lines[at - 1].starts_with("# Unit: "), "{}", key.name);
        let comment: String = lines[..at]
            .iter()
            .rev()
            .take_while(|l| l.starts_with('#'))
            .copied()
            .collect();
        assert!(comment.contains("# Worst effect: "), "{}", key.name);
    }
}

#[test]
fn development_file() {
    let config = load(DEV, &[], &[]).unwrap();
    assert_eq!(config.store.engine, StoreEngine::Memory);
    let dev = &config.projects[&ProjectName::parse("dev").unwrap()];
    assert_eq!((dev.api_keys.len(), dev.app_keys.len()), (1, 1));
    assert!(dev.api_keys[0].expose().contains("dev"));
}

#[test]
fn every_row_is_complete_and_its_bounds_fit_its_type() {
    for key in KEYS {
        let is_sentence = |text: &str| text.ends_with('.') && text.len() > 3;
        assert!(
            is_sentence(key.meaning) && is_sentence(key.worst),
            "{}",
            key.name
        );
        if let Some(default) = key.default {
            assert!(
                key.kind.parse(&Raw::Bare(default.to_owned())).is_ok(),
                "{}",
                key.name
            );
        }
        let bounds = match key.kind {
            Kind::Count { min, max, .. } => [min.to_string(), max.to_string()],
            Kind::Size { min, max } => [format!("{min}B"), format!("{max}B")],
            Kind::Span { min_ms, max_ms } => [format!("{min_ms}ms"), format!("{max_ms}ms")],
            _ => continue,
        };
        for bound in bounds {
            let flag = Flag::new("--x", key.name, bound.clone());
            // A relation may refuse a bound; the typed form must be able to hold it.
            if let Err(errors) = Config::load(None, std::iter::empty(), &[flag]) {
                let is_relation = |p: &Problem| matches!(p.cause, Cause::Relation { .. });
                assert!(
                    errors.problems().iter().all(is_relation),
                    "{}: {errors}",
                    key.name
                );
            }
        }
    }
}

#[test]
fn a_file_that_is_not_toml() {
    let env = [("PETREL_LOG__LEVEL", "loud")];
    let found = errors("[quic]\nlisten = \n[http]\nlisten = \"x\"", &env);
    assert!(
        found[0].starts_with("petrel.toml:2: is not TOML: "),
        "{found:?}"
    );
    assert!(
        found.iter().any(|e| e.starts_with("log.level")),
        "other layers are checked all the same"
    );
    let twice = errors("[log]\nlevel = \"info\"\nlevel = \"warn\"", &[]);
    assert!(
        twice[0].starts_with("petrel.toml:3: is not TOML: duplicate key"),
        "{twice:?}"
    );
}

#[test]
fn a_file_that_is_not_there() {
    let missing = io::Error::from(io::ErrorKind::NotFound);
    let file = Some((Path::new("nowhere.toml"), Err(missing)));
    let errors = Config::from_layers(file, std::iter::empty(), &[]).unwrap_err();
    assert!(
        errors
            .to_string()
            .contains("nowhere.toml: cannot be read: "),
        "{errors}"
    );
    let directory = Path::new(".");
    assert!(Config::load(Some(directory), std::iter::empty(), &[]).is_err());
}
