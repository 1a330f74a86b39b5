//! Keys: made once, the same from then on, and never replaced when damaged.

use super::super::{DemoKeys, Keyring};
use super::*;
use crate::config::{Project, ProjectName, Projects};

fn keyring(scratch: &Scratch) -> Keyring {
    Keyring::open(&scratch.open().unwrap()).unwrap()
}

#[test]
fn each_key_is_made_once_for_the_owner_alone() {
    let scratch = Scratch::new();
    let (first, second) = (keyring(&scratch), keyring(&scratch));
    assert_eq!(
        first.transport(64).unwrap().expose(),
        second.transport(64).unwrap().expose()
    );
    assert_eq!(first.transport(64).unwrap().expose().len(), 64);
    assert_eq!(
        first.admin().unwrap().expose(),
        second.admin().unwrap().expose()
    );
    let (a, b) = (first.sealing().unwrap(), second.sealing().unwrap());
    assert_eq!((a.as_slice().len(), a.as_slice()[0].id), (1, 0));
    assert_eq!(a.as_slice()[0].key, b.as_slice()[0].key);
    for name in ["keys/transport.key", "keys/token.key", "keys/admin.key"] {
        assert_eq!(mode(&scratch.file(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&scratch.file("keys")), 0o700);
}

#[test]
fn two_brokers_have_different_keys() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let (a, b) = (keyring(&a), keyring(&b));
    assert_ne!(
        a.transport(32).unwrap().expose(),
        b.transport(32).unwrap().expose()
    );
    assert_ne!(a.admin().unwrap().expose(), b.admin().unwrap().expose());
    assert_ne!(
        a.sealing().unwrap().as_slice()[0].key,
        b.sealing().unwrap().as_slice()[0].key
    );
}

#[test]
fn the_admin_key_matches_itself_only_and_nothing_is_printed() {
    let scratch = Scratch::new();
    let keyring = keyring(&scratch);
    let admin = keyring.admin().unwrap();
    assert!(admin.expose().starts_with("petrel-admin-"));
    assert_eq!(admin.expose().len(), "petrel-admin-".len() + 43);
    assert!(admin.matches(admin.expose()));
    assert!(!admin.matches("") && !admin.matches(&format!("{}x", admin.expose())));
    let printed = format!(
        "{admin:?} {:?} {:?}",
        keyring.sealing().unwrap(),
        keyring.transport(8).unwrap()
    );
    let expect = "AdminKey(SecretText(…)) SealingKeys([SealingKey(0, …)]) TransportKey(…)";
    assert_eq!(printed, expect);
}

#[test]
fn sealing_keys_rotate_and_all_stay_readable() {
    let scratch = Scratch::new();
    let keyring = keyring(&scratch);
    let first = keyring.sealing().unwrap();
    let second = keyring.rotate_sealing().unwrap();
    assert_eq!(second.as_slice()[0].key, first.as_slice()[0].key);
    let ids =
        |keys: &super::super::SealingKeys| keys.as_slice().iter().map(|k| k.id).collect::<Vec<_>>();
    assert_eq!(ids(&second), [0, 1]);
    assert_eq!(ids(&keyring.sealing().unwrap()), [0, 1]);
}

#[test]
fn a_sealing_key_that_replaces_all_others_has_none_of_their_ids() {
    let scratch = Scratch::new();
    let keyring = keyring(&scratch);
    keyring.rotate_sealing().unwrap();
    let before = keyring.sealing().unwrap();
    let replaced = keyring.replace_sealing().unwrap();
    assert_eq!(replaced.as_slice().len(), 1);
    assert_eq!(replaced.as_slice()[0].id, 2);
    let kept = keyring.sealing().unwrap();
    assert_eq!(kept.as_slice()[0].key, replaced.as_slice()[0].key);
    assert!(
        before
            .as_slice()
            .iter()
            .all(|old| old.key != kept.as_slice()[0].key)
    );
}

#[test]
fn sealing_key_ids_go_round_at_the_limit() {
    let scratch = Scratch::new();
    let keyring = keyring(&scratch);
    // 254 more keys, written as the keyring writes them, without 254 syncs of the disk.
    let first = keyring.sealing().unwrap().as_slice()[0].clone();
    let mut content = vec![1];
    for id in 0..=255_u8 {
        content.push(id);
        content.extend_from_slice(first.key.as_slice());
    }
    let sum = ring::digest::digest(&ring::digest::SHA256, &content);
    content.extend_from_slice(&sum.as_ref()[..8]);
    std::fs::write(scratch.file("keys/token.key"), content).unwrap();
    let keys = keyring.rotate_sealing().unwrap();
    assert_eq!(keys.as_slice().len(), 256);
    assert_eq!((keys.as_slice()[0].id, keys.as_slice()[255].id), (1, 0));
}

#[test]
fn a_damaged_key_is_an_error_and_stays() {
    let scratch = Scratch::new();
    let keyring = keyring(&scratch);
    let check = |name: &str, damage: &dyn Fn(&mut Vec<u8>), expect: &str| {
        let _ = (
            keyring.transport(32).unwrap(),
            keyring.sealing().unwrap(),
            keyring.admin().unwrap(),
        );
        let path = scratch.file(&format!("keys/{name}"));
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        damage(&mut bad);
        std::fs::write(&path, &bad).unwrap();
        let result = match name {
            "transport.key" => keyring.transport(32).map(drop),
            "token.key" => keyring.rotate_sealing().map(drop),
            _ => keyring.admin().map(drop),
        };
        let error = result.unwrap_err().to_string();
        for part in [
            name,
            expect,
            "restore it from a backup",
            "deleting it means",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), bad, "{name} was changed");
        std::fs::write(&path, &good).unwrap();
    };
    check(
        "transport.key",
        &|bytes| bytes.truncate(31),
        "it has 31 bytes, not 32",
    );
    check(
        "transport.key",
        &|bytes| bytes.push(0),
        "it has 33 bytes, not 32",
    );
    check("transport.key", &Vec::clear, "it has 0 bytes");
    check("token.key", &Vec::clear, "it is too short");
    check("token.key", &|bytes| bytes[5] ^= 1, "its checksum is wrong");
    check(
        "token.key",
        &|bytes| bytes.truncate(20),
        "its checksum is wrong",
    );
    let resum = |bytes: &mut Vec<u8>| {
        let sum = ring::digest::digest(&ring::digest::SHA256, bytes);
        bytes.extend_from_slice(&sum.as_ref()[..8]);
    };
    let of_another_version = |bytes: &mut Vec<u8>| {
        *bytes = vec![2];
        resum(bytes);
    };
    let without_a_key = |bytes: &mut Vec<u8>| {
        *bytes = vec![1];
        resum(bytes);
    };
    check(
        "token.key",
        &of_another_version,
        "another version of the broker",
    );
    check("token.key", &without_a_key, "its length is wrong");
    check("admin.key", &Vec::clear, "it is not an admin key");
    check(
        "admin.key",
        &|bytes| bytes.truncate(30),
        "it is not an admin key",
    );
    check(
        "admin.key",
        &|bytes| bytes[0] = 0xff,
        "it is not an admin key",
    );
}

