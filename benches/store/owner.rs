//! The one thread that owns the store and commits in groups, as the broker's committer does: a group is whatever waits
//! when the last commit is done, at most [`GROUP_MAX`] operations. Scans are answered in the order of operations, before
//! the commit of their group; enqueues after it.

use std::sync::mpsc as answer;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use petrel::store::Store;
use petrel_core::Message;
use petrel_protocol::{MessageId, Ordinal};
use tokio::sync::mpsc;

use crate::report::Latencies;
use crate::workload::GROUP_MAX;
use crate::{calls, proc};

/// Operations that may wait; further ones make their sender wait. As in the broker.
const WAITING_MAX: usize = 8192;

/// What the owner is asked to do. Instants are of the moment at which it was to be asked.
pub(crate) enum Operation {
    Enqueue(Box<Message>, Ordinal, Instant),
    Attach(Ordinal, Instant),
    Settle(Ordinal, Vec<MessageId>),
}

/// What it says.
pub(crate) enum Answer {
    /// So many enqueues are durable.
    Queued(usize),
    /// A device found these in its queue.
    Found(Ordinal, Vec<MessageId>),
}

/// What it measured while it ran.
pub(crate) struct Measured {
    pub(crate) store: Box<dyn Store>,
    /// From the intended publish until it was durable.
    pub(crate) enqueues: Latencies,
    /// From the intended attach until its scan was answered.
    pub(crate) attaches: Latencies,
    /// Of a commit.
    pub(crate) commits: Latencies,
    /// Settled messages.
    pub(crate) settled: u64,
    /// Found messages.
    pub(crate) found: u64,
    /// CPU of the thread.
    pub(crate) cpu: Duration,
}

/// A running owner. Ends when `operations` is dropped.
pub(crate) struct Owner {
    operations: mpsc::Sender<Operation>,
    /// Never more than one answer for each operation that its driver has sent and not seen answered.
    answers: answer::Receiver<Answer>,
    thread: JoinHandle<Result<Measured>>,
}

impl Owner {
    pub(crate) fn start(store: Box<dyn Store>) -> Result<Self> {
        let (operations, waiting) = mpsc::channel(WAITING_MAX);
        let (say, answers) = answer::channel();
        let thread = std::thread::Builder::new()
            .name("petrel-store".into())
            .spawn(move || run(store, waiting, &say))?;
        Ok(Self {
            operations,
            answers,
            thread,
        })
    }

    /// Waits while too many operations do.
    pub(crate) fn send(&self, operation: Operation) -> Result<()> {
        let sent = self.operations.blocking_send(operation);
        sent.map_err(|_| anyhow!("the owner of the store has ended"))
    }

    /// Waits for an answer.
    pub(crate) fn answer(&self) -> Result<Answer> {
        self.answers
            .recv()
            .context("the owner of the store has ended")
    }

    /// An answer that is there.
    pub(crate) fn answer_now(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }

    /// Waits until all operations are done. Its own error explains why it ended early.
    pub(crate) fn end(self) -> Result<Measured> {
        drop(self.operations);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("the owner of the store panicked"))?
    }
}

fn run(
    store: Box<dyn Store>,
    mut waiting: mpsc::Receiver<Operation>,
    say: &answer::Sender<Answer>,
) -> Result<Measured> {
    let cpu = proc::thread_cpu();
    let mut measured = Measured {
        store,
        enqueues: Latencies::new(),
        attaches: Latencies::new(),
        commits: Latencies::new(),
        settled: 0,
        found: 0,
        cpu,
    };
    let mut group = Vec::with_capacity(GROUP_MAX);
    let mut staged = Vec::with_capacity(GROUP_MAX);
    while waiting.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        for operation in group.drain(..) {
            measured.perform(operation, &mut staged, say)?;
        }
        let started = Instant::now();
        measured.store.commit()?;
        measured.commits.record(started.elapsed());
        if staged.is_empty() {
            continue;
        }
        let now = Instant::now();
        for at in &staged {
            let took = now.saturating_duration_since(*at);
            measured.enqueues.record(took);
        }
        // A driver that has enough does not listen any more.
        let _ = say.send(Answer::Queued(staged.len()));
        staged.clear();
    }
    measured.cpu = proc::thread_cpu().saturating_sub(cpu);
    Ok(measured)
}

impl Measured {
    fn perform(
        &mut self,
        operation: Operation,
        staged: &mut Vec<Instant>,
        say: &answer::Sender<Answer>,
    ) -> Result<()> {
        let store = &mut *self.store;
        match operation {
            Operation::Enqueue(message, device, at) => {
                calls::enqueue(store, device, &message)?;
                staged.push(at);
            }
            Operation::Attach(device, at) => {
                let scan = calls::scan(store, device, calls::now())?;
                self.attaches.record(at.elapsed());
                let ids: Vec<_> = scan.found.iter().map(|found| found.id()).collect();
                self.found += ids.len() as u64;
                let _ = say.send(Answer::Found(device, ids));
            }
            Operation::Settle(device, ids) => {
                calls::settle(store, device, &ids)?;
                self.settled += ids.len() as u64;
            }
        }
        Ok(())
    }
}
