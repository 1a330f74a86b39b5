//! Petrel.
