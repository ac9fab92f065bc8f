//! All requests of a workload, drawn beforehand from its seed alone, so that every server is asked the same. Knows no server.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

use super::lengths::Source;
use super::{Tenant, Workload};
use crate::random::Random;

/// Tokens of a slice of the text. Prompts are made of slices, so that two which begin at the same place share no more.
const SLICE_TOKENS: usize = 32;

/// Most tokens of all prompts of a plan.
const MAX_PLAN_TOKENS: usize = 1 << 30;

/// Where the tokens of prompts come from.
pub enum TokenSource<'a> {
    /// Random slices of a text.
    Text(&'a [u32]),
    /// Any ids below this.
    Below(u32),
}

/// Requests that follow each other: the next one comes some time after the answer to the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// When its first turn comes after the start, in microseconds.
    pub arrival_us: u64,
    /// Whose it is, as an index into the plan's tenants.
    pub tenant: usize,
    /// Its requests, at least one.
    pub turns: Vec<Turn>,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// From the answer before to this request, in milliseconds; 0 for a first one.
    pub pause_ms: u32,
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Tokens to generate.
    pub output_tokens: u32,
    /// The client hangs up after this output token.
    pub cancel_after_tokens: Option<u32>,
    /// When the whole answer must be there, in milliseconds from the time at which the request is meant to be sent.
    pub deadline_ms: Option<u32>,
}

/// Everything that a run asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In the order in which they come.
    pub conversations: Vec<Conversation>,
    /// Names of tenants; the only one of a workload without tenants has none.
    pub tenants: Vec<String>,
}

/// The streams of random numbers of a seed: each matter has its own, so that a change of one leaves the others as they are.
#[derive(Clone, Copy)]
enum Matter {
    Arrivals,
    Tenants,
    PromptTokens,
    OutputTokens,
    Prompts,
    Cancellations,
    Deadlines,
    Shared,
}

impl Workload {
    /// Draws all requests.
    ///
    /// # Errors
    /// If a trace cannot be read, or the prompts have more tokens than fit into memory.
    pub fn plan(&self, tokens: &TokenSource<'_>) -> Result<Plan> {
        let mut draw = Draw::new(self, tokens)?;
        let mut arrivals = Random::stream(self.seed, Matter::Arrivals as u64);
        let mut arrivals = self.arrivals.times(&mut arrivals);
        let (mut conversations, mut num_requests, mut num_tokens) = (Vec::new(), 0, 0);
        while num_requests < self.num_requests as usize {
            let arrival_us = arrivals.next().expect("arrivals do not end");
            if self.duration_s.is_some_and(|duration_s| arrival_us as f64 > duration_s * 1e6) {
                break;
            }
            let conversation = draw.conversation(arrival_us, num_requests);
            num_requests += conversation.turns.len();
            num_tokens += conversation.turns.iter().map(|turn| turn.prompt.len()).sum::<usize>();
            ensure!(num_tokens <= MAX_PLAN_TOKENS, "the prompts have more than {MAX_PLAN_TOKENS} tokens");
            conversations.push(conversation);
        }
        ensure!(num_requests > 0, "nothing comes within duration_s");
        let names = self.tenants.iter().map(|tenant| tenant.name.clone());
        let tenants = if self.tenants.is_empty() { vec![String::new()] } else { names.collect() };
        Ok(Plan { conversations, tenants })
    }
}

impl Plan {
    /// Requests in all.
    #[must_use]
    pub fn num_requests(&self) -> usize {
        self.conversations.iter().map(|conversation| conversation.turns.len()).sum()
    }

    /// The largest token id of all prompts.
    #[must_use]
    pub fn max_token_id(&self) -> u32 {
        let turns = self.conversations.iter().flat_map(|conversation| &conversation.turns);
        turns.flat_map(|turn| &turn.prompt).copied().max().unwrap_or(0)
    }

