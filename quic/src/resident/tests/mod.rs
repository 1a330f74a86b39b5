//! Two residents against each other, under virtual time.

mod exchange;
mod hostile;
mod pair;
mod rfc;
