//! Projects: who may publish and whose devices may register, each by secret keys.
//!
//! A section `[projects.NAME]` of the file, or variables `PETREL_PROJECTS__NAME__API_KEYS`, name the keys, and may set the
//! bounds of the project's queues. No secret is ever part of an error or of the configuration as shown.

use std::collections::BTreeMap;
use std::fmt;

use super::error::{Cause, Origin, Problem};
use super::keys::{FromValue, KEYS};
use super::kind::Kind;
use super::layers::Given;
use super::nearest::nearest;
use super::secret::SecretText;
use super::show::Shown;
use super::value::{ByteSize, Raw, Value, list};
use super::words::QueuePolicy;

/// The fewest characters of a key: 16 of base64 are 96 random bits, beyond guessing over a network.
pub const PROJECT_KEY_CHARS_MIN: usize = 16;
/// The most characters of a key, which stands in a header of every request.
pub const PROJECT_KEY_CHARS_MAX: usize = 256;
/// The most characters of a project's name.
pub const PROJECT_NAME_CHARS_MAX: usize = 64;

/// The projects by name. Empty where the configuration names none.
pub type Projects = BTreeMap<ProjectName, Project>;

/// The name of a project: 1 to 64 characters of `a-z 0-9 -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProjectName(Box<str>);

impl ProjectName {
    /// Reads a name; `None` outside the alphabet or the length.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = (1..=PROJECT_NAME_CHARS_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        is_name.then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A project as the configuration names it. Has at least one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Project {
    /// Keys of publishers' servers; each differs from every other key of the broker.
    pub api_keys: Vec<SecretText>,
    /// Keys that apps are built with, for devices to register.
    pub app_keys: Vec<SecretText>,
    /// Its own bounds, where it has any.
    pub queue: ProjectQueue,
}

/// Bounds of a project that differ from those in `[queue]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProjectQueue {
    /// Instead of `queue.messages_max`.
    pub messages_max: Option<usize>,
    /// Instead of `queue.bytes_max`.
    pub bytes_max: Option<ByteSize>,
    /// Instead of `queue.policy`.
    pub policy: Option<QueuePolicy>,
    /// Instead of `queue.project_bytes_max`.
    pub project_bytes_max: Option<ByteSize>,
}

impl ProjectQueue {
    /// Takes the value of one of [`QUEUE_KEYS`], read as the key that it stands in for.
    fn set(&mut self, key: &str, raw: &Raw) -> Result<Option<Value>, Cause> {
        let stands_for = key.replacen('_', ".", 1);
        let Some(row) = KEYS.iter().find(|row| row.name == stands_for) else {
            return Ok(None);
        };
        let value = row.kind.parse(raw)?;
        match key {
            "queue_messages_max" => self.messages_max = FromValue::from_value(Some(&value)),
            "queue_bytes_max" => self.bytes_max = FromValue::from_value(Some(&value)),
            "queue_policy" => self.policy = FromValue::from_value(Some(&value)),
            _ => self.project_bytes_max = FromValue::from_value(Some(&value)),
        }
        Ok(Some(value))
    }
}

/// What the layers give for one project.
#[derive(Default, Debug)]
pub(crate) struct Section {
    /// Where the file opens the section.
    pub(crate) origin: Option<Origin>,
    by_key: BTreeMap<&'static str, Given>,
}

const SECRET_KEYS: [&str; 2] = ["api_keys", "app_keys"];

/// Each as the key of `[queue]` with the same name.
const QUEUE_KEYS: [&str; 4] = [
    "queue_messages_max",
    "queue_bytes_max",
    "queue_policy",
    "queue_project_bytes_max",
];

fn project_keys() -> impl Iterator<Item = &'static str> {
    SECRET_KEYS.into_iter().chain(QUEUE_KEYS)
}

/// Takes the value of `PROJECT.KEY` to its project; a later layer replaces an earlier one.
pub(crate) fn give(
    by_project: &mut BTreeMap<String, Section>,
    path: &str,
    given: Given,
    problems: &mut Vec<Problem>,
) {
    let problem = |cause| Problem {
        key: format!("projects.{path}"),
        value: None,
        origin: given.origin.clone(),
        cause,
    };
    let Some((project, key)) = path.split_once('.') else {
        return problems.push(problem(Cause::Section));
    };
    let section = by_project.entry(project.to_owned()).or_default();
    if let Some(known) = project_keys().find(|known| *known == key) {
        section.origin.get_or_insert_with(|| given.origin.clone());
        section.by_key.insert(known, given);
        return;
    }
    // A section whose only key is mistyped is not reported as empty, too.
    section.origin = None;
    let nearest = nearest(key, project_keys())
        .map(|key| given.origin.key_name(&format!("projects.{project}.{key}")));
    problems.push(problem(Cause::UnknownKey { nearest }));
}

