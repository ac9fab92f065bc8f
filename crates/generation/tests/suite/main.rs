//! The generator over a real engine and a fake executor: its answers are compared with what the fake model says alone.

mod answers;
mod life;
mod support;
mod transcript;
mod validation;
