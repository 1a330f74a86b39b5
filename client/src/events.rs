//! The app's end of the channel.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;

use crate::driver::{Item, Shared};
use crate::event::Event;

/// What happens to a client, in order, ending with [`Event::Closed`]. A `Stream`, and iterable with
/// [`Events::next`] without one.
///
/// Dropping it closes the client as [`Client::close`](crate::Client::close) does.
#[derive(Debug)]
pub struct Events {
    channel: mpsc::Receiver<Item>,
    /// What the client's task still had when it ended.
    tail: Option<VecDeque<Item>>,
    shared: Arc<Shared>,
    ended: bool,
}

impl Events {
    pub(crate) fn new(channel: mpsc::Receiver<Item>, shared: Arc<Shared>) -> Self {
        Self {
            channel,
            tail: None,
            shared,
            ended: false,
        }
    }

    /// The next event; `None` after [`Event::Closed`].
    ///
    /// # Cancel safety
    /// Cancel safe: an event is taken only when the future is ready.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Once the app closed the client nothing can be marked done any more: what was not taken by then is not
        // handed over now but at the next start.
        if let Some(cause) = self.shared.closed_by_app() {
            self.ended = true;
            return Poll::Ready(Some(Event::Closed(cause)));
        }
        if self.tail.is_none() {
            match self.channel.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(item)) => return Poll::Ready(Some(self.shared.take(item))),
                Poll::Ready(None) => {}
            }
        }
        let tail = self.tail.get_or_insert_with(|| self.shared.take_tail());
        if let Some(item) = tail.pop_front() {
            return Poll::Ready(Some(self.shared.take(item)));
        }
        self.ended = true;
        Poll::Ready(Some(Event::Closed(self.shared.closed_cause())))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Nobody can take anything any more: another client may have the storage.
        self.shared.inbox.release();
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
    }
}
