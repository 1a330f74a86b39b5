//! `keys/`: secrets that outlive the process. Each is made once, at its first use.
//!
//! - `transport.key`: random bytes from which the transport derives its reset, token and ticket keys.
//! - `token.key`: the keys that seal device tokens. A version byte, then for each key its id and 32 bytes, the oldest
//!   first, then the first 8 bytes of the SHA-256 of all that.
//! - `admin.key`: a line of text, for calls of the admin port that change something.
//!
//! Memory that held a secret is wiped; `Debug` shows none.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::{DataDir, FileError, file};
use crate::config::SecretText;

pub(crate) const DIRECTORY: &str = "keys";
const SEALING_KEY_BYTES: usize = 32;
const SEALING_KEYS_MAX: usize = 256;
const SEALING_VERSION: u8 = 1;
const RECORD_BYTES: usize = 1 + SEALING_KEY_BYTES;
const CHECKSUM_BYTES: usize = 8;
const PRINTABLE_RANDOM_BYTES: usize = 32;
const ADMIN_PREFIX: &str = "petrel-admin-";

const DELETING_TRANSPORT: &str = "a new one is made, and devices connected to a broker that was killed notice it only at their idle timeout";
const DELETING_TOKEN: &str = "new ones are made, every device token given out so far is refused, and every device \
                              registers anew";
const DELETING_ADMIN: &str = "a new one is made, and whoever uses the old one is refused";

/// Random bytes for the transport. Wiped when dropped.
#[derive(Clone)]
pub struct TransportKey(Zeroizing<Vec<u8>>);

impl TransportKey {
    /// The bytes, as many as were asked for.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TransportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportKey(…)")
    }
}

/// A key that seals device tokens. Wiped when dropped.
#[derive(Clone)]
pub struct SealingKey {
    /// Stands in clear in each token.
    pub id: u8,
    /// The secret.
    pub key: Zeroizing<[u8; SEALING_KEY_BYTES]>,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({}, …)", self.id)
    }
}

/// The sealing keys, the newest last: it seals, all are read. Never empty.
#[derive(Clone, Debug)]
pub struct SealingKeys(Vec<SealingKey>);

impl SealingKeys {
    /// The keys, the newest last.
    #[must_use]
    pub fn as_slice(&self) -> &[SealingKey] {
        &self.0
    }
}

/// The key of the admin port. `Debug` hides it.
#[derive(Clone, Debug)]
pub struct AdminKey(SecretText);

impl AdminKey {
    /// The key as a client sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Reads the key of a data directory that a broker may be running on.
    ///
    /// # Errors
    /// There is none, it is damaged, or it cannot be read.
    pub fn read(data_dir: &Path) -> Result<Self, FileError> {
        let path = data_dir.join(DIRECTORY).join("admin.key");
        match file::read(&path)? {
            Some(content) => parse_admin(&path, &content),
            None => Err(FileError::read(&path, std::io::ErrorKind::NotFound.into())),
        }
    }

    /// Whether a client sent this key. Compares hashes, so that the time taken tells nothing of the key.
    #[must_use]
    pub fn matches(&self, candidate: &str) -> bool {
        let hash = |text: &str| digest(&SHA256, text.as_bytes());
        hash(self.expose()).as_ref() == hash(candidate).as_ref()
    }
}

/// The secrets of a data directory.
#[derive(Clone, Debug)]
pub struct Keyring {
    directory: PathBuf,
    random: SystemRandom,
}

