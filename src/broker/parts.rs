//! The parts that a broker is started from: TCP sockets, store, projects, keys, settings.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use petrel_core::queue::{FullPolicy, Limits};
use petrel_core::{UnixMillis, Window};
use petrel_protocol::{SealKey, TokenSealer};
use tokio::net::TcpListener;

use super::StartError;
use crate::config::{
    ByteSize, Config, Durability, HistoryLevel, Project, ProjectQueue, QueuePolicy,
};
use crate::data_dir::{DEMO_PROJECT, DataDir, DemoKeys, Keyring, Ready, ServerCertificate};
use crate::delivery::{DeliverySettings, HistorySettings, LogLimits};
use crate::directory::{ProjectKeys, ProjectLimits, Projects};
use crate::store::{HistoryLimits, Store};

pub(super) async fn bind(
    key: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen {
            key,
            address,
            source,
        })
}

pub(super) fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(StartError::Socket)
}

pub(super) fn ready_line(
    config: &Config,
    data_dir: &DataDir,
    demo: Option<&DemoKeys>,
    certificate: &ServerCertificate,
    &[quic, http, https, admin]: &[SocketAddr; 4],
) -> Ready {
    let public_url = config
        .public_url
        .as_ref()
        .map_or_else(|| format!("https://{https}"), |url| url.as_str().to_owned());
    Ready {
        ready: true,
        quic: quic.to_string(),
        http: format!("http://{http}"),
        https: format!("https://{https}"),
        admin: format!("http://{admin}"),
        public_url,
        project: demo.map(|_| DEMO_PROJECT.to_owned()),
        api_key: demo.map(|d| d.api_key.expose().to_owned()),
        app_key: demo.map(|d| d.app_key.expose().to_owned()),
        ca: certificate.ca().display().to_string(),
        data_dir: data_dir.path().display().to_string(),
    }
}

pub(super) fn intern_projects(
    config: &Config,
    demo: Option<&DemoKeys>,
    store: &mut dyn Store,
) -> Result<Projects, StartError> {
    let mut configured: HashMap<String, Project> = config
        .projects
        .iter()
        .map(|(name, project)| (name.as_str().to_owned(), project.clone()))
        .collect();
    if let Some(demo) = demo {
        configured.insert(DEMO_PROJECT.to_owned(), demo.project());
    }
    let mut projects = Projects::default();
    for (name, project) in &configured {
        let id = store.project(name)?;
        let texts = |keys: &[crate::config::SecretText]| {
            keys.iter().map(|k| k.expose().to_owned()).collect()
        };
        let keys = ProjectKeys {
            api_keys: texts(&project.api_keys),
            app_keys: texts(&project.app_keys),
        };
        projects.insert(name, id, &keys);
        if project.queue != ProjectQueue::default() {
            projects.limit(id, limits(config, &project.queue));
        }
    }
    store.commit()?;
    Ok(projects)
}

pub(super) fn sealer(keyring: &Keyring) -> Result<TokenSealer, StartError> {
    let stored = keyring.sealing()?;
    let keys: Vec<SealKey> = stored
        .as_slice()
        .iter()
        .map(|k| SealKey {
            id: k.id,
            key: k.key.clone(),
        })
        .collect();
    TokenSealer::new(&keys).ok_or(StartError::NoSealingKey)
}

/// The bounds of a project: its own, and those of `[queue]` where it has none.
fn limits(config: &Config, own: &ProjectQueue) -> ProjectLimits {
    let all = &config.queue;
    let bytes = |own: Option<ByteSize>, all: ByteSize| own.unwrap_or(all).bytes();
    ProjectLimits {
        queue: Limits {
            messages_max: own.messages_max.unwrap_or(all.messages_max),
            bytes_max: bytes(own.bytes_max, all.bytes_max),
            collapse_keys_max: all.collapse_keys_max,
            policy: match own.policy.unwrap_or(all.policy) {
                QueuePolicy::Evict => FullPolicy::Evict,
                QueuePolicy::Refuse => FullPolicy::Refuse,
            },
        },
        bytes_max: bytes(own.project_bytes_max, all.project_bytes_max),
    }
}

pub(super) fn delivery_settings(config: &Config) -> DeliverySettings {
    DeliverySettings {
        ack_window: config.store.ack_window,
        publish_timeout: config.http.publish_timeout,
        batch_operations_max: config.store.batch_operations_max,
        answers_from_memory: config.store.durability == Durability::Fast,
        disk_reserve: config.store.disk_reserve.bytes(),
        limits: limits(config, &ProjectQueue::default()),
        log: LogLimits {
            messages_max: config.topic.log_messages_max,
            bytes_max: config.topic.log_bytes_max.bytes(),
            age_max: config.topic.log_age_max,
        },
        topics_max: config.topic.per_device_max,
        registration_expiry: config.registration.expire_after,
        history: HistorySettings {
            is_recorded: config.history.level == HistoryLevel::Full,
            limits: HistoryLimits {
                age_max: config.history.age_max,
                bytes_max: config.history.bytes_max.bytes(),
            },
        },
        window: Window {
            messages: config.session.window_messages,
            bytes: config.session.window_bytes.bytes(),
            unresponsive_after: config.session.unresponsive_after,
        },
    }
}

pub(super) fn wall_now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |d| d.as_millis());
    UnixMillis(u64::try_from(millis).unwrap_or(u64::MAX))
}
