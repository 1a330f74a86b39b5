//! Projects, and that their keys never show.

use super::super::*;
use super::{check_errors, errors, load};

#[test]
fn projects_are_read_and_their_keys_never_shown() {
    let file = "[projects.shop]\napi_keys = [\"aaaaaaaaaaaaaaaa\"]\n\
                app_keys = [\"bbbbbbbbbbbbbbbb\", \"cccccccccccccccc\"]";
    let env = [(
        "PETREL_PROJECTS__MY_APP__API_KEYS",
        "dddddddddddddddd,eeeeeeeeeeeeeeee",
    )];
    let config = load(file, &env, &[]).unwrap();
    let names: Vec<&str> = config.projects.keys().map(ProjectName::as_str).collect();
    assert_eq!(names, ["my-app", "shop"]);
    let my_app = &config.projects[&ProjectName::parse("my-app").unwrap()];
    assert_eq!(my_app.api_keys[1].expose(), "eeeeeeeeeeeeeeee");
    let printed = format!("{}{config:?}", config.show());
    for part in ["aaaa", "bbbb", "cccc", "dddd", "eeee"] {
        assert!(!printed.contains(part), "{printed}");
    }
    assert!(
        printed.contains("projects.shop.app_keys = [\"…\", \"…\"]  # petrel.toml:3\n"),
        "{printed}"
    );
}

#[test]
fn a_later_layer_replaces_a_list_of_keys() {
    let file =
        "[projects.shop]\napi_keys = [\"aaaaaaaaaaaaaaaa\"]\napp_keys = [\"bbbbbbbbbbbbbbbb\"]";
    let env = [("PETREL_PROJECTS__SHOP__API_KEYS", "cccccccccccccccc")];
    let shop = &load(file, &env, &[]).unwrap().projects[&ProjectName::parse("shop").unwrap()];
    let exposed = |keys: &[SecretText]| {
        keys.iter()
            .map(|k| k.expose().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(exposed(&shop.api_keys), ["cccccccccccccccc"]);
    assert_eq!(exposed(&shop.app_keys), ["bbbbbbbbbbbbbbbb"]);
}

#[test]
fn bad_projects_are_refused_and_their_keys_never_shown() {
    let check = |file: &str, expect: &str| {
        check_errors(file, &[expect]);
        assert!(!errors(file, &[]).concat().contains("hunter2"), "{file}");
    };
    check(
        "[projects.a]\napi_keys = [\"hunter2\"]",
        "projects.a.api_keys[0] (petrel.toml:2): has 7 characters; write a list of texts of 16 to 256",
    );
    check(
        "[projects.a]\napi_keys = [\"hunter2-hunter2-hunter2 \"]",
        "cannot stand in a bearer token",
    );
    check(
        "[projects.a]\napi_keys = \"hunter2-hunter2-hunter2\"",
        "expected a list of texts, found a text",
    );
    check(
        "[projects.a]\napi_keys = [1]",
        "expected a list of texts, found an integer",
    );
    check(
        "[projects.a]\napi_key = [\"hunter2-hunter2-hunter2\"]",
        "did you mean projects.a.api_keys?",
    );
    check(
        "[projects]\nhunter = \"hunter2-hunter2-hunter2\"",
        "is a section",
    );
    check("projects = \"hunter2-hunter2-hunter2\"", "is a section");
    check("[projects.a]", "has neither api_keys nor app_keys");
    check(
        "[projects.a]\napi_keys = []",
        "has neither api_keys nor app_keys",
    );
    check(
        "[projects.Shop]\napi_keys = [\"hunter2-hunter2-hunter2\"]",
        "projects.Shop (petrel.toml:1): is not the name of a project; use 1 to 64 characters",
    );
    check(
        "[projects.a]\napi_keys = [\"hunter2-hunter2-hunter2\"]\n\
         [projects.b]\napp_keys = [\"hunter2-hunter2-hunter2\"]",
        "projects.b.app_keys[0] (petrel.toml:4): is the same key as projects.a.api_keys[0]",
    );
    // Not terminated: the parser's own display would quote the line.
    check(
        "[projects.a]\napi_keys = [\"hunter2-hunter2-hunter2",
        "petrel.toml:2: is not TOML",
    );
}

#[test]
fn lengths_hold_at_the_limit_and_one_past_it() {
    let check = |name: usize, key: usize, expect: usize| {
        let (name, key) = ("n".repeat(name), "k".repeat(key));
        let file = format!("[projects.{name}]\napi_keys = [\"{key}\"]");
        assert_eq!(errors(&file, &[]).len(), expect, "{name} {key}");
    };
    check(PROJECT_NAME_CHARS_MAX, PROJECT_KEY_CHARS_MAX, 0);
    check(PROJECT_NAME_CHARS_MAX + 1, PROJECT_KEY_CHARS_MAX, 1);
    check(PROJECT_NAME_CHARS_MAX, PROJECT_KEY_CHARS_MAX + 1, 1);
    check(1, PROJECT_KEY_CHARS_MIN, 0);
    check(1, PROJECT_KEY_CHARS_MIN - 1, 1);
}

#[test]
fn a_project_may_have_bounds_of_its_own() {
    let key = "api_keys = [\"aaaaaaaaaaaaaaaa\"]";
    let file = format!(
        "[projects.shop]\n{key}\nqueue_messages_max = 7\nqueue_bytes_max = \"1MiB\"\n\
         queue_policy = \"refuse\"\nqueue_project_bytes_max = \"2GiB\""
    );
    let config = load(&file, &[], &[]).unwrap();
    let shop = &config.projects[&ProjectName::parse("shop").unwrap()];
    let expect = ProjectQueue {
        messages_max: Some(7),
        bytes_max: Some(ByteSize::new(1 << 20)),
        policy: Some(QueuePolicy::Refuse),
        project_bytes_max: Some(ByteSize::new(2 << 30)),
    };
    assert_eq!(shop.queue, expect);
    let shown = config.show();
    assert!(
        shown.contains("projects.shop.queue_messages_max = 7  # petrel.toml:3\n"),
        "{shown}"
    );

    let bad = |line: &str, expect: &str| {
        check_errors(&format!("[projects.a]\n{key}\n{line}"), &[expect]);
    };
    bad(
        "queue_messages_max = 0",
        "projects.a.queue_messages_max (petrel.toml:3)",
    );
    bad(
        "queue_policy = \"drop\"",
        "projects.a.queue_policy (petrel.toml:3)",
    );
    bad(
        "queue_message_max = 1",
        "did you mean projects.a.queue_messages_max?",
    );
    check_errors("[projects.a]\nqueue_messages_max = 1", &["projects.a"]);
}
