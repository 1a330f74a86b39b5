//! Opening: made, refused, locked, tightened.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::super::{Keyring, Warning, file};
use super::*;

#[test]
fn a_missing_directory_is_made_for_the_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().canonicalize().unwrap().join("a/b");
    let data_dir = DataDir::open(&path).unwrap();
    assert_eq!(data_dir.path(), path);
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("lock")), 0o600);
    assert!(data_dir.warnings().is_empty());
    assert_eq!(data_dir.db(), path.join("db"));
}

#[test]
fn what_cannot_be_a_data_directory_is_refused_with_the_way_out() {
    let parent = tempfile::tempdir().unwrap();
    let check = |path: &str, expect: &str| {
        let error = DataDir::open(&parent.path().join(path))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expect) && error.contains("--data-dir"),
            "{error}"
        );
    };
    std::fs::write(parent.path().join("file"), "").unwrap();
    check("file", "is not a directory");
    check("file/below", "cannot be looked at");
    // No file can be opened where a directory stands, whoever asks.
    std::fs::create_dir_all(parent.path().join("locked/lock")).unwrap();
    set_mode(&parent.path().join("locked"), 0o700);
    check("locked", "cannot be written to");
}

#[test]
fn a_directory_without_rights_is_refused() {
    let scratch = Scratch::new();
    drop(scratch.open().unwrap());
    std::fs::remove_file(scratch.file("lock")).unwrap();
    set_mode(&scratch.path, 0o500);
    let may_do_anything = std::fs::write(scratch.file("probe"), "").is_ok();
    // The superuser is refused nothing; everybody else is.
    assert_eq!(scratch.open().is_ok(), may_do_anything);
    set_mode(&scratch.path, 0o700);
}

#[test]
fn a_second_handle_is_refused_and_the_first_one_named() {
    let scratch = Scratch::new();
    let first = scratch.open().unwrap();
    let error = scratch.open().unwrap_err();
    let expect = format!(
        "{} is in use by process {}; stop it or pass another --data-dir",
        scratch.path.display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), expect);
    drop(first);
    scratch.open().unwrap();
}

const HOLD: &str = "HOLD_DATA_DIR_FOR_A_TEST";

/// Not a test by itself: the process that the next test starts. Holds the directory until its input ends.
#[test]
fn hold_a_data_directory_for_another_test() {
    let Some(path) = std::env::var_os(HOLD) else {
        return;
    };
    let _held = DataDir::open(Path::new(&path)).unwrap();
    println!("\nheld");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().lines().count();
}

#[test]
fn a_directory_in_use_by_another_process_is_refused_until_that_is_killed() {
    let scratch = Scratch::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "hold_a_data_directory_for_another_test",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(HOLD, &scratch.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap() == "held"));
    let error = scratch.open().unwrap_err();
    assert!(
        matches!(&error, DataDirError::InUse { process: Some(id), .. } if *id == child.id()),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    scratch.open().unwrap();
}

#[test]
fn wide_permissions_are_tightened_and_reported() {
    let scratch = Scratch::new();
    let data_dir = scratch.open().unwrap();
    Keyring::open(&data_dir).unwrap().admin().unwrap();
    drop(data_dir);
    let (keys, admin) = (scratch.file("keys"), scratch.file("keys/admin.key"));
    set_mode(&scratch.path, 0o755);
    set_mode(&keys, 0o750);
    set_mode(&admin, 0o604);
    let data_dir = scratch.open().unwrap();
    let warning = |path: &Path, found, now| Warning::Tightened {
        path: path.to_owned(),
        found,
        now,
    };
    let expect = [
        warning(&scratch.path, 0o755, 0o700),
        warning(&keys, 0o750, 0o700),
        warning(&admin, 0o604, 0o600),
    ];
    assert_eq!(data_dir.warnings(), expect);
    assert!(
        data_dir.warnings()[2]
            .to_string()
            .contains("admin.key had mode 0604, now 0600")
    );
    assert_eq!(
        (mode(&scratch.path), mode(&keys), mode(&admin)),
        (0o700, 0o700, 0o600)
    );
    drop(data_dir);
    assert!(scratch.open().unwrap().warnings().is_empty());
}

#[test]
fn a_directory_that_others_share_is_not_taken_from_them() {
    let scratch = Scratch::new();
    std::fs::create_dir(&scratch.path).unwrap();
    set_mode(&scratch.path, 0o755);
    std::fs::write(scratch.file("theirs"), "").unwrap();
    let error = scratch.open().unwrap_err();
    assert!(matches!(error, DataDirError::Shared(_)), "{error}");
    assert_eq!(mode(&scratch.path), 0o755);
    assert!(!scratch.file("lock").exists());
    std::fs::remove_file(scratch.file("theirs")).unwrap();
    std::fs::create_dir(scratch.file("lost+found")).unwrap();
    assert_eq!(scratch.open().unwrap().warnings().len(), 1);
}

#[test]
fn a_write_replaces_what_a_crash_left_and_keeps_the_old_content_when_it_fails() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("file");
    let temporary = parent.path().join("file.tmp");
    std::fs::write(&temporary, "half of an earlier wri").unwrap();
    set_mode(&temporary, 0o644);
    file::write(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(mode(&path), 0o600);
    assert!(!temporary.exists());

    std::fs::create_dir(&temporary).unwrap();
    let error = file::write(&path, b"newer").unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}
