//! `petrel listen`: be a device, on the SDK that apps use. Prints what arrives.
//!
//! A message is done once its line is flushed to stdout: a listener that is killed, or whose reader is gone, loses
//! nothing and gets the rest at its next start.

mod line;
mod screen;
mod target;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use petrel_client::{Client, Event, Events, RequestError};
use petrel_protocol::TopicName;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::line::Line;
use self::screen::Screen;
use self::target::{Publishing, TargetArgs};
use super::Failure;

/// Exit code when the time is up.
const TIMED_OUT: u8 = 2;

/// Short, because a desk has no battery to save: a broker that was killed and restarted is noticed after this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long a write to a reader that does not read may hold up the end.
const LAST_WRITE: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Subscribe to this topic; may be given many times. Subscriptions last until the registration ends.
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// End after so many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End with exit code 2 after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| *duration < Duration::from_secs(1 << 32))
        .ok_or_else(|| "write it as seconds, such as 10 or 0.5".to_owned())
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    for topic in &args.topic {
        TopicName::parse(topic)
            .map_err(|error| Failure::new(format!("--topic {topic:?}: {error}")))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("petrel-listen")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(listen(args));
    // Not awaited: a write to a reader that does not read would hold up the end for ever.
    runtime.shutdown_timeout(LAST_WRITE);
    outcome
}

async fn listen(args: Args) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let device = args.target.resolve()?;
    let output = Output::new(args.json, device.publishing, device.place);
    let (client, events) = device.builder.keep_alive(KEEP_ALIVE).start()?;
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut session = Session {
        client: client.clone(),
        events,
        topics: args.topic,
        subscribed: None,
        output,
        left: args.count,
        received: 0,
    };
    let end = tokio::select! {
        biased;
        () = signals.any() => Ok(()),
        end = session.run() => end,
        () = reached(deadline) => Err(Failure::with_code(TIMED_OUT, session.late(args.count))),
    };
    // Flushes acks and says Goodbye.
    client.close().await;
    end
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// SIGTERM and Ctrl-C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What the subscribing task found out.
type Subscribed = Result<String, Failure>;

/// One run of the device.
struct Session {
    client: Client,
    events: Events,
    topics: Vec<String>,
    /// Once a session is open and topics are asked for.
    subscribed: Option<mpsc::Receiver<Subscribed>>,
    output: Output,
    /// Messages still to come before the end.
    left: Option<u64>,
    received: u64,
}

impl Session {
    /// Runs until the count is reached, the broker ends it, or the output fails.
    async fn run(&mut self) -> Result<(), Failure> {
        loop {
            let subscribed = async {
                match &mut self.subscribed {
                    Some(receiver) => receiver.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.events.next() => {
                    let Some(event) = event else { return Ok(()) };
                    if self.handle_event(event).await? {
                        return Ok(());
                    }
                }
                outcome = subscribed => match outcome {
                    Some(outcome) => self.output.subscribed(&outcome?).await?,
                    None => self.subscribed = None,
                },
            }
        }
    }

    /// Prints an event. `true`: that was the last one wanted.
    async fn handle_event(&mut self, event: Event) -> Result<bool, Failure> {
        self.output.event(&event).await?;
        match event {
            Event::Registered { .. } if !self.topics.is_empty() => {
                let topics = std::mem::take(&mut self.topics);
                self.subscribed = Some(subscribe(self.client.clone(), topics));
            }
            Event::Message(delivery) => {
                delivery.done();
                self.received += 1;
                self.left = self.left.map(|left| left.saturating_sub(1));
                return Ok(self.left == Some(0));
            }
            Event::Closed(cause) => return Err(Failure::new(cause)),
            _ => {}
        }
        Ok(false)
    }

    fn late(&self, count: Option<u64>) -> String {
        let received = self.received;
        match count {
            Some(count) => format!("the time is up: {received} of {count} messages came"),
            None => format!("the time is up: {received} messages came"),
        }
    }
}

/// Asks for topics one after the other, in a task of its own: answers come only while events are being read.
fn subscribe(client: Client, topics: Vec<String>) -> mpsc::Receiver<Subscribed> {
    let (sender, receiver) = mpsc::channel(1);
    // Ends with the list, or when the receiver is gone, or with the client.
    drop(tokio::spawn(async move {
        for topic in topics {
            let outcome = loop {
                match client.subscribe(&topic).await {
                    Ok(()) => break Ok(topic),
                    // Not connected for a while: the wish stays.
                    Err(RequestError::Timeout { .. }) if !sender.is_closed() => {}
                    Err(error) => {
                        break Err(Failure::new(format!(
                            "cannot subscribe to {topic}: {error}"
                        )));
                    }
                }
            };
            if sender.send(outcome).await.is_err() {
                return;
            }
        }
    }));
    receiver
}

/// Writes events to stdout in the form asked for.
struct Output {
    screen: Screen,
    json: bool,
    publishing: Option<Publishing>,
    place: String,
    /// A session was open before.
    was_open: bool,
}

impl Output {
    fn new(json: bool, publishing: Option<Publishing>, place: String) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            screen: Screen {
                is_terminal,
                has_colour: is_terminal && !plain,
            },
            json,
            publishing,
            place,
            was_open: false,
        }
    }

    async fn subscribed(&self, topic: &str) -> Result<(), Failure> {
        let text = if self.json {
            Line::Subscribed { topic }.to_text()?
        } else {
            self.screen.subscribed(topic)
        };
        print(text).await
    }

    async fn event(&mut self, event: &Event) -> Result<(), Failure> {
        if self.json {
            return match (Line::of(event), event) {
                (Some(line), _) => print(line.to_text()?).await,
                // Not among the kinds of lines; but a device that hears nothing must say what to check.
                (None, Event::Disconnected { cause, retry_in }) => {
                    complain(&self.screen.disconnected(&cause.to_string(), *retry_in));
                    Ok(())
                }
                (None, _) => Ok(()),
            };
        }
        let text = match event {
            Event::Registered {
                resumed: true,
                previous: None,
                ..
            } if self.was_open => self.screen.back(),
            Event::Registered { token, .. } if self.screen.is_terminal => {
                let mut text = self.screen.event(event, now_ms());
                if !self.was_open {
                    text = format!("a device of {}\n{text}", self.place);
                }
                text + &self
                    .screen
                    .invitation(token.as_str(), self.publishing.as_ref())
            }
            // The reason goes to stderr, as that of every failure.
            Event::Closed(_) => return Ok(()),
            _ => self.screen.event(event, now_ms()),
        };
        self.was_open |= matches!(event, Event::Registered { .. });
        print(text).await
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes and flushes, on a thread that may block: the reader may be slow, and a signal must still end us.
async fn print(text: String) -> Result<(), Failure> {
    let write = tokio::task::spawn_blocking(move || {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    });
    match write.await.map_err(io::Error::other).flatten() {
        Ok(()) => Ok(()),
        // The reader has what it wanted, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent(1)),
        Err(error) => Err(Failure::new(format!("cannot write to stdout: {error}"))),
    }
}

/// To stderr, where the program that reads our lines does not look. Nobody there: nothing is lost.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
