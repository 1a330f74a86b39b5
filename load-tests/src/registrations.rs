//! The registrations of all devices, kept in a file so that a later run brings millions of them back.
//!
//! A device's secret is made from the seed of the file and the device's number, so only tokens are stored, in records
//! of one width. A record of zeros is a device that is not registered yet. The file holds for one project of one broker.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use petrel_protocol::limits::SECRET_BYTES;
use ring::hmac;

const MAGIC: &[u8; 8] = b"PETRLOAD";
const VERSION: u16 = 1;
const SEED_BYTES: usize = 32;
const BROKER_BYTES: usize = 32;
const PROJECT_BYTES: usize = 64;
/// Magic, version, record width, checksum of all that follows; then count, seed, broker, project.
const CHECKED_FROM: usize = 16;
const HEADER_BYTES: usize = CHECKED_FROM + 8 + SEED_BYTES + BROKER_BYTES + PROJECT_BYTES;
/// Longest token that a file can hold. Today's have 34 characters.
const TOKEN_BYTES_MAX: usize = 255;
/// Most devices in a file.
const DEVICES_MAX: u64 = 1 << 24;

/// Which project of which broker registrations are for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Home {
    /// SHA-256 of the broker's CA certificate.
    pub(crate) broker: [u8; BROKER_BYTES],
    pub(crate) project: String,
}

/// Tokens by number of the device, and the seed of the secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Registrations {
    home: Home,
    seed: [u8; SEED_BYTES],
    /// Bytes of a token; 0 while there is none.
    width: usize,
    tokens: Vec<u8>,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrationsError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} holds no registrations of petrel-load: name another file", path.display())]
    Foreign { path: PathBuf },
    #[error("{} is of version {version}, this petrel-load knows version {VERSION}: remove it to register anew", path.display())]
    Version { path: PathBuf, version: u16 },
    #[error("{} is damaged ({problem}): remove it to register anew", path.display())]
    Damaged {
        path: PathBuf,
        problem: &'static str,
    },
    #[error("the registrations in {} are of another {whose}: name another file, or remove it to register anew", path.display())]
    Elsewhere { path: PathBuf, whose: &'static str },
    #[error(
        "the broker gave a token of {bytes} bytes, where others have {width}: it cannot be kept"
    )]
    Width { bytes: usize, width: usize },
    #[error("the project's name is longer than {PROJECT_BYTES} bytes")]
    Project,
}

impl Registrations {
    /// None yet.
    pub(crate) fn new(home: Home, seed: [u8; SEED_BYTES]) -> Self {
        Self {
            home,
            seed,
            width: 0,
            tokens: Vec::new(),
        }
    }

