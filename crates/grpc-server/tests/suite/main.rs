//! The server over loopback, before a real engine and a fake executor.

mod errors;
mod life;
mod served;
#[path = "../../../generation/tests/suite/support.rs"]
mod support;
mod wire;
