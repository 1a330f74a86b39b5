//! Bounds of the device protocol. Each is stated in `docs/protocol.md` and has a test at the limit and one past it.

/// Longest frame from a device, in bytes without the length prefix (PROTO-6).
pub const TO_BROKER_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Longest frame to a device, in bytes without the length prefix (PROTO-6). A payload is at most 4,096 bytes; what
/// surrounds it (topic, condition, collapse key, map overhead) stays far below this.
pub const TO_DEVICE_FRAME_BYTES_MAX: usize = 64 * 1024;

/// Frame kinds below this field number are ignored when unknown, from it on they end the session (PROTO-9).
pub const IGNORABLE_FRAME_KIND_END: u32 = 64;

/// Most sequence numbers in one `Ack` (PROTO-23).
pub const ACK_SEQUENCES_MAX: usize = 256;

/// Longest topic name, in bytes.
pub const TOPIC_BYTES_MAX: usize = 900;

/// Longest collapse key, in bytes.
pub const COLLAPSE_KEY_BYTES_MAX: usize = 64;

/// Longest category, in bytes.
pub const CATEGORY_BYTES_MAX: usize = 64;

/// Length of a device secret, in bytes (PROTO-14).
pub const SECRET_BYTES: usize = 32;

/// Most free attributes of a registration (PROTO-17).
pub const ATTRIBUTES_MAX: usize = 32;

/// Longest name of a free attribute, in bytes.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 64;

/// Longest value of a free attribute and longest user name, in bytes.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 256;

/// Longest SDK name, app version, time zone or action, in bytes.
pub const SHORT_TEXT_BYTES_MAX: usize = 64;

/// Longest locale tag, in bytes (RFC 5646 section 4.4.1 recommends room for 35).
pub const LOCALE_BYTES_MAX: usize = 35;

/// Most muted categories of a device.
pub const MUTED_CATEGORIES_MAX: usize = 64;

/// Payload of a message: UTF-8 bytes of data keys and values and notification strings, as FCM counts them.
pub const PAYLOAD_BYTES_MAX: usize = 4096;
