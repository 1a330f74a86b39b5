//! What the SDK tells its app.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use petrel_protocol::{DeviceToken, MessageId, wire};
use serde::{Deserialize, Serialize};

use crate::error::Cause;
use crate::inbox::Inbox;
use crate::message::{Message, id_text};

/// Something that the app should know, in the order in which it happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A session is open. Comes once for each connection that was let in.
    Registered {
        /// The device's address: the app hands it to its server.
        token: DeviceToken,
        /// Whether an earlier registration goes on; `false`: it was made just now.
        resumed: bool,
        /// The token that died, where this registration took the place of one that the broker no longer knows. It is
        /// told until the app took an event with it, over restarts too.
        previous: Option<DeviceToken>,
    },
    /// A message.
    Message(Delivery),
    /// Messages that this device will never get, although their publisher still wanted them delivered. Kept in the
    /// storage until the app takes this event.
    Gap {
        /// The topic whose messages are missing; `None`: messages to this device alone.
        topic: Option<String>,
        /// How many.
        count: u64,
        /// How many for each reason: `evicted`, `trimmed`, `unreadable`.
        reasons: BTreeMap<String, u64>,
    },
    /// A message is withdrawn: what was shown of it should vanish. Told once, not kept.
    Recall {
        /// Which one.
        id: MessageId,
    },
    /// The connection is gone or could not be made. The SDK comes back by itself.
    Disconnected {
        /// Why.
        cause: Cause,
        /// When the next attempt begins.
        retry_in: Duration,
    },
    /// The client has ended and does not come back by itself. The last event.
    Closed(Cause),
}

/// A message in the app's hands. Reads like its [`Message`].
///
/// It stays in the client's storage until [`Delivery::done`]; dropping it without that hands it over again at the
/// next start.
pub struct Delivery {
    message: Message,
    redelivered: bool,
    inbox: Arc<Inbox>,
}

impl Delivery {
    pub(crate) fn new(message: Message, redelivered: bool, inbox: Arc<Inbox>) -> Self {
        Self {
            message,
            redelivered,
            inbox,
        }
    }

    /// Whether an earlier process may have handed it to the app: it lay in the storage, received and not done, when
    /// this client started. Never set for anything else: within one process a message is handed over once.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// The app is finished with this message: the SDK forgets it and never hands it over again.
    ///
    /// May be called from any thread, any number of times; repeats do nothing. It writes one short line unless the
    /// SDK is writing at that moment, who then does it. With [`FileStorage`](crate::FileStorage) what is written
    /// survives the end of the process at once, and a power cut from the next message on. After
    /// [`Client::close`](crate::Client::close) it does nothing: the message comes again at the next start.
    pub fn done(&self) {
        self.inbox.done(self.message.id);
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The message, taken out. Call [`Delivery::done`] before, where it is done.
    #[must_use]
    pub fn into_message(self) -> Message {
        self.message
    }
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

/// A gap as the inbox keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Gap {
    #[serde(with = "id_text")]
    pub(crate) id: MessageId,
    pub(crate) topic: Option<String>,
    pub(crate) count: u64,
    pub(crate) reasons: BTreeMap<String, u64>,
}

impl Gap {
    /// Parses a frame; `None` if it has no id and so could never be acked.
    pub(crate) fn from_wire(frame: wire::Gap) -> Option<Self> {
        Some(Self {
            id: frame.id?.into(),
            topic: (!frame.topic.is_empty()).then_some(frame.topic),
            count: frame.count,
            reasons: frame.reasons,
        })
    }
}