#[test]
fn a_key_that_cannot_be_read_is_not_replaced() {
    let scratch = Scratch::new();
    let keyring = keyring(&scratch);
    std::fs::create_dir(scratch.file("keys/admin.key")).unwrap();
    let error = keyring.admin().unwrap_err().to_string();
    assert!(error.contains("admin.key cannot be read"), "{error}");
    std::fs::write(scratch.file("keys/token.key"), vec![0; 2 * 1024 * 1024]).unwrap();
    let error = keyring.sealing().unwrap_err().to_string();
    assert!(
        error.contains("token.key cannot be read: far too large"),
        "{error}"
    );
}

#[test]
fn demo_keys_are_made_once_and_only_without_projects() {
    let scratch = Scratch::new();
    let data_dir = scratch.open().unwrap();
    let mut named = Projects::new();
    named.insert(ProjectName::parse("shop").unwrap(), Project::default());
    assert_eq!(data_dir.demo_keys(&named).unwrap(), None);
    assert!(!scratch.file("demo-keys.json").exists());

    let none = Projects::new();
    let keys = data_dir.demo_keys(&none).unwrap().unwrap();
    assert_eq!(data_dir.demo_keys(&none).unwrap(), Some(keys.clone()));
    assert_eq!(mode(&scratch.file("demo-keys.json")), 0o600);
    assert!(
        keys.api_key.expose().starts_with("petrel-api-")
            && keys.app_key.expose().starts_with("petrel-app-")
    );
    assert_eq!(keys.project().api_keys, std::slice::from_ref(&keys.api_key));
    let DemoKeys { api_key, app_key } = &keys;
    let expect = format!(
        "{{\"project\":\"demo\",\"api_key\":\"{}\",\"app_key\":\"{}\"}}\n",
        api_key.expose(),
        app_key.expose()
    );
    assert_eq!(
        std::fs::read_to_string(scratch.file("demo-keys.json")).unwrap(),
        expect
    );
    assert_eq!(data_dir.demo_keys(&named).unwrap(), None);
    assert!(!format!("{keys:?}").contains("petrel-"));
}

#[test]
fn damaged_demo_keys_are_an_error_that_quotes_nothing() {
    let scratch = Scratch::new();
    let data_dir = scratch.open().unwrap();
    let check = |content: &str, expect: &str| {
        std::fs::write(scratch.file("demo-keys.json"), content).unwrap();
        let error = data_dir
            .demo_keys(&Projects::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expect) && error.contains("demo-keys.json is damaged"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    };
    check("", "is not the JSON that belongs there");
    check(
        "{\"project\":\"demo\",\"hunter2\":1}",
        "line 1 is not the JSON",
    );
    check(
        "{\"project\":\"shop\",\"api_key\":\"petrel-api-hunter2hunter2xx\",\"app_key\":\"petrel-app-hunter2hunter2xx\"}",
        "it is about another project",
    );
    check(
        "{\"project\":\"demo\",\"api_key\":\"petrel-api-\",\"app_key\":\"petrel-app-hunter2hunter2xx\"}",
        "a key has not the form",
    );
}