/// Reads all projects, and what is wrong with any of them.
pub(crate) fn resolve(
    by_project: &BTreeMap<String, Section>,
    problems: &mut Vec<Problem>,
) -> (Projects, Vec<Shown>) {
    let mut projects = Projects::new();
    let mut shown = Vec::new();
    let mut place_by_key: BTreeMap<SecretText, String> = BTreeMap::new();
    for (text, section) in by_project {
        let Some(name) = ProjectName::parse(text) else {
            problems.push(Problem {
                key: format!("projects.{text}"),
                value: None,
                origin: section.first_origin(),
                cause: Cause::ProjectName,
            });
            continue;
        };
        let mut project = Project::default();
        for (key, given) in &section.by_key {
            let place = format!("projects.{name}.{key}");
            if QUEUE_KEYS.contains(key) {
                match project.queue.set(key, &given.raw) {
                    Ok(value) => shown.extend(value.map(|value| Shown {
                        key: place,
                        value: value.to_string(),
                        origin: given.origin.clone(),
                    })),
                    Err(cause) => problems.push(Problem {
                        key: place,
                        value: None,
                        origin: given.origin.clone(),
                        cause,
                    }),
                }
                continue;
            }
            let secrets = secrets(&place, given, &mut place_by_key, problems);
            shown.push(Shown {
                key: place,
                value: list(secrets.iter().map(|_| "\"…\"".to_owned())),
                origin: given.origin.clone(),
            });
            match *key {
                "api_keys" => project.api_keys = secrets,
                _ => project.app_keys = secrets,
            }
        }
        if let (Some(origin), true) = (&section.origin, section.is_empty()) {
            problems.push(Problem {
                key: format!("projects.{name}"),
                value: None,
                origin: origin.clone(),
                cause: Cause::ProjectWithoutKeys,
            });
        }
        projects.insert(name, project);
    }
    (projects, shown)
}

impl Section {
    fn first_origin(&self) -> Origin {
        let given = self
            .by_key
            .values()
            .next()
            .map(|given| given.origin.clone());
        self.origin.clone().or(given).unwrap_or(Origin::Default)
    }

    fn is_empty(&self) -> bool {
        // A list that could not be read is a problem of its own.
        let secrets = SECRET_KEYS.iter().filter_map(|key| self.by_key.get(key));
        secrets.into_iter().all(|given| {
            given
                .raw
                .texts(&Kind::Secrets)
                .is_ok_and(|texts| texts.is_empty())
        })
    }
}

/// The secrets of one list; each that is wrong is named by its place.
fn secrets(
    place: &str,
    given: &Given,
    place_by_key: &mut BTreeMap<SecretText, String>,
    problems: &mut Vec<Problem>,
) -> Vec<SecretText> {
    let mut refuse = |key: String, cause| {
        problems.push(Problem {
            key,
            value: None,
            origin: given.origin.clone(),
            cause,
        });
    };
    let texts = match given.raw.texts(&Kind::Secrets) {
        Ok(texts) => texts,
        Err(cause) => {
            refuse(place.to_owned(), cause);
            return Vec::new();
        }
    };
    let mut secrets = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        let secret = SecretText::new(text);
        let here = format!("{place}[{index}]");
        if let Some(cause) = fault(secret.expose()) {
            refuse(here, cause);
        } else if let Some(first) = place_by_key.get(&secret) {
            refuse(
                here,
                Cause::SecretRepeated {
                    first: first.clone(),
                },
            );
        } else {
            place_by_key.insert(secret.clone(), here);
        }
        secrets.push(secret);
    }
    secrets
}

/// What is wrong with a key by itself. The alphabet is that of a bearer token (RFC 6750 §2.1).
fn fault(secret: &str) -> Option<Cause> {
    let chars = secret.chars().count();
    let advice = Kind::Secrets.advice();
    if !(PROJECT_KEY_CHARS_MIN..=PROJECT_KEY_CHARS_MAX).contains(&chars) {
        return Some(Cause::SecretLength { chars, advice });
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    (!secret.chars().all(is_allowed)).then_some(Cause::SecretAlphabet { advice })
}