    /// The secret of a device (PROTO-14).
    pub(crate) fn secret(&self, device: u32) -> [u8; SECRET_BYTES] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.seed);
        let tag = hmac::sign(&key, &device.to_le_bytes());
        let mut secret = [0; SECRET_BYTES];
        secret.copy_from_slice(tag.as_ref());
        secret
    }

    /// The token of a device, if it is registered.
    pub(crate) fn token(&self, device: u32) -> Option<&str> {
        let start = usize::try_from(device).ok()?.checked_mul(self.width)?;
        let record = self.tokens.get(start..start + self.width)?;
        if record.iter().all(|byte| *byte == 0) {
            return None;
        }
        std::str::from_utf8(record).ok()
    }

    /// How many of the first so many devices are registered.
    pub(crate) fn registered(&self, devices: u32) -> u32 {
        (0..devices)
            .map(|device| u32::from(self.token(device).is_some()))
            .sum()
    }

    /// Keeps a token.
    ///
    /// # Errors
    /// [`RegistrationsError::Width`] unless it is as long as all others.
    pub(crate) fn set(&mut self, device: u32, token: &str) -> Result<(), RegistrationsError> {
        let bytes = token.len();
        if self.width == 0 && (1..=TOKEN_BYTES_MAX).contains(&bytes) {
            self.width = bytes;
        }
        if bytes != self.width || bytes == 0 {
            return Err(RegistrationsError::Width {
                bytes,
                width: self.width,
            });
        }
        let start = device as usize * self.width;
        if self.tokens.len() < start + self.width {
            self.tokens.resize(start + self.width, 0);
        }
        self.tokens[start..start + self.width].copy_from_slice(token.as_bytes());
        Ok(())
    }

    /// Reads a file; `None` if there is none.
    pub(crate) fn load(path: &Path, home: &Home) -> Result<Option<Self>, RegistrationsError> {
        let io = |source| RegistrationsError::Io {
            what: "read",
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut bytes).map_err(io)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let damaged = |problem| RegistrationsError::Damaged {
            path: path.to_owned(),
            problem,
        };
        if !bytes.starts_with(MAGIC) {
            return Err(RegistrationsError::Foreign {
                path: path.to_owned(),
            });
        }
        let header = bytes
            .get(..HEADER_BYTES)
            .ok_or_else(|| damaged("its head is cut off"))?;
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION {
            return Err(RegistrationsError::Version {
                path: path.to_owned(),
                version,
            });
        }
        let width = usize::from(u16::from_le_bytes([header[10], header[11]]));
        let checksum = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        let (count, rest) = header[CHECKED_FROM..].split_at(8);
        let count = count
            .iter()
            .rev()
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        let expected = (count <= DEVICES_MAX && width <= TOKEN_BYTES_MAX)
            .then(|| HEADER_BYTES as u64 + count * width as u64)
            .ok_or_else(|| damaged("it claims more than a file can hold"))?;
        match (bytes.len() as u64).cmp(&expected) {
            std::cmp::Ordering::Less => return Err(damaged("its end is missing")),
            std::cmp::Ordering::Greater => return Err(damaged("something stands behind its end")),
            std::cmp::Ordering::Equal => {}
        }
        if crc32fast::hash(&bytes[CHECKED_FROM..]) != checksum {
            return Err(damaged("its checksum is wrong"));
        }
        let (seed, rest) = rest.split_at(SEED_BYTES);
        let (broker, project) = rest.split_at(BROKER_BYTES);
        let elsewhere = |whose| RegistrationsError::Elsewhere {
            path: path.to_owned(),
            whose,
        };
        if *broker != home.broker {
            return Err(elsewhere("broker"));
        }
        if *project != padded(&home.project)? {
            return Err(elsewhere("project"));
        }
        let mut registrations = Self::new(home.clone(), [0; SEED_BYTES]);
        registrations.seed.copy_from_slice(seed);
        registrations.width = width;
        registrations.tokens = bytes.split_off(HEADER_BYTES);
        Ok(Some(registrations))
    }

    /// Writes the file: a new one beside it first, so that a crash leaves the old one.
    pub(crate) fn save(&self, path: &Path) -> Result<(), RegistrationsError> {
        let count = self.tokens.len().checked_div(self.width).unwrap_or(0) as u64;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.tokens.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(self.width as u16).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&self.seed);
        bytes.extend_from_slice(&self.home.broker);
        bytes.extend_from_slice(&padded(&self.home.project)?);
        bytes.extend_from_slice(&self.tokens);
        let checksum = crc32fast::hash(&bytes[CHECKED_FROM..]);
        bytes[12..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
        let beside = path.with_extension("new");
        let write = || -> io::Result<()> {
            // The secrets can be made from it.
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        };
        write().map_err(|source| RegistrationsError::Io {
            what: "write",
            path: path.to_owned(),
            source,
        })
    }
}

