//! A network between device and broker for tests: relays UDP over loopback, takes its time, and forgets.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// The form bit of a QUIC packet that begins a connection (RFC 9000 section 17.2).
const LONG_HEADER: u8 = 0x80;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Whatever a device sends makes a binding, as NATs do.
    Bind,
    /// Only what begins a connection does, as firewalls and balancers that follow connections do.
    Refuse,
    /// Nothing does: whoever sends anything is on a network that leads nowhere.
    Lose,
}

/// Keeps running until dropped.
pub(crate) struct Nat {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

struct State {
    binding_by_device: HashMap<SocketAddr, Binding>,
    /// Bindings made so far.
    made: usize,
    /// Devices here are on a network that is gone.
    gone: Vec<SocketAddr>,
    unknown: Unknown,
}

struct Binding {
    upstream: Arc<UdpSocket>,
    used: Instant,
}

impl Nat {
    /// Forgets a binding that was not used for `timeout`; every datagram takes `delay`.
    pub(crate) async fn start(
        broker: SocketAddr,
        timeout: Duration,
        delay: Duration,
        unknown: Unknown,
    ) -> Self {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = inside.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            binding_by_device: HashMap::new(),
            made: 0,
            gone: Vec::new(),
            unknown,
        }));
        let mut tasks = JoinSet::new();
        let relay = Relay {
            broker,
            timeout,
            delay,
            inside,
            state: Arc::clone(&state),
        };
        tasks.spawn(Arc::new(relay).outbound());
        Self {
            address,
            state,
            _tasks: tasks,
        }
    }

    /// All devices that sent anything so far lose this network, in both directions, for good: only another socket of
    /// theirs is on another one.
    pub(crate) fn leave_all(&self) {
        let mut state = lock(&self.state);
        let devices: Vec<_> = state
            .binding_by_device
            .drain()
            .map(|(device, _)| device)
            .collect();
        state.gone.extend(devices);
    }

    pub(crate) fn devices_lost(&self) -> usize {
        lock(&self.state).gone.len()
    }

    /// What becomes of devices that were not seen yet.
    pub(crate) fn treat_unknown(&self, unknown: Unknown) {
        lock(&self.state).unknown = unknown;
    }

    pub(crate) fn bindings_made(&self) -> usize {
        lock(&self.state).made
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

struct Relay {
    broker: SocketAddr,
    timeout: Duration,
    delay: Duration,
    inside: Arc<UdpSocket>,
    state: Arc<Mutex<State>>,
}

impl Relay {
    async fn outbound(self: Arc<Self>) {
        let mut buffer = vec![0; 65_536];
        let mut tasks = JoinSet::new();
        loop {
            let (length, device) = self.inside.recv_from(&mut buffer).await.unwrap();
            let datagram = buffer[..length].to_vec();
            let Some(upstream) = self.binding(device, &datagram, &mut tasks) else {
                continue;
            };
            let relay = Arc::clone(&self);
            tasks.spawn(async move {
                tokio::time::sleep(relay.delay).await;
                let _ = upstream.send_to(&datagram, relay.broker).await;
            });
            while tasks.try_join_next().is_some() {}
        }
    }

    /// The binding of a device, made if need be.
    fn binding(
        self: &Arc<Self>,
        device: SocketAddr,
        datagram: &[u8],
        tasks: &mut JoinSet<()>,
    ) -> Option<Arc<UdpSocket>> {
        let mut state = lock(&self.state);
        if state.gone.contains(&device) {
            return None;
        }
        if let Some(binding) = state.binding_by_device.get_mut(&device)
            && binding.used.elapsed() <= self.timeout
        {
            binding.used = Instant::now();
            return Some(Arc::clone(&binding.upstream));
        }
        let begins = datagram
            .first()
            .is_some_and(|first| first & LONG_HEADER != 0);
        match state.unknown {
            Unknown::Refuse if !begins => return None,
            Unknown::Lose => {
                state.gone.push(device);
                return None;
            }
            Unknown::Bind | Unknown::Refuse => {}
        }
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let upstream = Arc::new(UdpSocket::from_std(socket).unwrap());
        state.made += 1;
        let binding = Binding {
            upstream: Arc::clone(&upstream),
            used: Instant::now(),
        };
        state.binding_by_device.insert(device, binding);
        tasks.spawn(Arc::clone(self).inbound(device, Arc::clone(&upstream)));
        Some(upstream)
    }

    async fn inbound(self: Arc<Self>, device: SocketAddr, upstream: Arc<UdpSocket>) {
        let mut buffer = vec![0; 65_536];
        let mut tasks = JoinSet::new();
        loop {
            // Refused by a broker that is gone: nothing to relay.
            let Ok(length) = upstream.recv(&mut buffer).await else {
                continue;
            };
            {
                let mut state = lock(&self.state);
                match state.binding_by_device.get_mut(&device) {
                    Some(binding)
                        if Arc::ptr_eq(&binding.upstream, &upstream)
                            && binding.used.elapsed() <= self.timeout =>
                    {
                        binding.used = Instant::now();
                    }
                    // Forgotten: nothing comes in, and a later binding is another one.
                    _ => continue,
                }
            }
            let (relay, datagram) = (Arc::clone(&self), buffer[..length].to_vec());
            tasks.spawn(async move {
                tokio::time::sleep(relay.delay).await;
                let _ = relay.inside.send_to(&datagram, device).await;
            });
            while tasks.try_join_next().is_some() {}
        }
    }
}