    /// The SHA-256 of all requests, in hexadecimal digits: equal where the same was asked at the same times.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut number = |number: u64| hash.update(number.to_le_bytes());
        for conversation in &self.conversations {
            number(conversation.arrival_us);
            number(conversation.tenant as u64);
            number(conversation.turns.len() as u64);
            for turn in &conversation.turns {
                number(turn.pause_ms.into());
                number(turn.output_tokens.into());
                number(turn.cancel_after_tokens.unwrap_or(0).into());
                number(turn.deadline_ms.unwrap_or(0).into());
                number(turn.prompt.len() as u64);
                turn.prompt.iter().for_each(|id| number((*id).into()));
            }
        }
        hash.finalize().iter().fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        })
    }
}

/// What draws conversations one after the other.
struct Draw<'a> {
    workload: &'a Workload,
    tokens: &'a TokenSource<'a>,
    prompt_tokens: Source,
    output_tokens: Source,
    cancel_after_tokens: Option<Source>,
    streams: [Random; Matter::Shared as usize],
}

impl<'a> Draw<'a> {
    fn new(workload: &'a Workload, tokens: &'a TokenSource<'a>) -> Result<Self> {
        let cancellations = workload.cancellations.as_ref();
        Ok(Self {
            workload,
            tokens,
            prompt_tokens: workload.prompt_tokens.open(&workload.folder)?,
            output_tokens: workload.output_tokens.open(&workload.folder)?,
            cancel_after_tokens: cancellations.map(|some| some.after_tokens.open(&workload.folder)).transpose()?,
            streams: std::array::from_fn(|matter| Random::stream(workload.seed, matter as u64)),
        })
    }

    fn random(&mut self, matter: Matter) -> &mut Random {
        &mut self.streams[matter as usize]
    }

    /// The conversation whose first request has this number.
    fn conversation(&mut self, arrival_us: u64, number: usize) -> Conversation {
        let tenant = draw_tenant(&self.workload.tenants, self.random(Matter::Tenants));
        let mut said = self.shared(tenant);
        let turns_of = self.workload.turns.clone();
        let num_left = self.workload.num_requests as usize - number;
        let num_turns = turns_of.as_ref().map_or(1, |turns| turns.num as usize).min(num_left);
        let mut turns = Vec::with_capacity(num_turns);
        for index in 0..num_turns {
            let pause_ms = turns_of.as_ref().filter(|_| index > 0).map_or(0, |turns| turns.pause_ms);
            turns.push(self.turn(number + index, pause_ms, &mut said));
        }
        Conversation { arrival_us, tenant, turns }
    }

    /// The next request of a conversation in which so much is said already.
    fn turn(&mut self, number: usize, pause_ms: u32, said: &mut Vec<u32>) -> Turn {
        let own_tokens = self.prompt_tokens.length(number, &mut self.streams[Matter::PromptTokens as usize]);
        let output_tokens = self.output_tokens.length(number, &mut self.streams[Matter::OutputTokens as usize]);
        let cancellations = &mut self.streams[Matter::Cancellations as usize];
        let cancel_after_tokens = self.workload.cancellations.as_ref().and_then(|some| {
            let hangs_up = cancellations.unit() <= some.share;
            let source = self.cancel_after_tokens.as_ref().expect("it is opened with the workload");
            let after_tokens = source.length(number, cancellations);
            (hangs_up && after_tokens < output_tokens).then_some(after_tokens)
        });
        let deadlines = &mut self.streams[Matter::Deadlines as usize];
        let deadline_ms =
            self.workload.deadlines.as_ref().and_then(|some| (deadlines.unit() <= some.share).then_some(some.ms));
        let prompts = &mut self.streams[Matter::Prompts as usize];
        self.tokens.extend(said, own_tokens as usize, prompts);
        let prompt = said.clone();
        if self.workload.turns.is_some() {
            self.tokens.extend(said, output_tokens as usize, prompts);
        }
        Turn { pause_ms, prompt, output_tokens, cancel_after_tokens, deadline_ms }
    }