fn padded(project: &str) -> Result<[u8; PROJECT_BYTES], RegistrationsError> {
    let mut padded = [0; PROJECT_BYTES];
    let place = padded
        .get_mut(..project.len())
        .ok_or(RegistrationsError::Project)?;
    place.copy_from_slice(project.as_bytes());
    Ok(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [&str; 3] = ["token-of-0", "token-of-1", "token-of-3"];

    fn home() -> Home {
        Home {
            broker: [7; BROKER_BYTES],
            project: "demo".to_owned(),
        }
    }

    fn filled() -> Registrations {
        let mut registrations = Registrations::new(home(), [9; SEED_BYTES]);
        // Out of order, and with a hole at 2, as handshakes end.
        for (device, token) in [(3, TOKENS[2]), (0, TOKENS[0]), (1, TOKENS[1])] {
            registrations.set(device, token).unwrap();
        }
        registrations
    }

    struct Kept {
        _dir: tempfile::TempDir,
        path: PathBuf,
    }

    fn kept() -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices");
        filled().save(&path).unwrap();
        Kept { _dir: dir, path }
    }

    /// The error after the file's bytes were changed.
    fn after(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let kept = kept();
        let mut bytes = std::fs::read(&kept.path).unwrap();
        change(&mut bytes);
        std::fs::write(&kept.path, bytes).unwrap();
        match Registrations::load(&kept.path, &home()) {
            Err(error) => error.to_string(),
            Ok(_) => "none".to_owned(),
        }
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let kept = kept();
        let read = Registrations::load(&kept.path, &home()).unwrap().unwrap();
        assert!(read == filled());
        assert_eq!(
            (read.token(0), read.token(1)),
            (Some(TOKENS[0]), Some(TOKENS[1]))
        );
        assert_eq!(
            (read.token(2), read.token(3), read.token(4)),
            (None, Some(TOKENS[2]), None)
        );
        assert_eq!((read.registered(3), read.registered(100)), (2, 3));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&kept.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nothing_registered_can_be_saved_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices");
        assert!(Registrations::load(&path, &home()).unwrap().is_none());
        Registrations::new(home(), [1; SEED_BYTES])
            .save(&path)
            .unwrap();
        let read = Registrations::load(&path, &home()).unwrap().unwrap();
        assert_eq!(read.registered(10), 0);
    }

    #[test]
    fn secrets_follow_from_the_seed_and_differ() {
        let registrations = filled();
        assert_eq!(registrations.secret(5), filled().secret(5));
        assert_ne!(registrations.secret(5), registrations.secret(6));
        let other = Registrations::new(home(), [8; SEED_BYTES]);
        assert_ne!(registrations.secret(5), other.secret(5));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        assert!(after(|bytes| bytes[0] = b'X').contains("no registrations"));
        assert!(after(|bytes| bytes[8] = 9).contains("version 9"));
        assert!(after(|bytes| bytes.truncate(HEADER_BYTES - 1)).contains("its head is cut off"));
        assert!(after(|bytes| bytes.truncate(HEADER_BYTES + 15)).contains("its end is missing"));
        assert!(after(|bytes| bytes.push(0)).contains("behind its end"));
        assert!(
            after(|bytes| bytes[CHECKED_FROM + 7] = 0xff).contains("more than a file can hold")
        );
        for at in [12, CHECKED_FROM + 8, HEADER_BYTES - 1, HEADER_BYTES + 3] {
            assert!(
                after(|bytes| bytes[at] ^= 1).contains("checksum"),
                "byte {at}"
            );
        }
        assert_eq!(after(|_| {}), "none");
    }

    #[test]
    fn registrations_of_another_broker_or_project_are_refused() {
        let kept = kept();
        let error = |home: &Home| {
            Registrations::load(&kept.path, home)
                .err()
                .unwrap()
                .to_string()
        };
        let broker = Home {
            broker: [8; BROKER_BYTES],
            ..home()
        };
        assert!(error(&broker).contains("another broker"));
        let project = Home {
            project: "demo2".to_owned(),
            ..home()
        };
        assert!(error(&project).contains("another project"));
    }

    #[test]
    fn a_token_of_another_length_is_refused() {
        let mut registrations = filled();
        for bad in ["", "short", "token-of-10"] {
            assert!(registrations.set(9, bad).is_err(), "{bad:?}");
        }
        assert!(
            Registrations::new(home(), [0; 32])
                .set(0, &"x".repeat(256))
                .is_err()
        );
    }
}
