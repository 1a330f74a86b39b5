//! The configuration: read once at the start, checked as a whole, typed from then on.
//!
//! Four layers, later ones win: the defaults of the table in [`keys`](KEYS), a TOML file, environment variables
//! `PETREL_<SECTION>__<KEY>`, flags. Every key is declared once, in the table. All that is wrong is reported at once,
//! each with key, value, origin, reason and way out; a key that does not exist is wrong. No number stands for "off".
//! Durations are texts such as `"250ms"`, `"30s"`, `"5m"`; sizes are texts such as `"16KiB"`, `"4MiB"`, `"512B"`: both
//! always with their unit, a bare number is refused.
//!
//! It never reads the environment or the command line by itself, opens no socket, makes no directory, and never
//! prints a secret. `main` loads it for every command and hands it to the rooms, which import it and nothing of
//! which it imports.

mod error;
mod keys;
mod kind;
mod layers;
mod nearest;
mod project;
mod relation;
mod secret;
mod show;
#[cfg(test)]
mod tests;
mod url;
mod value;
mod words;

use std::path::Path;

pub use error::{Cause, ConfigErrors, Origin, Problem};
pub use keys::{
    Admin, Config, Drain, Http, Https, KEYS, Key, Log, Queue, Quic, SECTIONS, Section, Session,
    Store, Tls, Topic,
};
pub use kind::Kind;
pub use layers::{ENVIRONMENT_PREFIX, Flag};
pub use project::{
    PROJECT_KEY_CHARS_MAX, PROJECT_KEY_CHARS_MIN, PROJECT_NAME_CHARS_MAX, Project, ProjectName,
    ProjectQueue, Projects,
};
pub use secret::SecretText;
pub use url::PublicUrl;
pub use value::ByteSize;
pub use words::{
    Durability, HistoryLevel, LogFormat, LogLevel, QueuePolicy, QuicEngine, StoreEngine,
};

use layers::Layers;

impl Config {
    /// Reads and checks the configuration: defaults, then `file`, then `env`, then `flags`.
    ///
    /// Of `env` only variables beginning with [`ENVIRONMENT_PREFIX`] are looked at. A flag of a list adds to what the
    /// lower layers say; everything else replaces.
    ///
    /// # Errors
    /// Everything that is wrong, at once. A value is judged even where a later layer overrides it.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigErrors> {
        let text = file.map(|path| (path, std::fs::read_to_string(path)));
        Self::from_layers(text, env, flags)
    }

    /// [`Config::load`] without the file system: the file is its name and what reading it gave.
    fn from_layers(
        file: Option<(&Path, std::io::Result<String>)>,
        env: impl Iterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigErrors> {
        let mut problems = Vec::new();
        let mut layers = Layers::default();
        match file {
            Some((path, Ok(text))) => layers.file(path, &text, &mut problems),
            Some((path, Err(error))) => {
                layers.is_partial = true;
                problems.push(Problem {
                    key: String::new(),
                    value: None,
                    origin: Origin::file(path, 0),
                    cause: Cause::FileUnreadable(error.to_string()),
                });
            }
            None => {}
        }
        layers.environment(env, &mut problems);
        layers.flags(flags, &mut problems);

        let values = layers.resolve(&mut problems);
        let (projects, project_lines) = project::resolve(&layers.by_project, &mut problems);
        if !layers.is_partial {
            relation::check(&values, &mut problems);
        }
        if !problems.is_empty() {
            return Err(ConfigErrors { problems });
        }
        let mut shown = show::lines(&values);
        shown.extend(project_lines);
        let config = Self::build(&values, projects, shown);
        Ok(config.expect("every row's kind fits its type: a test reads the table at both bounds"))
    }
}