    /// What the prompts of a conversation share with others: a system prompt and a way down the tree of examples. The tokens
    /// of a place are drawn from a stream of that place's own.
    fn shared(&mut self, tenant: usize) -> Vec<u32> {
        let mut shared = Vec::new();
        let mut place = tenant as u64;
        let mut go_to = |shared: &mut Vec<u32>, child: u32, tokens: u32| {
            place = Random::stream(place, u64::from(child)).bits();
            let mut stream = Random::stream(self.workload.seed ^ place, Matter::Shared as u64);
            self.tokens.extend(shared, tokens as usize, &mut stream);
        };
        let prompts = &mut self.streams[Matter::Prompts as usize];
        if let Some(system) = &self.workload.system_prompts {
            go_to(&mut shared, prompts.below(system.num), system.tokens);
        }
        if let Some(tree) = &self.workload.few_shot_tree {
            for num_children in &tree.branches {
                go_to(&mut shared, prompts.below(*num_children), tree.tokens);
            }
        }
        shared
    }
}

/// A tenant with the chance that its weight gives it.
fn draw_tenant(tenants: &[Tenant], random: &mut Random) -> usize {
    let total: u32 = tenants.iter().map(|tenant| tenant.weight).sum();
    let mut left = random.below(total.max(1));
    for (index, tenant) in tenants.iter().enumerate() {
        if left < tenant.weight {
            return index;
        }
        left -= tenant.weight;
    }
    0
}

