//! Keys of the project `demo`, which the broker makes for trying out when the configuration names no project.

use std::fmt;
use std::path::Path;

use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::keyring::printable;
use super::{DataDir, FileError, file};
use crate::config::{PROJECT_KEY_CHARS_MIN, Project, Projects, SecretText};

pub(crate) const FILE: &str = "demo-keys.json";
/// The name of the project that the broker makes itself.
pub const DEMO_PROJECT: &str = "demo";
const API_PREFIX: &str = "petrel-api-";
const APP_PREFIX: &str = "petrel-app-";
const DELETING: &str =
    "new demo keys are made, and servers and apps that use the old ones are refused";

/// The keys of the project `demo`. `Debug` hides them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DemoKeys {
    /// For publishers.
    pub api_key: SecretText,
    /// For devices.
    pub app_key: SecretText,
}

impl DemoKeys {
    /// The project, as if the configuration had named it.
    #[must_use]
    pub fn project(&self) -> Project {
        Project {
            api_keys: vec![self.api_key.clone()],
            app_keys: vec![self.app_key.clone()],
            ..Project::default()
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    project: String,
    api_key: String,
    app_key: String,
}

impl DataDir {
    /// The demo keys, made at the first call and the same from then on. `None` where the configuration names a
    /// project; keys made before stay in their file, but nobody may use them.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read or written.
    pub fn demo_keys(&self, projects: &Projects) -> Result<Option<DemoKeys>, FileError> {
        if !projects.is_empty() {
            return Ok(None);
        }
        let path = self.path().join(FILE);
        match file::read(&path)? {
            Some(content) => parse(&path, &content).map(Some),
            None => make(&path).map(Some),
        }
    }
}

fn make(path: &Path) -> Result<DemoKeys, FileError> {
    let random = SystemRandom::new();
    let keys = DemoKeys {
        api_key: printable(&random, API_PREFIX, path)?,
        app_key: printable(&random, APP_PREFIX, path)?,
    };
    // By hand: keys consist of letters, digits, - and _, and no unwiped copy is left behind.
    let text = Zeroizing::new(format!(
        "{{\"project\":\"{DEMO_PROJECT}\",\"api_key\":\"{}\",\"app_key\":\"{}\"}}\n",
        keys.api_key.expose(),
        keys.app_key.expose()
    ));
    file::write(path, text.as_bytes())?;
    Ok(keys)
}

fn parse(path: &Path, content: &[u8]) -> Result<DemoKeys, FileError> {
    let damaged = |reason: Reason| FileError::damaged(path, reason.to_string(), DELETING);
    // Category and place only: the parser's own message may quote what it found.
    let stored: Stored =
        serde_json::from_slice(content).map_err(|e| damaged(Reason::NotJson(e.line())))?;
    let is_key = |key: &str, prefix: &str| {
        key.starts_with(prefix) && key.len() >= prefix.len() + PROJECT_KEY_CHARS_MIN
    };
    let (api_key, app_key) = (
        SecretText::new(stored.api_key),
        SecretText::new(stored.app_key),
    );
    if stored.project != DEMO_PROJECT {
        return Err(damaged(Reason::Project));
    }
    if !is_key(api_key.expose(), API_PREFIX) || !is_key(app_key.expose(), APP_PREFIX) {
        return Err(damaged(Reason::Keys));
    }
    Ok(DemoKeys { api_key, app_key })
}

enum Reason {
    NotJson(usize),
    Project,
    Keys,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(line) => write!(f, "line {line} is not the JSON that belongs there"),
            Self::Project => f.write_str("it is about another project"),
            Self::Keys => f.write_str("a key has not the form of a demo key"),
        }
    }
}
