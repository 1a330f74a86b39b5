//! A device: the session machine of the SDK on a plain connection, with nothing done behind the test's back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use petrel_protocol::session::{DeviceEvent, DeviceSession, RequestId, Welcomed};
use petrel_protocol::wire::{
    Deliver, Gap, Goodbye, Hello, Register, Subscribe, Unsubscribe, to_broker,
};
use petrel_protocol::{MessageId, wire};
use quinn::TransportConfig;

use super::wire::{Closed, Wire};
use super::{Broker, within};

pub(crate) const SECRET_BYTES: usize = petrel_protocol::limits::SECRET_BYTES;

/// A secret that no other device of this process has.
pub(crate) fn new_secret() -> Bytes {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut secret = vec![0x5e; SECRET_BYTES];
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    secret[..8].copy_from_slice(&number.to_be_bytes());
    secret.into()
}

/// A session of a registered device.
pub(crate) struct RawDevice {
    pub(crate) wire: Wire,
    pub(crate) session: DeviceSession,
    pub(crate) token: String,
    pub(crate) secret: Bytes,
    pub(crate) welcome: Welcomed,
    /// Came while the answer to a request was awaited.
    early: VecDeque<DeviceEvent>,
}

impl RawDevice {
    /// What a new device of the broker's demo project says first.
    pub(crate) fn registration(broker: &Broker) -> Register {
        Register {
            project: broker.ready.project.clone(),
            app_key: broker.ready.app_key.clone(),
            secret: new_secret(),
            ..Register::default()
        }
    }

    /// A new registration.
    pub(crate) async fn register(broker: &Broker) -> Self {
        Self::register_as(broker, Self::registration(broker)).await
    }

    /// A registration, maybe one that exists.
    pub(crate) async fn register_as(broker: &Broker, register: Register) -> Self {
        Self::register_over(Wire::open(broker).await, register).await
    }

    /// The same on a connection of one's own.
    pub(crate) async fn register_over(wire: Wire, register: Register) -> Self {
        let secret = register.secret.clone();
        let session = DeviceSession::register(register);
        Self::open(wire, session, secret, String::new()).await
    }

    /// A new session of this registration; the present one is left as it is.
    pub(crate) async fn again(&self, broker: &Broker) -> Self {
        Self::greet(broker, self.hello()).await
    }