impl TokenSource<'_> {
    /// Appends so many tokens.
    fn extend(&self, to: &mut Vec<u32>, num_tokens: usize, random: &mut Random) {
        match self {
            Self::Below(bound) => to.extend((0..num_tokens).map(|_| random.below(*bound))),
            Self::Text(text) => {
                let end = to.len() + num_tokens;
                while to.len() < end {
                    let len = SLICE_TOKENS.min(text.len()).min(end - to.len());
                    let start = random.below((text.len() - len + 1) as u32) as usize;
                    to.extend_from_slice(&text[start..start + len]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::workload::Overrides;

    const TEXT: TokenSource<'_> = TokenSource::Below(1000);

    fn workload(more: &str) -> Workload {
        let text = format!(
            "stands_for = 'A test.'
            seed = 5
            num_requests = 40
            arrivals = {{ process = 'poisson', rate_per_s = 10.0 }}
            prompt_tokens = {{ distribution = 'fixed', tokens = 4 }}
            output_tokens = {{ distribution = 'uniform', min = 5, max = 9 }}
            {more}"
        );
        Workload::parse(&text, Path::new("")).expect("the case is a workload")
    }

    fn plan(more: &str) -> Plan {
        workload(more).plan(&TEXT).expect("the case can be drawn")
    }

    fn prompts(plan: &Plan) -> Vec<&[u32]> {
        plan.conversations.iter().flat_map(|conversation| &conversation.turns).map(|turn| &*turn.prompt).collect()
    }

    #[test]
    fn the_seed_alone_decides() {
        let drawn = plan("");
        assert_eq!(drawn, plan(""));
        // Recorded, so that no change of the code changes what a seed stands for.
        assert_eq!(drawn.digest(), "c611ad6c0d93b3dbbe8b2fb0cda4965f250e7c632d9f2a2752f4f324725b2275");
        let other = workload("").with(&Overrides { seed: Some(6), ..Overrides::default() }).expect("it is one");
        assert_ne!(other.plan(&TEXT).expect("it can be drawn").digest(), drawn.digest());
        assert!(prompts(&drawn).iter().all(|prompt| prompt.len() == 4));
    }

    #[test]
    fn a_change_of_one_matter_leaves_the_others() {
        let slower =
            workload("").with(&Overrides { rate_per_s: Some(1.0), ..Overrides::default() }).expect("it is one");
        let (slower, drawn) = (slower.plan(&TEXT).expect("it can be drawn"), plan(""));
        assert_ne!(slower.conversations[5].arrival_us, drawn.conversations[5].arrival_us);
        assert_eq!(prompts(&slower), prompts(&drawn));
        let impatient = plan("deadlines = { share = 0.5, ms = 100 }\n");
        assert_eq!(prompts(&impatient), prompts(&drawn));
    }

    #[test]
    fn prefixes_are_shared_as_described() {
        let drawn = plan("system_prompts = { num = 2, tokens = 8 }\nfew_shot_tree = { branches = [3, 2], tokens = 6 }");
        let distinct = |len: usize| {
            let mut beginnings: Vec<&[u32]> = prompts(&drawn).iter().map(|prompt| &prompt[..len]).collect();
            beginnings.sort_unstable();
            beginnings.dedup();
            beginnings.len()
        };
        assert_eq!([distinct(8), distinct(14), distinct(20)], [2, 6, 12]);
        assert_eq!(distinct(24), 40);
    }

    #[test]
    fn a_turn_repeats_all_that_was_said() {
        let drawn = plan("turns = { num = 3, pause_ms = 50 }");
        // 40 requests in conversations of 3; the last one has what is left.
        assert_eq!(drawn.conversations.len(), 14);
        assert_eq!((drawn.num_requests(), drawn.conversations[13].turns.len()), (40, 1));
        let turns = &drawn.conversations[0].turns;
        assert_eq!(turns.iter().map(|turn| turn.pause_ms).collect::<Vec<_>>(), [0, 50, 50]);
        for pair in turns.windows(2) {
            assert!(pair[1].prompt.starts_with(&pair[0].prompt));
            assert_eq!(pair[1].prompt.len(), pair[0].prompt.len() + pair[0].output_tokens as usize + 4);
        }
    }

    #[test]
    fn tenants_cancellations_and_deadlines_have_their_shares() {
        let drawn = plan(
            "cancellations = { share = 0.5, after_tokens = { distribution = 'uniform', min = 1, max = 8 } }
            deadlines = { share = 0.25, ms = 100 }
            system_prompts = { num = 1, tokens = 8 }
            tenants = [{ name = 'a', weight = 3 }, { name = 'b', weight = 1 }]",
        );
        assert_eq!(drawn.tenants, ["a", "b"]);
        let turns: Vec<&Turn> = drawn.conversations.iter().map(|conversation| &conversation.turns[0]).collect();
        let num = |is: &dyn Fn(&Turn) -> bool| turns.iter().filter(|turn| is(turn)).count();
        assert!((8..=24).contains(&num(&|turn| turn.cancel_after_tokens.is_some())));
        assert_eq!(num(&|turn| turn.cancel_after_tokens.is_some_and(|after| after >= turn.output_tokens)), 0);
        assert!((4..=16).contains(&num(&|turn| turn.deadline_ms == Some(100))));
        let of_b = drawn.conversations.iter().filter(|conversation| conversation.tenant == 1).count();
        assert!((4..=16).contains(&of_b), "{of_b}");
        // A tenant's system prompt is its own.
        let beginning = |tenant| {
            let first = drawn.conversations.iter().find(|conversation| conversation.tenant == tenant);
            &first.expect("both tenants have requests").turns[0].prompt[..8]
        };
        assert_ne!(beginning(0), beginning(1));
    }

    #[test]
    fn a_duration_cuts_what_comes_later() {
        let drawn = plan("duration_s = 2.0");
        assert!((10..=30).contains(&drawn.num_requests()), "{}", drawn.num_requests());
        assert!(drawn.conversations.iter().all(|conversation| conversation.arrival_us <= 2_000_000));
    }

    #[test]
    fn text_comes_in_slices() {
        let text: Vec<u32> = (0..100).collect();
        let mut prompt = Vec::new();
        TokenSource::Text(&text).extend(&mut prompt, 70, &mut Random::new(1));
        assert_eq!(prompt.len(), 70);
        let is_slice = |ids: &[u32]| ids.windows(2).all(|pair| pair[1] == pair[0] + 1);
        assert!(is_slice(&prompt[..32]) && is_slice(&prompt[32..64]) && is_slice(&prompt[64..]));
        TokenSource::Text(&text[..3]).extend(&mut prompt, 5, &mut Random::new(1));
        assert_eq!(prompt[70..73], [0, 1, 2]);
        assert!(prompt.len() == 75 && is_slice(&prompt[73..]));
    }
}
