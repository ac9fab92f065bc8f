//! One request's fate: when it was to be sent and was sent, when its messages came, how it ended. Knows no protocol.

use std::time::{Duration, Instant};

use super::Progress;

/// What became of one request. All times are counted from the start of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Whose it was, as an index into the plan's tenants.
    pub tenant: usize,
    /// When it was to be sent. What a client waits begins here, whatever held the load generator up.
    pub intended_at: Duration,
    /// When it was sent.
    pub sent_at: Duration,
    /// When it was over.
    pub ended_at: Duration,
    /// How.
    pub outcome: Outcome,
    /// What came.
    pub received: Received,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer came.
    Complete,
    /// The client hung up, as the workload wanted.
    HungUp,
    /// The whole answer was not there in time.
    DeadlineMissed,
    /// Anything else.
    Failed(Failure),
}

/// Why a request failed; figures count each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A few words that many failures share: "RESOURCE_EXHAUSTED", "HTTP 503", "connection".
    pub kind: String,
    /// What was said of this one.
    pub detail: String,
}

impl Failure {
    pub(super) fn new(kind: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: kind.into(), detail: detail.into() }
    }
}

/// What came of an answer so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Received {
    /// When each message with tokens came, counted from the start of the run.
    pub at: Vec<Duration>,
    /// Tokens of all messages.
    pub num_tokens: u32,
    /// Tokens of the prompt, as the server counts them; 0 if it does not say.
    pub prompt_tokens: u32,
    /// Of these, tokens that it did not compute, because it had them in a cache.
    pub cached_tokens: u32,
}

/// Whether the client wants more of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    More,
    HangUp,
}

/// One who reads an answer with a watch in the hand.
pub(super) struct Reader<'a> {
    start: Instant,
    progress: &'a Progress,
    hang_up_after_tokens: Option<u32>,
    pub(super) received: Received,
}

impl<'a> Reader<'a> {
    /// One who reads a whole answer, or hangs up after so many tokens.
    pub(super) fn new(start: Instant, progress: &'a Progress, hang_up_after_tokens: Option<u32>) -> Self {
        Self { start, progress, hang_up_after_tokens, received: Received::default() }
    }

    /// A message with tokens came.
    pub(super) fn read(&mut self, num_tokens: u32) -> Wish {
        self.received.at.push(self.start.elapsed());
        self.received.num_tokens += num_tokens;
        self.progress.add_tokens(num_tokens);
        match self.hang_up_after_tokens {
            Some(limit) if self.received.num_tokens >= limit => Wish::HangUp,
            _ => Wish::More,
        }
    }

    /// The server counted the tokens itself, and knows better where a message says only how much text it brings.
    pub(super) fn count(&mut self, prompt_tokens: u32, cached_tokens: u32, output_tokens: u32) {
        self.progress.add_tokens(output_tokens.saturating_sub(self.received.num_tokens));
        self.received.prompt_tokens = prompt_tokens;
        self.received.cached_tokens = cached_tokens;
        self.received.num_tokens = output_tokens;
    }

    /// The outcome of an answer that the server called whole: it must have what was asked for.
    pub(super) fn finish(&self, output_tokens: u32) -> Outcome {
        match self.received.num_tokens {
            num_tokens if num_tokens == output_tokens => Outcome::Complete,
            num_tokens => {
                Outcome::Failed(Failure::new("wrong length", format!("{num_tokens} of {output_tokens} tokens")))
            }
        }
    }
}

impl Answer {
    /// From when it was to be sent to its first message.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        Some(*self.received.at.first()? - self.intended_at)
    }

    /// From when it was to be sent to its end.
    #[must_use]
    pub fn end_to_end(&self) -> Duration {
        self.ended_at - self.intended_at
    }

    /// Between its messages.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.received.at.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// The mean time of an output token after the first message, which holds one.
    #[must_use]
    pub fn time_per_output_token(&self) -> Option<Duration> {
        let num_later = self.received.num_tokens.checked_sub(1).filter(|num| *num > 0)?;
        let [first, .., last] = &self.received.at[..] else { return None };
        Some((*last - *first) / num_later)
    }

    /// How much later it was sent than it was to be.
    #[must_use]
    pub fn lateness(&self) -> Duration {
        self.sent_at - self.intended_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_waits_begins_when_the_request_was_to_be_sent() {
        let ms = Duration::from_millis;
        // The load generator was held up for 400 ms; the server answered in 10 ms, and gives a token each 20 ms.
        let received = Received { at: [510, 530, 550].map(ms).to_vec(), num_tokens: 5, ..Received::default() };
        let answer = Answer {
            tenant: 0,
            intended_at: ms(100),
            sent_at: ms(500),
            ended_at: ms(551),
            outcome: Outcome::Complete,
            received,
        };
        assert_eq!(answer.ttft(), Some(ms(410)));
        assert_eq!(answer.end_to_end(), ms(451));
        assert_eq!(answer.lateness(), ms(400));
        assert_eq!(answer.gaps().collect::<Vec<_>>(), [ms(20), ms(20)]);
        assert_eq!(answer.time_per_output_token(), Some(ms(10)));
    }

    #[test]
    fn a_reader_hangs_up_after_its_token_and_counts_what_came() {
        let progress = Progress::new(1);
        let mut reader = Reader::new(Instant::now(), &progress, Some(3));
        assert_eq!(reader.read(2), Wish::More);
        assert_eq!(reader.read(1), Wish::HangUp);
        assert_eq!((reader.received.at.len(), reader.received.num_tokens), (2, 3));
        assert_eq!(reader.finish(3), Outcome::Complete);
        reader.count(9, 4, 5);
        assert_eq!((reader.received.prompt_tokens, reader.received.cached_tokens), (9, 4));
        assert_eq!(reader.finish(4), Outcome::Failed(Failure::new("wrong length", "5 of 4 tokens")));
    }
}