impl Keyring {
    /// Opens `keys/`, making it where it is missing. Reads and makes no key yet.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(data_dir: &DataDir) -> Result<Self, FileError> {
        Ok(Self {
            directory: data_dir.make_inside(DIRECTORY)?,
            random: SystemRandom::new(),
        })
    }

    /// The transport's key, `bytes` long.
    ///
    /// # Errors
    /// The file has another length, or cannot be read or written.
    pub fn transport(&self, bytes: usize) -> Result<TransportKey, FileError> {
        let path = self.directory.join("transport.key");
        if let Some(key) = file::read(&path)? {
            if key.len() != bytes {
                let reason = format!("it has {} bytes, not {bytes}", key.len());
                return Err(FileError::damaged(&path, reason, DELETING_TRANSPORT));
            }
            return Ok(TransportKey(key));
        }
        let mut key = Zeroizing::new(vec![0; bytes]);
        self.fill(&mut key, &path)?;
        file::write(&path, &key)?;
        Ok(TransportKey(key))
    }

    /// The keys that seal device tokens; a first one where there is none.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read or written.
    pub fn sealing(&self) -> Result<SealingKeys, FileError> {
        let path = self.sealing_path();
        match file::read(&path)? {
            Some(content) => parse_sealing(&path, &content),
            None => self.append_sealing(Vec::new()),
        }
    }

    /// A fingerprint of each sealing key there is; makes none. Two brokers with one of them in common can be told from
    /// others, and nobody can tell the key from it.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn sealing_fingerprints(&self) -> Result<Vec<String>, FileError> {
        const FINGERPRINT_BYTES: usize = 16;
        let path = self.sealing_path();
        let Some(content) = file::read(&path)? else {
            return Ok(Vec::new());
        };
        let fingerprint = |key: &SealingKey| {
            let mut context = ring::digest::Context::new(&SHA256);
            context.update(b"petrel sealing key fingerprint");
            context.update(&[key.id]);
            context.update(key.key.as_slice());
            let sum = context.finish();
            let shown = sum.as_ref().iter().take(FINGERPRINT_BYTES);
            shown.map(|byte| format!("{byte:02x}")).collect()
        };
        let keys = parse_sealing(&path, &content)?;
        Ok(keys.as_slice().iter().map(fingerprint).collect())
    }

    /// Takes the sealing keys out of use, under another name: every token given out so far is refused, and the next
    /// start makes a new key.
    ///
    /// # Errors
    /// The file cannot be renamed.
    pub fn retire_sealing(&self, suffix: u64) -> std::io::Result<()> {
        let path = self.sealing_path();
        let retired = self.directory.join(format!("token.retired-{suffix}.key"));
        match std::fs::rename(&path, retired) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => file::sync_directory(&self.directory),
        }
    }

    /// Adds a sealing key, which seals from then on. The oldest goes when there are 256, and with it the tokens that
    /// it sealed.
    ///
    /// # Errors
    /// As [`Keyring::sealing`].
    pub fn rotate_sealing(&self) -> Result<SealingKeys, FileError> {
        let mut keys = self.sealing()?.0;
        if keys.len() == SEALING_KEYS_MAX {
            keys.remove(0);
        }
        self.append_sealing(keys)
    }

    /// Puts a new sealing key in the place of all there were: every device token given out so far is refused, and
    /// every device registers anew. For a store that is lost, when which devices it had is not known.
    ///
    /// # Errors
    /// As [`Keyring::sealing`].
    pub fn replace_sealing(&self) -> Result<SealingKeys, FileError> {
        // Its id goes on from the newest, so that an old token is foreign at once.
        let newest = self.sealing()?.0.pop();
        let mut keys = self.append_sealing(newest.into_iter().collect())?.0;
        let first = keys.len().saturating_sub(1);
        self.write_sealing(keys.split_off(first))
    }

    /// The key of the admin port.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read or written.
    pub fn admin(&self) -> Result<AdminKey, FileError> {
        let path = self.directory.join("admin.key");
        if let Some(content) = file::read(&path)? {
            return parse_admin(&path, &content);
        }
        let key = printable(&self.random, ADMIN_PREFIX, &path)?;
        let line = Zeroizing::new(format!("{}\n", key.expose()));
        file::write(&path, line.as_bytes())?;
        Ok(AdminKey(key))
    }

    fn sealing_path(&self) -> PathBuf {
        self.directory.join("token.key")
    }

    fn append_sealing(&self, mut keys: Vec<SealingKey>) -> Result<SealingKeys, FileError> {
        let path = self.sealing_path();
        let mut key = Zeroizing::new([0; SEALING_KEY_BYTES]);
        self.fill(key.as_mut_slice(), &path)?;
        // Ids go round; with at most 256 keys in a row, no two have the same.
        let id = keys.last().map_or(0, |newest| newest.id.wrapping_add(1));
        keys.push(SealingKey { id, key });
        self.write_sealing(keys)
    }

    fn write_sealing(&self, keys: Vec<SealingKey>) -> Result<SealingKeys, FileError> {
        let path = self.sealing_path();
        let mut content = Zeroizing::new(Vec::with_capacity(
            1 + keys.len() * RECORD_BYTES + CHECKSUM_BYTES,
        ));
        content.push(SEALING_VERSION);
        for key in &keys {
            content.push(key.id);
            content.extend_from_slice(key.key.as_slice());
        }
        let sum = checksum(&content);
        content.extend_from_slice(&sum);
        file::write(&path, &content)?;
        Ok(SealingKeys(keys))
    }

    fn fill(&self, bytes: &mut [u8], path: &Path) -> Result<(), FileError> {
        self.random
            .fill(bytes)
            .map_err(|_| FileError::NoRandomness(path.to_owned()))
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    sum.iter_mut()
        .zip(digest(&SHA256, content).as_ref())
        .for_each(|(to, from)| *to = *from);
    sum
}

