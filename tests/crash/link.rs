//! A connection of a wire-level device: the session machine of the SDK on a stream, where every failure is the end of the
//! session and nothing worse.

use petrel_protocol::session::{DeviceEvent, DeviceSession, RequestId};
use petrel_protocol::wire::{Goodbye, Unsubscribe, to_broker};
use quinn::{Connection, Endpoint, RecvStream, SendStream};

use crate::common::SERVER_NAME;
use crate::world::Life;

/// The connection is gone.
pub(crate) struct Gone;

/// One connection with its session.
pub(crate) struct Link {
    pub(crate) session: DeviceSession,
    _connection: Connection,
    send: SendStream,
    recv: RecvStream,
}

impl Link {
    pub(crate) async fn open(
        endpoint: &Endpoint,
        life: &Life,
        session: DeviceSession,
    ) -> Result<Self, Gone> {
        let connecting = endpoint.connect(life.quic, SERVER_NAME).unwrap();
        let connection = connecting.await.map_err(|_| Gone)?;
        let (send, recv) = connection.open_bi().await.map_err(|_| Gone)?;
        let mut link = Self {
            session,
            _connection: connection,
            send,
            recv,
        };
        link.flush().await?;
        Ok(link)
    }

    /// Sends what the session has to say.
    pub(crate) async fn flush(&mut self) -> Result<(), Gone> {
        while let Some(bytes) = self.session.poll_transmit() {
            self.send.write_all(&bytes).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// What the broker does next. Cancelled, it loses nothing.
    pub(crate) async fn event(&mut self) -> Result<DeviceEvent, Gone> {
        loop {
            match self.session.poll_event() {
                Some(DeviceEvent::Fault(code, text)) => {
                    panic!("the broker broke a rule: {code} {text}")
                }
                Some(event) => return Ok(event),
                None => {}
            }
            match self.recv.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => self.session.handle_bytes(chunk.bytes),
                Ok(None) | Err(_) => return Err(Gone),
            }
        }
    }

    pub(crate) async fn request(
        &mut self,
        make: impl FnOnce(u32) -> to_broker::Frame,
    ) -> Result<RequestId, Gone> {
        let asked = self.session.request(make);
        self.flush().await?;
        Ok(asked)
    }

    /// A request that changes nothing, answered once everything before it is durable.
    pub(crate) async fn round_trip(&mut self) -> Result<RequestId, Gone> {
        let topic = "never-subscribed".to_owned();
        self.request(|request| to_broker::Frame::Unsubscribe(Unsubscribe { request, topic }))
            .await
    }

    /// Leaves on purpose, and waits until the broker has closed; whether it closed as asked.
    pub(crate) async fn goodbye(mut self) -> Result<(), Gone> {
        self.session.say(to_broker::Frame::Goodbye(Goodbye {}));
        self.flush().await?;
        loop {
            match self.recv.read_chunk(usize::MAX, true).await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(Gone),
                Err(quinn::ReadError::ConnectionLost(
                    quinn::ConnectionError::ApplicationClosed(close),
                )) if close.error_code == 0_u32.into() => return Ok(()),
                Err(_) => return Err(Gone),
            }
        }
    }
}
