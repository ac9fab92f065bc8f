//! One answer: the engine's tokens in, text events out. Knows detokenization and stop strings, and nothing of the engine
//! but its events.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use engine::{Event, TokenLogprobs};
use serving_types::{SamplingParams, TokenId, Usage};
use tokenization::{IncrementalDecoder, SpecialText, StopMatcher, Tokenizer};

use crate::{Delta, FinishReason, Finished, GenerationEvent};

/// How the tokens of an answer become its text. The same for all answers of a request.
pub(crate) struct TextRules {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) special: SpecialText,
    /// Whether the text goes on where the prompt's ends. An answer in a chat begins anew.
    pub(crate) continues_prompt: bool,
    pub(crate) stop: Vec<String>,
    pub(crate) include_stop: bool,
}

/// Whether the engine should go on with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Continue,
    /// The answer ended here, of which the engine knows nothing: its request is to be cancelled.
    Cancel,
}

/// The text of one answer as it grows.
pub(crate) struct Answer {
    rules: Arc<TextRules>,
    sampling: Arc<SamplingParams>,
    decoder: IncrementalDecoder,
    stops: StopMatcher,
    /// What was not yet handed out.
    delta: Delta,
    num_tokens: u32,
    /// Why the answer ended, when this side knew first. Whatever the engine still sends is surplus.
    ended: Option<FinishReason>,
    is_finished: bool,
}

impl Answer {
    pub(crate) fn new(rules: Arc<TextRules>, sampling: Arc<SamplingParams>, stops: StopMatcher) -> Self {
        let tokenizer = Arc::clone(&rules.tokenizer);
        let decoder = match rules.continues_prompt {
            true => IncrementalDecoder::continuing(tokenizer, rules.special),
            false => IncrementalDecoder::new(tokenizer, rules.special),
        };
        let delta = Delta { index: sampling.sample_index, ..Delta::default() };
        Self { rules, sampling, decoder, stops, delta, num_tokens: 0, ended: None, is_finished: false }
    }

    /// Takes one event of the engine. Tokens gather in the delta until [`take_delta`](Self::take_delta).
    pub(crate) fn apply(&mut self, event: Event, events: &mut VecDeque<GenerationEvent>) -> Verdict {
        match event {
            Event::Token { token, logprobs, .. } => self.push_token(token, logprobs),
            Event::PromptLogprobs { logprobs, .. } => {
                events.push_back(GenerationEvent::PromptLogprobs(logprobs));
                Verdict::Continue
            }
            Event::Finished { reason, usage, .. } => {
                self.finish(reason.into(), usage, events);
                Verdict::Continue
            }
        }
    }

    /// Hands out the tokens that came since the last time, if any.
    pub(crate) fn take_delta(&mut self, events: &mut VecDeque<GenerationEvent>) {
        if self.delta.token_ids.is_empty() && self.delta.text.is_empty() {
            return;
        }
        let next = Delta { index: self.delta.index, ..Delta::default() };
        events.push_back(GenerationEvent::Delta(mem::replace(&mut self.delta, next)));
    }

    /// Tokens that were not handed out yet.
    pub(crate) fn num_pending_tokens(&self) -> usize {
        self.delta.token_ids.len()
    }

    /// Whether its last event was made.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    fn finish(&mut self, reason: FinishReason, mut usage: Usage, events: &mut VecDeque<GenerationEvent>) {
        if self.ended.is_none() {
            let rest = self.decoder.flush();
            self.push_text(&rest);
        }
        if self.ended.is_none() {
            let held = self.stops.flush();
            self.delta.text.push_str(&held);
        }
        self.take_delta(events);
        self.is_finished = true;
        usage.output_tokens = self.num_tokens;
        let reason = self.ended.take().unwrap_or(reason);
        events.push_back(GenerationEvent::Finished(Finished { index: self.delta.index, reason, usage }));
    }

    fn push_token(&mut self, token: TokenId, logprobs: Option<Box<TokenLogprobs>>) -> Verdict {
        if self.ended.is_some() {
            return Verdict::Continue;
        }
        self.num_tokens += 1;
        self.delta.token_ids.push(token);
        self.delta.logprobs.extend(logprobs.map(|logprobs| *logprobs));
        if self.is_stop(token) && !self.rules.include_stop {
            return Verdict::Continue; // The engine ends the answer with it, and it is no part of the text.
        }
        let text = self.decoder.push(token).to_owned();
        self.push_text(&text);
        if self.ended.is_some() { Verdict::Cancel } else { Verdict::Continue }
    }

    /// Adds text; ends the answer if that completes a stop string.
    fn push_text(&mut self, text: &str) {
        if self.num_tokens <= self.sampling.min_tokens {
            self.delta.text.push_str(text);
            return;
        }
        let scan = self.stops.push(text);
        self.delta.text.push_str(&scan.emit);
        if let Some(place) = scan.stopped {
            let stop = self.rules.stop[place].clone();
            if self.rules.include_stop {
                self.delta.text.push_str(&stop);
            }
            self.ended = Some(FinishReason::StopString(stop));
        }
    }

    fn is_stop(&self, token: TokenId) -> bool {
        self.sampling.stop_token_ids.binary_search(&token).is_ok()
    }
}