fn parse_sealing(path: &Path, content: &[u8]) -> Result<SealingKeys, FileError> {
    let damaged = |reason: &str| FileError::damaged(path, reason, DELETING_TOKEN);
    let (body, sum) = content
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or_else(|| damaged("it is too short"))?;
    if checksum(body) != *sum {
        return Err(damaged("its checksum is wrong"));
    }
    let records = match body.split_first() {
        Some((&SEALING_VERSION, records)) => records,
        _ => return Err(damaged("another version of the broker wrote it")),
    };
    let (records, rest) = records.as_chunks::<RECORD_BYTES>();
    if records.is_empty() || records.len() > SEALING_KEYS_MAX || !rest.is_empty() {
        return Err(damaged("its length is wrong"));
    }
    let keys = records.iter().map(|[id, secret @ ..]| SealingKey {
        id: *id,
        key: Zeroizing::new(*secret),
    });
    Ok(SealingKeys(keys.collect()))
}

fn parse_admin(path: &Path, content: &[u8]) -> Result<AdminKey, FileError> {
    let damaged = || FileError::damaged(path, "it is not an admin key", DELETING_ADMIN);
    let text = std::str::from_utf8(content)
        .map_err(|_| damaged())?
        .trim_end();
    let random = text.strip_prefix(ADMIN_PREFIX).ok_or_else(damaged)?;
    let bytes = URL_SAFE_NO_PAD.decode(random).map(Zeroizing::new);
    match bytes {
        Ok(bytes) if bytes.len() == PRINTABLE_RANDOM_BYTES => {
            Ok(AdminKey(SecretText::new(text.to_owned())))
        }
        _ => Err(damaged()),
    }
}

/// A new secret that people can copy: a prefix that says what it is for, then 32 random bytes in base64url.
pub(crate) fn printable(
    random: &SystemRandom,
    prefix: &str,
    path: &Path,
) -> Result<SecretText, FileError> {
    let mut bytes = Zeroizing::new([0; PRINTABLE_RANDOM_BYTES]);
    random
        .fill(bytes.as_mut_slice())
        .map_err(|_| FileError::NoRandomness(path.to_owned()))?;
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
    Ok(SecretText::new(format!("{prefix}{}", encoded.as_str())))
}
