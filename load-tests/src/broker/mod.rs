//! The broker under load: one of our own, or one that runs on this machine already.

mod child;
mod ready;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use ring::digest;

use self::child::{Child, Place};
use self::ready::Ready;
use crate::http::address;
use crate::registrations::Home;

/// Which broker the user wants.
#[derive(Debug)]
pub(crate) enum Choice {
    /// Started here. `home`: where its data and registrations stay.
    Own {
        petrel: Option<PathBuf>,
        config: Option<PathBuf>,
        home: Option<PathBuf>,
    },
    /// Found by its data directory.
    DataDir {
        data_dir: PathBuf,
        registrations: Option<PathBuf>,
    },
    /// Told by flags.
    Explicit {
        explicit: Explicit,
        registrations: Option<PathBuf>,
    },
}

/// A broker told by flags.
#[derive(Debug)]
pub(crate) struct Explicit {
    pub(crate) quic: SocketAddr,
    pub(crate) ca: PathBuf,
    pub(crate) project: String,
    pub(crate) app_key: String,
    pub(crate) http: String,
    pub(crate) api_key: String,
    pub(crate) admin: Option<String>,
    pub(crate) pid: Option<u32>,
}

/// How to reach a broker, and what to show it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) quic: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) project: String,
    pub(crate) app_key: String,
    pub(crate) api_key: String,
    /// PEM.
    pub(crate) ca: Vec<u8>,
    pub(crate) pid: Option<u32>,
}

/// The broker of a run.
pub(crate) struct Broker {
    pub(crate) target: Target,
    /// Where registrations are kept, if anywhere.
    pub(crate) registrations: Option<PathBuf>,
    own: Option<(Child, Place)>,
}

impl Broker {
    /// Starts or finds it.
    pub(crate) async fn open(choice: Choice) -> Result<Self> {
        let (target, registrations, own) = match choice {
            Choice::Own {
                petrel,
                config,
                home,
            } => {
                let place = Place::new(petrel, config, home)?;
                let child = Child::start(&place, None).await?;
                let target = child.ready().target(Some(child.pid()))?;
                (target, place.registrations(), Some((child, place)))
            }
            Choice::DataDir {
                data_dir,
                registrations,
            } => {
                let (ready, pid) = Ready::read(&data_dir)?;
                (ready.target(pid)?, registrations, None)
            }
            Choice::Explicit {
                explicit,
                registrations,
            } => (explicit.target()?, registrations, None),
        };
        target.check()?;
        Ok(Self {
            target,
            registrations,
            own,
        })
    }

    /// Whether it was started here.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Ends a broker of our own in good order and starts it again on the same data.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let Some((child, place)) = self.own.take() else {
            bail!("this broker was not started here, so it is not restarted here");
        };
        let ready = child.stop().await?;
        let child = Child::start(&place, Some(&ready)).await?;
        self.target = child.ready().target(Some(child.pid()))?;
        self.own = Some((child, place));
        Ok(())
    }

    /// Ends a broker of our own in good order; leaves any other alone.
    pub(crate) async fn close(mut self) -> Result<()> {
        if let Some((child, _place)) = self.own.take() {
            child.stop().await?;
        }
        Ok(())
    }

    /// The last words of a broker of our own.
    pub(crate) fn log_tail(&self) -> String {
        self.own
            .as_ref()
            .map_or_else(String::new, |(_, place)| place.log_tail())
    }
}

impl Target {
    /// What registrations of this broker are told by.
    pub(crate) fn home(&self) -> Home {
        let hash = digest::digest(&digest::SHA256, &self.ca);
        let mut broker = [0; 32];
        broker.copy_from_slice(hash.as_ref());
        Home {
            broker,
            project: self.project.clone(),
        }
    }

    /// Load goes to this machine, over IPv4: the devices' addresses are in 127.0.0.0/8.
    fn check(&self) -> Result<()> {
        for (what, address) in [
            ("devices", Some(self.quic)),
            ("publishers", Some(self.http)),
            ("metrics", self.admin),
        ] {
            let Some(address) = address else { continue };
            if !address.ip().is_loopback() || !address.is_ipv4() {
                bail!(
                    "the broker's address for {what}, {address}, is not in 127.0.0.0/8: load goes to loopback only; run \
                     broker and petrel-load on one machine"
                );
            }
        }
        Ok(())
    }
}

impl Explicit {
    fn target(self) -> Result<Target> {
        let ca = std::fs::read(&self.ca);
        Ok(Target {
            quic: self.quic,
            http: address(&self.http)?,
            admin: self.admin.as_deref().map(address).transpose()?,
            project: self.project,
            app_key: self.app_key,
            api_key: self.api_key,
            ca: ca.with_context(|| format!("cannot read the CA {}", self.ca.display()))?,
            pid: self.pid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(quic: &str, http: &str) -> Target {
        Target {
            quic: quic.parse().unwrap(),
            http: http.parse().unwrap(),
            admin: None,
            project: "demo".to_owned(),
            app_key: String::new(),
            api_key: String::new(),
            ca: b"one".to_vec(),
            pid: None,
        }
    }

    #[test]
    fn load_goes_to_loopback_only() {
        assert!(target("127.0.0.1:1", "127.3.2.1:2").check().is_ok());
        for (quic, http, what) in [
            ("192.0.2.1:1", "127.0.0.1:2", "devices"),
            ("127.0.0.1:1", "198.51.100.7:2", "publishers"),
            ("[::1]:1", "127.0.0.1:2", "devices"),
        ] {
            let error = target(quic, http).check().unwrap_err().to_string();
            assert!(
                error.contains(what) && error.contains("loopback only"),
                "{error}"
            );
        }
    }

    #[test]
    fn brokers_are_told_apart_by_their_ca() {
        let one = target("127.0.0.1:1", "127.0.0.1:2");
        let same = target("127.0.0.1:3", "127.0.0.1:4");
        let other = Target {
            ca: b"two".to_vec(),
            ..one.clone()
        };
        assert_eq!(one.home(), same.home());
        assert_ne!(one.home(), other.home());
    }
}
