//! A NAT between a device and a broker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Longer than any datagram.
const BUFFER_BYTES: usize = 65_536;

/// Gives each address of the inside a port of its own on the outside, for as long as it remembers.
pub(crate) struct Nat {
    /// What the inside takes for the broker.
    pub(crate) address: SocketAddr,
    mappings: Mappings,
    task: JoinHandle<()>,
}

type Mappings = Arc<Mutex<HashMap<SocketAddr, Mapping>>>;

/// An address of the inside as the broker sees it. Forgotten when dropped, and the port with it.
struct Mapping {
    outside: Arc<UdpSocket>,
    way_back: JoinHandle<()>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.way_back.abort();
    }
}

impl Nat {
    pub(crate) async fn start(broker: SocketAddr) -> Self {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let mappings = Mappings::default();
        Self {
            address: inside.local_addr().unwrap(),
            mappings: Arc::clone(&mappings),
            task: tokio::spawn(way_out(inside, broker, mappings)),
        }
    }

    /// Forgets everybody: who speaks next does so from another port, and what comes to the old one is lost.
    pub(crate) fn forget(&self) {
        self.mappings.lock().unwrap().clear();
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.task.abort();
        self.forget();
    }
}

async fn way_out(inside: Arc<UdpSocket>, broker: SocketAddr, mappings: Mappings) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (length, device) = inside.recv_from(&mut buffer).await.unwrap();
        let known = mappings.lock().unwrap().get(&device).map(Mapping::outside);
        let outside = match known {
            Some(outside) => outside,
            None => {
                let mapping = Mapping::open(Arc::clone(&inside), device, broker).await;
                let outside = mapping.outside();
                mappings.lock().unwrap().insert(device, mapping);
                outside
            }
        };
        // Refused once the broker has ended: lost, as on any network.
        let _ = outside.send(&buffer[..length]).await;
    }
}

impl Mapping {
    async fn open(inside: Arc<UdpSocket>, device: SocketAddr, broker: SocketAddr) -> Self {
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        outside.connect(broker).await.unwrap();
        let way_back = tokio::spawn(way_back(Arc::clone(&outside), inside, device));
        Self { outside, way_back }
    }

    fn outside(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.outside)
    }
}

async fn way_back(outside: Arc<UdpSocket>, inside: Arc<UdpSocket>, device: SocketAddr) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if let Ok(length) = outside.recv(&mut buffer).await {
            let _ = inside.send_to(&buffer[..length], device).await;
        }
    }
}