    /// The `Hello` of this registration.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            token: self.token.clone(),
            secret: self.secret.clone(),
            ..Hello::default()
        }
    }

    /// A session of a registration that exists.
    pub(crate) async fn greet(broker: &Broker, hello: Hello) -> Self {
        Self::greet_over(Wire::open(broker).await, hello).await
    }

    /// The same on a connection of one's own.
    pub(crate) async fn greet_over(wire: Wire, hello: Hello) -> Self {
        let (token, secret) = (hello.token.clone(), hello.secret.clone());
        Self::open(wire, DeviceSession::hello(hello), secret, token).await
    }

    async fn open(wire: Wire, session: DeviceSession, secret: Bytes, token: String) -> Self {
        let welcome = Welcomed {
            server_time_ms: 0,
            keep_alive_seconds: 0,
            settled_up_to: MessageId::ZERO,
        };
        let mut device = Self {
            wire,
            session,
            token,
            secret,
            welcome,
            early: VecDeque::new(),
        };
        device.flush().await;
        loop {
            match device.event().await {
                DeviceEvent::Registered(token) => device.token = token.as_str().to_owned(),
                DeviceEvent::Welcome(welcome) => {
                    device.welcome = welcome;
                    return device;
                }
                other => panic!("instead of Welcome: {other:?}"),
            }
        }
    }

    /// Sends what the session has to say.
    pub(crate) async fn flush(&mut self) {
        while let Some(bytes) = self.session.poll_transmit() {
            self.wire.send(&bytes).await;
        }
    }

    /// What the broker does next, or how it closed.
    pub(crate) async fn next(&mut self) -> Result<DeviceEvent, Closed> {
        if let Some(event) = self.early.pop_front() {
            return Ok(event);
        }
        loop {
            match self.session.poll_event() {
                Some(DeviceEvent::Fault(code, text)) => {
                    panic!("the broker broke a rule: {code} {text}")
                }
                Some(event) => return Ok(event),
                None => {}
            }
            match self.wire.bytes().await {
                Some(bytes) => self.session.handle_bytes(bytes),
                None => return Err(self.wire.closed().await),
            }
        }
    }

    /// What the broker does next.
    pub(crate) async fn event(&mut self) -> DeviceEvent {
        match self.next().await {
            Ok(event) => event,
            Err(closed) => panic!("closed: {closed:?}"),
        }
    }

    /// The next message; a moved cursor before it is passed over.
    pub(crate) async fn message(&mut self) -> Deliver {
        loop {
            match self.event().await {
                DeviceEvent::Deliver(message) => return *message,
                DeviceEvent::Settled(_) => {}
                other => panic!("instead of a message: {other:?}"),
            }
        }
    }

    /// The next so many messages, as [`label`]s.
    pub(crate) async fn labels(&mut self, count: usize) -> Vec<String> {
        let mut labels = Vec::new();
        for _ in 0..count {
            labels.push(label(&self.message().await).to_owned());
        }
        labels
    }

    /// The next gap.
    pub(crate) async fn gap(&mut self) -> Gap {
        loop {
            match self.event().await {
                DeviceEvent::Gap(gap) => return gap,
                DeviceEvent::Settled(_) => {}
                other => panic!("instead of a gap: {other:?}"),
            }
        }
    }

    /// Acks, in one frame for each epoch.
    pub(crate) async fn ack(&mut self, ids: impl IntoIterator<Item = MessageId>) {
        for id in ids {
            self.session.ack(id);
        }
        self.flush().await;
    }

    /// Receives so many messages and acks each; their labels.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<String> {
        let mut labels = Vec::new();
        for _ in 0..count {
            let message = self.message().await;
            self.ack([id(&message)]).await;
            labels.push(label(&message).to_owned());
        }
        labels
    }

    /// Says something that is not answered.
    pub(crate) async fn say(&mut self, frame: to_broker::Frame) {
        self.session.say(frame);
        self.flush().await;
    }

    /// Asks for something and waits for the answer; what comes before it is kept for later.
    pub(crate) async fn request(
        &mut self,
        make: impl FnOnce(u32) -> to_broker::Frame,
    ) -> Result<(), (u32, String)> {
        let asked = self.session.request(make);
        self.flush().await;
        self.answer(asked).await
    }

    /// Waits for the answer to a request.
    pub(crate) async fn answer(&mut self, asked: RequestId) -> Result<(), (u32, String)> {
        let mut early = VecDeque::new();
        let result = loop {
            match self.event().await {
                DeviceEvent::Result(request, result) if request == asked => break result,
                other => early.push_back(other),
            }
        };
        early.append(&mut self.early);
        self.early = early;
        result
    }

    pub(crate) async fn subscribe(&mut self, topic: &str) -> Result<(), (u32, String)> {
        let topic = topic.to_owned();
        self.request(|request| to_broker::Frame::Subscribe(Subscribe { request, topic }))
            .await
    }

    pub(crate) async fn unsubscribe(&mut self, topic: &str) -> Result<(), (u32, String)> {
        let topic = topic.to_owned();
        self.request(|request| to_broker::Frame::Unsubscribe(Unsubscribe { request, topic }))
            .await
    }

    /// Shows that nothing has come: two requests go through broker and store and come back, and whatever was to be sent
    /// because of earlier publishes would have come before the second answer.
    #[track_caller]
    pub(crate) fn nothing_comes(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            for _ in 0..2 {
                self.round_trip().await;
            }
            let came: Vec<_> = self
                .early
                .iter()
                .filter(|event| !matches!(event, DeviceEvent::Settled(_)))
                .map(brief)
                .collect();
            assert!(came.is_empty(), "at {caller}: {came:?}");
        }
    }

    /// A request that changes nothing, answered once everything before it is durable.
    pub(crate) async fn round_trip(&mut self) {
        let done = self.unsubscribe("never-subscribed").await;
        assert_eq!(done, Ok(()));
    }

    /// Leaves on purpose; returns when the broker has closed, so the device is detached.
    pub(crate) async fn goodbye(mut self) {
        self.session.say(to_broker::Frame::Goodbye(Goodbye {}));
        self.flush().await;
        while self.wire.bytes().await.is_some() {}
        let closed = self.wire.closed().await;
        assert_eq!(closed, Closed::Application(0, "goodbye".to_owned()));
    }

    /// Reads until the broker closes; what it did until then.
    pub(crate) async fn end(&mut self) -> (Vec<DeviceEvent>, Closed) {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Ok(event) => events.push(event),
                Err(closed) => return (events, closed),
            }
        }
    }
}

/// An event without the payload of messages.
fn brief(event: &DeviceEvent) -> String {
    match event {
        DeviceEvent::Deliver(message) => format!("message {} {:?}", id(message), label(message)),
        other => format!("{other:?}"),
    }
}

/// The id of a message.
pub(crate) fn id(message: &Deliver) -> MessageId {
    message.id.unwrap().into()
}

/// What the tests tell messages apart by: the value of the data key `n`.
pub(crate) fn label(message: &Deliver) -> &str {
    message.data.get("n").map_or("", String::as_str)
}
