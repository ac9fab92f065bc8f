//! The stream of a request's events: drives its answers side by side and merges what comes of them.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use engine::{Event, RequestHandle};

use tokio::sync::OwnedSemaphorePermit;

use crate::GenerationEvent;
use crate::answer::{Answer, Verdict};
use crate::registry::Entry;

/// Most tokens in one delta. With all log-probabilities that can be asked for, these stay far below the size at which
/// clients refuse a message, usually 4 MiB.
const MAX_DELTA_TOKENS: usize = 256;

/// The events of one request. Dropping it before its end cancels the request, whose KV blocks are then free within one
/// step of the engine. A stream counts as a request of the generator until it is dropped.
pub struct GenerationStream {
    answers: Vec<LiveAnswer>,
    /// Events that were made and not yet asked for.
    events: VecDeque<GenerationEvent>,
    num_prompt_tokens: u32,
    entry: Entry,
    _place: OwnedSemaphorePermit,
}

/// An answer that has not ended.
struct LiveAnswer {
    handle: RequestHandle,
    answer: Answer,
}

impl GenerationStream {
    pub(crate) fn new(
        answers: Vec<(RequestHandle, Answer)>,
        num_prompt_tokens: u32,
        entry: Entry,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let answers = answers.into_iter().map(|(handle, answer)| LiveAnswer { handle, answer }).collect();
        Self { answers, events: VecDeque::new(), num_prompt_tokens, entry, _place: place }
    }

    /// The request's id, the caller's or the one that was drawn.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.entry.request_id()
    }

    /// Tokens of the prompt.
    #[must_use]
    pub fn num_prompt_tokens(&self) -> u32 {
        self.num_prompt_tokens
    }

    /// Ends all answers. The stream goes on to its end.
    pub fn cancel(&self) {
        self.answers.iter().for_each(|live| live.handle.cancel());
    }

    /// The next event; `None` once every answer has finished. Cancel-safe. What came since the last call is put into one
    /// delta for each answer, or into a few if it is much, so a slow caller has fewer and larger ones.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        while self.events.is_empty() {
            self.take_ready();
            if self.events.is_empty() {
                if self.answers.is_empty() {
                    return None;
                }
                let (index, event) = next_of_any(&mut self.answers).await;
                self.answers[index].apply(event, &mut self.events);
            }
        }
        self.events.pop_front()
    }

    /// Gives every answer its turn: takes what is there of it, and waits for nothing.
    fn take_ready(&mut self) {
        for live in &mut self.answers {
            while live.answer.num_pending_tokens() < MAX_DELTA_TOKENS {
                let Some(event) = next_if_ready(&mut live.handle) else { break };
                live.apply(event, &mut self.events);
            }
            live.answer.take_delta(&mut self.events);
        }
        self.answers.retain(|live| !live.answer.is_finished());
    }
}

impl LiveAnswer {
    fn apply(&mut self, event: Event, events: &mut VecDeque<GenerationEvent>) {
        if self.answer.apply(event, events) == Verdict::Cancel {
            self.handle.cancel();
        }
    }
}

/// Waits for an event of any answer, none of which has one ready.
async fn next_of_any(answers: &mut [LiveAnswer]) -> (usize, Event) {
    let mut waiting: Vec<_> = answers.iter_mut().map(|live| Box::pin(live.handle.next())).collect();
    poll_fn(|context| {
        for (index, next) in waiting.iter_mut().enumerate() {
            if let Poll::Ready(event) = next.as_mut().poll(context) {
                return Poll::Ready((index, event.expect("an answer goes when its last event has come")));
            }
        }
        Poll::Pending
    })
    .await
}

/// The next event if it is there already.
fn next_if_ready(handle: &mut RequestHandle) -> Option<Event> {
    match pin!(handle.next()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(event) => event,
        Poll::Pending => None,
    }
}
