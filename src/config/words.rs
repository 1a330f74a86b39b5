//! Keys that hold one of a few words, as types.

/// An enum whose variants are the words of a key.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $( $(#[$variant_doc:meta])* $variant:ident = $word:literal, )* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $( $(#[$variant_doc])* $variant, )* }

        impl $name {
            /// The words, as the configuration writes them.
            pub const WORDS: &'static [&'static str] = &[$( $word ),*];

            /// The word of this variant.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }

            /// The variant of a word.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $( $word => Some(Self::$variant), )* _ => None }
            }
        }
    };
}

words! {
    /// What keeps messages, registrations and topics.
    StoreEngine {
        /// On disk, in the data directory.
        Sled = "sled",
        /// On disk, too; only in a build with the feature of the same name.
        Fjall = "fjall",
        /// In memory; gone with the process. For tests and development.
        Memory = "memory",
    }
}

words! {
    /// What serves a connection once it is established.
    QuicEngine {
        /// The broker's own engine, some 450 B for a connection that rests; quinn-proto where it does not rest.
        Resident = "resident",
        /// quinn-proto for the whole life of a connection, some 12 KB each. For comparisons.
        Proto = "proto",
    }
}

words! {
    /// What happens to a message for a device whose queue is full.
    QueuePolicy {
        /// The least urgent queued message makes room, the one nearest its deadline first.
        Evict = "evict",
        /// The new message is refused.
        Refuse = "refuse",
    }
}

words! {
    /// What a message that was answered 200 survives.
    Durability {
        /// A loss of power.
        Durable = "durable",
        /// The end of the process, `kill -9` included.
        Process = "process",
        /// Neither: publishers are answered from memory.
        Fast = "fast",
    }
}

words! {
    /// What is kept of what became of messages.
    HistoryLevel {
        /// Every event.
        Full = "full",
        /// Nothing new.
        Off = "off",
    }
}

words! {
    /// How log lines are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// A JSON object a line.
        Json = "json",
    }
}

words! {
    /// Which events are logged.
    LogLevel {
        /// What broke.
        Error = "error",
        /// And what someone should look at.
        Warn = "warn",
        /// And what an operator wants to follow.
        Info = "info",
        /// And what helps to find a fault.
        Debug = "debug",
        /// And every message.
        Trace = "trace",
    }
}
