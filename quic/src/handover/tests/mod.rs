//! Two quinn-proto endpoints on our sessions, under virtual time.

mod agreement;
mod conditions;
mod finals;
mod pair;
mod session;
mod tls;
