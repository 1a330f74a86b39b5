//! The session machine of both ends: bytes in, events out; intentions in, frames out.
//!
//! [`BrokerSession`] parses what a device sends into typed events and enforces the order of frames;
//! [`DeviceSession`] is its counterpart in the SDK. Neither keeps a queue of deliveries, decides what is owed or
//! knows a clock: the broker's rules live in `petrel-core`, the SDK's in `petrel-client`.

mod broker;
mod device;
mod parse;
pub mod states;

pub use broker::{BrokerEvent, BrokerSession, WelcomeTerms};
pub use device::{DeviceEvent, DeviceSession, RequestId, Welcomed};
pub use parse::{
    Attributes, Hello, InvalidField, Opening, Register, Request, RequestBody, StateChange,
};
