//! A load generator: asks a server what a workload says, when it says so, and measures the answers. Knows protocols, and
//! nothing behind them.

mod answer;
mod drive;
mod figures;
mod grpc;
mod histogram;
mod openai;
mod progress;
mod server;
mod sse;
mod sweep;
mod usage;

pub use answer::{Answer, Failure, Outcome, Received};
pub use drive::{Limits, drive};
pub use figures::{Errors, Figures, Goodput, Requests, Slo, TenantFigures};
pub use histogram::Percentiles;
pub use progress::Progress;
pub use server::{About, Protocol, Server};
pub use sweep::{Bisection, Found};
pub use usage::{Meter, Usage, allow_many_connections};
