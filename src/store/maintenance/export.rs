//! The portable form of a store: lines of JSON, independent of the engine.
//!
//! ```text
//! {"format":"petrel-export","version":1,"schema":2,"epoch":…,"sealing_keys":["…"],"petrel":"…","written_at_ms":…}
//! {"kind":"registration","key":"BASE64","value":"BASE64"}
//! …
//! {"end":true,"pairs":N,"skipped":N,"sha256":"…"}
//! ```
//!
//! Pairs stand in order of their keys. `key` is without the byte of its kind, `value` without its checksum: the last
//! line has the SHA-256 of everything before it, so that a truncated or changed file is noticed. Lines end with `\n`.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::check::hex;
use super::kinds::Kind;
use super::life;
use super::walk::{self, Seen};
use super::{MaintenanceError, Progress};
use crate::store::{OrderedMap, layout};

/// What the first line calls the format.
pub(super) const FORMAT: &str = "petrel-export";

/// Version of the format. The schema of keys and values has a version of its own.
pub(super) const VERSION: u32 = 1;

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExportHeader {
    /// Always `petrel-export`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// Version of keys and values.
    pub schema: u32,
    /// Which life of the store it is of.
    pub epoch: u32,
    /// Fingerprints of the keys that seal this broker's device tokens.
    pub sealing_keys: Vec<String>,
    /// Version of the program that wrote it.
    pub petrel: String,
    /// When, in milliseconds since 1970.
    pub written_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub(super) kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub(super) key: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub(super) value: std::borrow::Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trailer {
    pub(super) end: bool,
    pub(super) pairs: u64,
    pub(super) skipped: u64,
    pub(super) sha256: String,
}

/// What an export holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Exported {
    /// Pairs written.
    pub pairs: u64,
    /// Values that cannot be read and were left out; `petrel store check` lists them.
    pub skipped: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// Writes a store. `out` is flushed, and made durable by the caller.
///
/// # Errors
/// The store cannot be read, is not one, or is of a newer Petrel; or `out` fails.
pub fn export(
    map: &dyn OrderedMap,
    sealing_keys: Vec<String>,
    written_at_ms: u64,
    out: &mut dyn Write,
    progress: Progress<'_>,
) -> Result<Exported, MaintenanceError> {
    let small = |number: Option<u64>| u32::try_from(number.unwrap_or(0)).unwrap_or(u32::MAX);
    let schema = life::known_schema(map)?;
    let header = ExportHeader {
        format: FORMAT.into(),
        version: VERSION,
        schema,
        epoch: small(life::meta(map, "epoch")?),
        sealing_keys,
        petrel: env!("CARGO_PKG_VERSION").into(),
        written_at_ms,
    };
    let mut out = Hashing::new(out);
    out.line(&header)?;
    let mut seen = Seen::default();
    let (mut pairs, mut skipped) = (0, 0);
    let (mut key_text, mut value_text) = (String::new(), String::new());
    for pair in map.range(walk::FIRST, walk::END) {
        let (key, value) = pair?;
        seen.add(&key, &value);
        if seen.is_due() {
            progress(seen);
        }
        if life::is_marker(&key) {
            continue;
        }
        let sound = Kind::of(&key).filter(|kind| kind.problem(&key, &value).is_none());
        let (Some(kind), Some(payload)) = (sound, layout::open(&value)) else {
            skipped += 1;
            continue;
        };
        key_text.clear();
        STANDARD.encode_string(&key[1..], &mut key_text);
        value_text.clear();
        STANDARD.encode_string(payload, &mut value_text);
        out.line(&Line {
            kind: kind.name.into(),
            key: key_text.as_str().into(),
            value: value_text.as_str().into(),
        })?;
        pairs += 1;
    }
    let trailer = Trailer {
        end: true,
        pairs,
        skipped,
        sha256: out.sum(),
    };
    out.line(&trailer)?;
    out.out.flush().map_err(MaintenanceError::Unwritable)?;
    Ok(Exported {
        pairs,
        skipped,
        bytes: out.bytes,
    })
}

/// Hashes what is written.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    context: Context,
    buffer: Vec<u8>,
    bytes: u64,
}

impl<'a> Hashing<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out,
            context: Context::new(&SHA256),
            buffer: Vec::new(),
            bytes: 0,
        }
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), MaintenanceError> {
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, line)
            .map_err(|e| MaintenanceError::Unwritable(io::Error::other(e)))?;
        self.buffer.push(b'\n');
        self.context.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        self.out
            .write_all(&self.buffer)
            .map_err(MaintenanceError::Unwritable)
    }

    fn sum(&self) -> String {
        hex(self.context.clone().finish().as_ref())
    }
}
