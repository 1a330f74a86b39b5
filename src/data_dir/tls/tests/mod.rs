//! Certificates, judged as devices judge them: by a handshake in memory.

mod damaged;
mod issued;
mod own;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use tempfile::TempDir;

use super::*;
use crate::data_dir::DataDir;

/// 2026-01-01.
const START: Duration = Duration::from_secs(1_767_225_600);

fn at(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + START + Duration::from_secs(days * 24 * 3600)
}

struct Scratch {
    directory: TempDir,
    data_dir: DataDir,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(directory.path()).unwrap();
        Self {
            directory,
            data_dir,
        }
    }

    fn load(&self, names: &[&str], now: SystemTime) -> Result<TlsStore, TlsError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        TlsStore::load_or_make(&self.data_dir, &names, &[], now)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("tls").join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }
}

/// A clock for the client's side of a handshake.
#[derive(Debug)]
struct Clock(SystemTime);

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(
            self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap(),
        ))
    }
}

/// Connects to `name` trusting `ca`; the certificate that was shown, and the protocol agreed on.
fn handshake(
    server: &Arc<ServerCertificate>,
    ca: &Path,
    name: &str,
    now: SystemTime,
) -> Result<(CertificateDer<'static>, Option<Vec<u8>>), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_details(provider, Arc::new(Clock(now)))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let server = server.server_config(&[b"h2", b"http/1.1"]).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    let shown = client.peer_certificates().unwrap()[0].clone().into_owned();
    Ok((shown, client.alpn_protocol().map(<[u8]>::to_vec)))
}
