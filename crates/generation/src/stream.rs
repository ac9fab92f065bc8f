//! The stream of a request's events: drives its answers side by side and merges what comes of them.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use engine::{Event, RequestHandle};

use crate::GenerationEvent;
use crate::answer::{Answer, Verdict};
use crate::registry::Entry;

/// The events of one request. Dropping it before its end cancels the request, whose KV blocks are then free within one
/// step of the engine.
pub struct GenerationStream {
    answers: Vec<LiveAnswer>,
    /// Events that were made and not yet asked for.
    events: VecDeque<GenerationEvent>,
    num_prompt_tokens: u32,
    entry: Entry,
}

/// An answer that has not ended.
struct LiveAnswer {
    handle: RequestHandle,
    answer: Answer,
}

impl GenerationStream {
    pub(crate) fn new(answers: Vec<(RequestHandle, Answer)>, num_prompt_tokens: u32, entry: Entry) -> Self {
        let answers = answers.into_iter().map(|(handle, answer)| LiveAnswer { handle, answer }).collect();
        Self { answers, events: VecDeque::new(), num_prompt_tokens, entry }
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

    /// The next event; `None` once every answer has finished. Cancel-safe. What came since the last call is given as one
    /// delta for each answer, so a slow caller has fewer and larger ones.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        while self.events.is_empty() && !self.answers.is_empty() {
            let (place, event) = next_of_any(&mut self.answers).await;
            let live = &mut self.answers[place];
            let mut next = event;
            while let Some(event) = next {
                if live.answer.apply(event, &mut self.events) == Verdict::Cancel {
                    live.handle.cancel();
                }
                next = next_if_ready(&mut live.handle);
            }
            live.answer.take_delta(&mut self.events);
            if live.answer.is_finished() {
                self.answers.swap_remove(place);
            }
        }
        self.events.pop_front()
    }
}

/// Waits for an event of any answer. One that is ahead has all its events taken at once, so none is left behind.
async fn next_of_any(answers: &mut [LiveAnswer]) -> (usize, Option<Event>) {
    if let [live] = answers {
        return (0, live.handle.next().await);
    }
    let mut waiting: Vec<_> = answers.iter_mut().map(|live| Box::pin(live.handle.next())).collect();
    poll_fn(|context| {
        for (place, next) in waiting.iter_mut().enumerate() {
            if let Poll::Ready(event) = next.as_mut().poll(context) {
                return Poll::Ready((place, event));
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
