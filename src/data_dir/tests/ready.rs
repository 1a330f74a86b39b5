//! `ready.json`: who may believe it.

use super::super::{FileError, Ready, ReadyError};
use super::*;

fn ready(scratch: &Scratch) -> Ready {
    Ready {
        ready: true,
        quic: "127.0.0.1:7443".to_owned(),
        http: "http://127.0.0.1:7480".to_owned(),
        https: "https://127.0.0.1:7443".to_owned(),
        admin: "http://127.0.0.1:7490".to_owned(),
        public_url: "https://127.0.0.1:7443".to_owned(),
        project: Some("demo".to_owned()),
        api_key: Some("petrel-api-hunter2".to_owned()),
        app_key: None,
        ca: "/data/tls/ca.pem".to_owned(),
        data_dir: scratch.path.display().to_string(),
    }
}

#[test]
fn the_line_has_all_keys_in_order() {
    let scratch = Scratch::new();
    let line = ready(&scratch).line();
    let expect = format!(
        "{{\"ready\":true,\"quic\":\"127.0.0.1:7443\",\"http\":\"http://127.0.0.1:7480\",\
         \"https\":\"https://127.0.0.1:7443\",\"admin\":\"http://127.0.0.1:7490\",\
         \"public_url\":\"https://127.0.0.1:7443\",\"project\":\"demo\",\"api_key\":\"petrel-api-hunter2\",\
         \"app_key\":null,\"ca\":\"/data/tls/ca.pem\",\"data_dir\":\"{}\"}}",
        scratch.path.display()
    );
    assert_eq!(line, expect);
    assert!(!format!("{:?}", ready(&scratch)).contains("hunter2"));
}

#[test]
fn written_read_and_removed() {
    let scratch = Scratch::new();
    let data_dir = scratch.open().unwrap();
    assert!(matches!(
        Ready::read(&scratch.path),
        Err(ReadyError::NotReady { process: Some(id), .. }) if id == std::process::id()
    ));
    data_dir.write_ready(&ready(&scratch)).unwrap();
    assert_eq!(mode(&scratch.file("ready.json")), 0o600);
    assert_eq!(Ready::read(&scratch.path).unwrap(), ready(&scratch));
    data_dir.remove_ready().unwrap();
    data_dir.remove_ready().unwrap();
    assert!(matches!(
        Ready::read(&scratch.path),
        Err(ReadyError::NotReady { .. })
    ));
}

#[test]
fn a_stale_one_is_not_believed_and_removed_by_the_next_start() {
    let scratch = Scratch::new();
    let data_dir = scratch.open().unwrap();
    data_dir.write_ready(&ready(&scratch)).unwrap();
    // As after kill -9: the lock is free, the file is still there.
    drop(data_dir);
    assert!(scratch.file("ready.json").exists());
    let error = Ready::read(&scratch.path).unwrap_err().to_string();
    let expect = format!(
        "no broker is running in {dir}: start one with `petrel serve --data-dir {dir}`",
        dir = scratch.path.display()
    );
    assert_eq!(error, expect);
    let _next = scratch.open().unwrap();
    assert!(!scratch.file("ready.json").exists());
}

#[test]
fn no_directory_no_broker() {
    let scratch = Scratch::new();
    assert!(matches!(
        Ready::read(&scratch.path),
        Err(ReadyError::NotRunning { .. })
    ));
}

#[test]
fn damaged_or_unreadable() {
    let scratch = Scratch::new();
    let _held = scratch.open().unwrap();
    std::fs::write(scratch.file("ready.json"), "{\"ready\":true}").unwrap();
    let error = Ready::read(&scratch.path).unwrap_err();
    assert!(
        matches!(error, ReadyError::Damaged { .. }) && error.to_string().contains("ready.json"),
        "{error}"
    );
    std::fs::remove_file(scratch.file("ready.json")).unwrap();
    std::fs::create_dir(scratch.file("ready.json")).unwrap();
    let error = Ready::read(&scratch.path).unwrap_err();
    assert!(
        matches!(error, ReadyError::File(FileError::Read { .. })),
        "{error}"
    );
}

#[test]
fn asking_does_not_make_a_start_fail() {
    let scratch = Scratch::new();
    drop(scratch.open().unwrap());
    let asking = std::thread::scope(|scope| {
        let asking = scope.spawn(|| (0..2000).all(|_| Ready::read(&scratch.path).is_err()));
        for _ in 0..50 {
            drop(scratch.open().unwrap());
        }
        asking.join().unwrap()
    });
    assert!(asking);
}
