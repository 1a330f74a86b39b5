//! A device on s2n-quic: the second of the stacks that `tests/stacks.rs` connects to the broker.
//!
//! What it says and hears goes through `petrel-protocol`; everything below the stream is s2n-quic's. It registers,
//! subscribes, prints one JSON object a line for what happens, acks each message after printing it, and takes commands
//! from standard input, one a line: `ping`, `key-update`, `close`.

mod keys;
mod options;
mod quic;

use std::io::BufRead as _;

use anyhow::{Result, bail};
use petrel_protocol::MessageId;
use petrel_protocol::session::{DeviceEvent, DeviceSession, RequestId};
use petrel_protocol::wire::{Deliver, Goodbye, Register, Subscribe, to_broker};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::options::Options;
use crate::quic::{Quic, Reader, Writer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let (quic, reader, writer) = quic::connect(&options).await?;
    let session = DeviceSession::register(Register {
        project: options.project.clone(),
        app_key: options.app_key.clone(),
        secret: keys::random_bytes()?.to_vec().into(),
        ..Register::default()
    });
    let mut device = Device {
        session,
        writer,
        quic,
        subscriptions: Vec::new(),
        is_leaving: false,
    };
    for topic in options.topics {
        let asked = device.session.request(|request| {
            to_broker::Frame::Subscribe(Subscribe {
                request,
                topic: topic.clone(),
            })
        });
        device.subscriptions.push((asked, topic));
    }
    device.run(reader, commands()).await
}

/// The lines of standard input. The thread that reads them ends with the process.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

struct Device {
    session: DeviceSession,
    writer: Writer,
    quic: Quic,
    subscriptions: Vec<(RequestId, String)>,
    is_leaving: bool,
}

impl Device {
    async fn run(
        mut self,
        mut reader: Reader,
        mut commands: mpsc::UnboundedReceiver<String>,
    ) -> Result<()> {
        loop {
            while let Some(bytes) = self.session.poll_transmit() {
                self.writer.send(bytes).await?;
            }
            tokio::select! {
                received = reader.receive() => match received {
                    Ok(Some(bytes)) => {
                        self.session.handle_bytes(bytes);
                        while let Some(event) = self.session.poll_event() {
                            self.handle(event)?;
                        }
                    }
                    Ok(None) => bail!("the broker finished the stream"),
                    Err(error) => {
                        let (code, reason) = quic::close_of(&error);
                        say(&json!({ "event": "closed", "code": code, "reason": reason }));
                        if self.is_leaving && code == Some(0) {
                            return Ok(());
                        }
                        return Err(error.into());
                    }
                },
                Some(command) = commands.recv() => self.obey(&command).await?,
            }
        }
    }

    fn handle(&mut self, event: DeviceEvent) -> Result<()> {
        match event {
            DeviceEvent::Registered(token) => {
                say(&json!({ "event": "registered", "token": token.as_str() }));
            }
            DeviceEvent::Deliver(message) => {
                let id = message.id.map_or(MessageId::ZERO, Into::into);
                say(&line_of(id, &message));
                self.session.ack(id);
            }
            DeviceEvent::Result(asked, Ok(())) => {
                for (_, topic) in self.subscriptions.iter().filter(|(id, _)| *id == asked) {
                    say(&json!({ "event": "subscribed", "topic": topic }));
                }
            }
            DeviceEvent::Welcome(_) | DeviceEvent::Settled(_) => {}
            other => bail!("not expected: {other:?}"),
        }
        Ok(())
    }

    async fn obey(&mut self, command: &str) -> Result<()> {
        match command {
            "ping" => self.quic.ping().await?,
            "key-update" => self.quic.update_keys().await?,
            "close" => {
                self.is_leaving = true;
                self.session.say(to_broker::Frame::Goodbye(Goodbye {}));
            }
            other => bail!("no such command: {other}"),
        }
        say(&json!({ "event": "done", "command": command }));
        Ok(())
    }
}

fn line_of(id: MessageId, message: &Deliver) -> Value {
    json!({
        "event": "message",
        "id": id.to_string(),
        "topic": message.topic,
        "data": message.data,
    })
}

fn say(line: &Value) {
    println!("{line}");
}
