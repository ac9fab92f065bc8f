//! Workloads as data: `benches/workloads/*.toml`, or a file of one's own. Says what is asked of a server and when; knows no
//! server and no protocol.

mod arrivals;
mod lengths;
mod named;
mod plan;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

pub use arrivals::{Arrivals, MAX_CONCURRENCY};
pub use lengths::{Lengths, MAX_LENGTH_TOKENS};
pub use named::NAMED;
pub use plan::{Conversation, Plan, TokenSource, Turn};

/// Most requests of a workload.
pub const MAX_REQUESTS: u32 = 1 << 20;

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Whom it stands for, in a sentence.
    pub stands_for: String,
    /// Draws everything that is drawn.
    pub seed: u64,
    /// Requests in all.
    pub num_requests: u32,
    /// Nothing begins later than so many seconds after the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// When requests come.
    pub arrivals: Arrivals,
    /// Each prompt's own tokens, behind what it shares with others.
    pub prompt_tokens: Lengths,
    /// Tokens of the answers; generation goes on past the model's end of sequence.
    pub output_tokens: Lengths,
    /// Beginnings that prompts have in common.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompts: Option<SystemPrompts>,
    /// Examples that prompts have in common, behind the system prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub few_shot_tree: Option<FewShotTree>,
    /// Requests that go on with an earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// Who asks; without any, one who has no name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<Tenant>,
    /// Clients that hang up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancellations: Option<Cancellations>,
    /// Clients that wait no longer than so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadlines: Option<Deadlines>,
    /// Where relative paths start.
    #[serde(skip)]
    folder: PathBuf,
}

/// Beginnings, of which each conversation has one, all alike often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemPrompts {
    /// Different ones. Each tenant has its own.
    pub num: u32,
    /// Their length.
    pub tokens: u32,
}

/// A tree of examples: each conversation goes a random way from the root to a leaf, and its prompts hold what lies on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewShotTree {
    /// Children of each node, level by level.
    pub branches: Vec<u32>,
    /// Tokens of each node below the root.
    pub tokens: u32,
}

/// Conversations: each turn's prompt is all that was said before and the user's next words. What the server answered is not
/// in it, but a drawn answer of the same length, so that all servers are asked the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// Requests of a conversation.
    pub num: u32,
    /// From the end of an answer to the next request, in milliseconds.
    pub pause_ms: u32,
}

/// One who asks, with a prefix cache of its own where the protocol can say so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// How figures name it.
    pub name: String,
    /// How often a conversation is its own, beside the other tenants' weights.
    pub weight: u32,
}

/// Clients that hang up in the middle of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancellations {
    /// How many of all requests, from 0 to 1.
    pub share: f64,
    /// After which output token.
    pub after_tokens: Lengths,
}

/// Clients that want the whole answer in time, or nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadlines {
    /// How many of all requests, from 0 to 1.
    pub share: f64,
    /// From the moment at which the request is meant to be sent, in milliseconds.
    pub ms: u32,
}

/// Values in place of a workload's own.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// In place of the seed.
    pub seed: Option<u64>,
    /// In place of the number of requests.
    pub num_requests: Option<u32>,
    /// Requests come like a Poisson process of this rate, or in bursts of this rate if they came in bursts.
    pub rate_per_s: Option<f64>,
    /// So many are under way, always.
    pub concurrency: Option<u32>,
    /// All prompts' own tokens.
    pub prompt_tokens: Option<u32>,
    /// All answers' tokens.
    pub output_tokens: Option<u32>,
}

