//! The states of a session and every transition between them, for both ends, in one place.
//!
//! A pair that the tables do not name is a violation of the protocol (PROTO-11) when the peer caused it, and a no-op
//! when this end did. The snapshot test prints every pair.

/// Where the broker's end of a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BrokerState {
    /// Connected; the device has the first word.
    AwaitOpening,
    /// `Hello` or `Register` is being looked at. Frames that follow it wait.
    Admitting,
    /// Open both ways.
    Attached,
    /// An `Error` or `Reconnect` was sent, or the device said goodbye. What arrives is not looked at, acks excepted.
    Closing,
}

/// What happens to the broker's end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BrokerInput {
    /// `Hello` or `Register`.
    Opening,
    /// Any other frame but `Ack` and `Goodbye`.
    Request,
    /// `Ack`.
    Ack,
    /// `Goodbye`.
    Goodbye,
    /// The broker lets the device in.
    Admit,
    /// The broker ends the session: error, reconnect, goodbye answered.
    End,
}

impl BrokerState {
    /// Every state.
    pub const ALL: [Self; 4] = [
        Self::AwaitOpening,
        Self::Admitting,
        Self::Attached,
        Self::Closing,
    ];

    /// The state after `input`; `None` where the pair is not allowed.
    #[must_use]
    pub const fn after(self, input: BrokerInput) -> Option<Self> {
        use BrokerInput as I;
        match (self, input) {
            (Self::AwaitOpening, I::Opening) => Some(Self::Admitting),
            (Self::Admitting, I::Admit) => Some(Self::Attached),
            (Self::Attached, I::Request | I::Ack) => Some(Self::Attached),
            (Self::AwaitOpening | Self::Attached, I::Goodbye) => Some(Self::Closing),
            (Self::AwaitOpening | Self::Admitting | Self::Attached, I::End) => Some(Self::Closing),
            // An ack counts until the connection is gone (PROTO-24).
            (Self::Closing, I::Ack | I::Request | I::Goodbye | I::End) => Some(Self::Closing),
            _ => None,
        }
    }
}

impl BrokerInput {
    /// Every input.
    pub const ALL: [Self; 6] = [
        Self::Opening,
        Self::Request,
        Self::Ack,
        Self::Goodbye,
        Self::Admit,
        Self::End,
    ];
}

/// Where the device's end of a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceState {
    /// `Register` was sent; `Registered` must come first.
    Registering,
    /// `Hello` was sent or `Registered` came; `Welcome` must come first.
    Greeting,
    /// Open both ways.
    Attached,
    /// The session has ended.
    Closed,
}

/// What happens to the device's end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceInput {
    /// `Registered`.
    Registered,
    /// `Welcome`.
    Welcome,
    /// `Deliver`, `Settled`, `Gap`, `Recall`, `Result` or `Settings`.
    Traffic,
    /// `Reconnect`.
    Reconnect,
    /// `Error`, or the device says goodbye.
    End,
}

impl DeviceState {
    /// Every state.
    pub const ALL: [Self; 4] = [
        Self::Registering,
        Self::Greeting,
        Self::Attached,
        Self::Closed,
    ];

    /// The state after `input`; `None` where the pair is not allowed.
    #[must_use]
    pub const fn after(self, input: DeviceInput) -> Option<Self> {
        use DeviceInput as I;
        match (self, input) {
            (Self::Registering, I::Registered) => Some(Self::Greeting),
            (Self::Greeting, I::Welcome) => Some(Self::Attached),
            (Self::Attached, I::Traffic) => Some(Self::Attached),
            (Self::Registering | Self::Greeting | Self::Attached, I::Reconnect | I::End) => {
                Some(Self::Closed)
            }
            (Self::Closed, I::End) => Some(Self::Closed),
            _ => None,
        }
    }
}

impl DeviceInput {
    /// Every input.
    pub const ALL: [Self; 5] = [
        Self::Registered,
        Self::Welcome,
        Self::Traffic,
        Self::Reconnect,
        Self::End,
    ];
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// PROTO-11: every pair of state and input, as committed in `states.txt`.
    #[test]
    fn every_pair_is_as_in_the_snapshot() {
        let mut table = String::new();
        for state in BrokerState::ALL {
            for input in BrokerInput::ALL {
                writeln!(
                    table,
                    "broker {state:?} + {input:?} = {:?}",
                    state.after(input)
                )
                .unwrap();
            }
        }
        for state in DeviceState::ALL {
            for input in DeviceInput::ALL {
                writeln!(
                    table,
                    "device {state:?} + {input:?} = {:?}",
                    state.after(input)
                )
                .unwrap();
            }
        }
        assert_eq!(table, include_str!("states.txt"), "\n{table}");
    }
}
