//! The operations that a test may do. Knows no state.

use kv_paging::{Retention, TokenId};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Opens a sequence that holds what is matched of this prompt.
    Admit { tenant: u8, prompt: Vec<TokenId> },
    /// The same, and copies back what follows in the host tier.
    Fetch { tenant: u8, prompt: Vec<TokenId> },
    /// Plans to copy so many blocks to the host tier.
    Offload { max_blocks: usize },
    /// Opens a sequence with this prompt, makes room for all of it, and promises it.
    Start { tenant: u8, prompt: Vec<TokenId> },
    /// Appends tokens to a sequence and makes room for them.
    Extend { sequence: usize, tokens: Vec<TokenId> },
    /// Promises a sequence's full blocks for the step that is being planned.
    Promise { sequence: usize },
    /// Goes on to plan the next step.
    Launch,
    /// Retires the oldest step.
    Retire(bool),
    /// Cuts tokens off a sequence, as many as may be cut up to the given number.
    Truncate { sequence: usize, num_cut: usize, after: bool },
    /// Forks a sequence, this many tokens short of its end.
    Fork { sequence: usize, num_cut: usize },
    /// Releases a sequence, at once or after the step that is being planned.
    Release { sequence: usize, after: bool },
    /// Says how long a sequence is to be kept after its release.
    Retain { sequence: usize, retention: Retention },
    /// Moves time on.
    Advance { by: u64 },
    /// Pins what is published of these tokens.
    Pin { tenant: u8, tokens: Vec<TokenId> },
    /// Gives the oldest pin back.
    Unpin,
    /// Forgets what a sequence holds and all that continues it.
    Forget { sequence: usize },
    /// Forgets all prefixes.
    Clear,
}

impl Op {
    /// The sequence that it is about, if it is about one that exists.
    pub(crate) fn sequence(&self) -> Option<usize> {
        match self {
            Self::Extend { sequence, .. }
            | Self::Promise { sequence }
            | Self::Truncate { sequence, .. }
            | Self::Fork { sequence, .. }
            | Self::Release { sequence, .. }
            | Self::Retain { sequence, .. }
            | Self::Forget { sequence } => Some(*sequence),
            Self::Admit { .. }
            | Self::Fetch { .. }
            | Self::Offload { .. }
            | Self::Start { .. }
            | Self::Launch
            | Self::Retire(_)
            | Self::Advance { .. }
            | Self::Pin { .. }
            | Self::Unpin
            | Self::Clear => None,
        }
    }
}