impl Workload {
    /// One of the named ones, or that of a file.
    ///
    /// # Errors
    /// If there is no such name or file, or it does not describe a workload.
    pub fn find(name_or_path: &str) -> Result<Self> {
        if let Some((_, text)) = NAMED.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(text, Path::new("")).with_context(|| format!("the workload {name_or_path}"));
        }
        let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
        let text = std::fs::read_to_string(name_or_path).with_context(|| {
            format!("{name_or_path} is neither a readable file nor one of the workloads {}", names.join(", "))
        })?;
        let folder = Path::new(name_or_path).parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).with_context(|| name_or_path.to_string())
    }

    /// Reads one; relative paths in it start at the folder.
    ///
    /// # Errors
    /// If it is no workload, or one that cannot be.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let workload: Self = toml::from_str(text)?;
        workload.check()?;
        Ok(Self { folder: folder.to_path_buf(), ..workload })
    }

    /// The same with other values.
    ///
    /// # Errors
    /// If there can be no such workload.
    pub fn with(mut self, overrides: &Overrides) -> Result<Self> {
        self.seed = overrides.seed.unwrap_or(self.seed);
        self.num_requests = overrides.num_requests.unwrap_or(self.num_requests);
        if let Some(rate_per_s) = overrides.rate_per_s {
            self.arrivals = match self.arrivals {
                Arrivals::Bursts { size, .. } => Arrivals::Bursts { rate_per_s, size },
                _ => Arrivals::Poisson { rate_per_s },
            };
        }
        if let Some(concurrency) = overrides.concurrency {
            self.arrivals = Arrivals::ClosedLoop { concurrency };
        }
        if let Some(tokens) = overrides.prompt_tokens {
            self.prompt_tokens = Lengths::Fixed { tokens };
        }
        if let Some(tokens) = overrides.output_tokens {
            self.output_tokens = Lengths::Fixed { tokens };
        }
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=MAX_REQUESTS).contains(&self.num_requests), "num_requests must be 1 to {MAX_REQUESTS}");
        ensure!(self.duration_s.is_none_or(|duration_s| duration_s > 0.0), "duration_s must be positive");
        self.arrivals.check().context("arrivals")?;
        self.prompt_tokens.check().context("prompt_tokens")?;
        self.output_tokens.check().context("output_tokens")?;
        if let Some(SystemPrompts { num, tokens }) = self.system_prompts {
            ensure!(
                num >= 1 && (1..=MAX_LENGTH_TOKENS).contains(&tokens),
                "system_prompts: at least one, of 1 token or more"
            );
        }
        if let Some(FewShotTree { branches, tokens }) = &self.few_shot_tree {
            let is_tree = (1..=16).contains(&branches.len()) && !branches.contains(&0);
            ensure!(is_tree, "few_shot_tree: 1 to 16 levels, each of 1 branch or more");
            ensure!((1..=MAX_LENGTH_TOKENS / 16).contains(tokens), "few_shot_tree: a node of {tokens} tokens");
        }
        ensure!(self.turns.as_ref().is_none_or(|turns| (1..=64).contains(&turns.num)), "turns: 1 to 64");
        ensure!(self.tenants.iter().all(|tenant| tenant.weight >= 1), "tenants: each needs a weight of 1 or more");
        ensure!(self.tenants.len() <= 1024, "tenants: at most 1,024");
        if let Some(Cancellations { share, after_tokens }) = &self.cancellations {
            after_tokens.check().context("cancellations")?;
            ensure!((0.0..=1.0).contains(share), "cancellations: a share of {share}");
        }
        if let Some(Deadlines { share, ms }) = &self.deadlines {
            ensure!((0.0..=1.0).contains(share) && *ms >= 1, "deadlines: a share of {share}, {ms} ms");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "
        stands_for = 'A test.'
        seed = 1
        num_requests = 3
        arrivals = { process = 'all_at_once' }
        prompt_tokens = { distribution = 'fixed', tokens = 4 }
        output_tokens = { distribution = 'uniform', min = 1, max = 2 }
    ";

    #[track_caller]
    fn refuse(text: &str, expected: &str) {
        let error = Workload::parse(text, Path::new("")).expect_err("the case is refused");
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }

    #[test]
    fn what_is_unknown_or_impossible_is_refused() {
        Workload::parse(LEAST, Path::new("")).expect("the least workload is one");
        refuse(&format!("{LEAST} colour = 'red'"), "unknown field `colour`");
        refuse(&LEAST.replace("tokens = 4", "tokens = 4, min = 1"), "unknown field `min`");
        refuse(&LEAST.replace("'all_at_once'", "'all_at_once', rate_per_s = 1"), "unknown field `rate_per_s`");
        refuse(&LEAST.replace("all_at_once", "sometimes"), "unknown variant `sometimes`");
        refuse(&LEAST.replace("seed = 1", ""), "missing field `seed`");
        refuse(&LEAST.replace("min = 1, max = 2", "min = 2, max = 1"), "output_tokens: lengths of 2 to 1");
        refuse(&LEAST.replace("num_requests = 3", "num_requests = 0"), "num_requests must be");
        refuse(&format!("{LEAST} few_shot_tree = {{ branches = [2, 0], tokens = 5 }}"), "few_shot_tree");
        refuse(&format!("{LEAST} deadlines = {{ share = 2.0, ms = 5 }}"), "deadlines");
    }

    #[test]
    fn overrides_replace_what_they_name() {
        let workload = Workload::parse(LEAST, Path::new("")).expect("it is one");
        assert_eq!(workload.clone().with(&Overrides::default()).expect("unchanged"), workload);
        let faster = Overrides { rate_per_s: Some(3.0), prompt_tokens: Some(9), ..Overrides::default() };
        let changed = workload.clone().with(&faster).expect("it is one");
        assert_eq!(changed.arrivals, Arrivals::Poisson { rate_per_s: 3.0 });
        assert_eq!(changed.prompt_tokens, Lengths::Fixed { tokens: 9 });
        assert_eq!(changed.output_tokens, workload.output_tokens);
        assert!(workload.with(&Overrides { concurrency: Some(0), ..Overrides::default() }).is_err());
    }
}
