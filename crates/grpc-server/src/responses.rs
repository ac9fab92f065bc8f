//! The response stream of a Generate call: the events of a generation, then a status. Dropping it cancels the request.

use std::collections::VecDeque;

use futures_util::{Stream, stream};
use generation::{FinishReason, GenerationEvent, GenerationStream, Generator};
use inference_proto::v1::GenerateResponse;
use tonic::Status;

use crate::{messages, status};

/// Where a stream stands.
struct Responses {
    events: GenerationStream,
    generator: Generator,
    /// Messages of the last event that were not sent yet.
    pending: VecDeque<GenerateResponse>,
    /// The worst end of an answer so far.
    worst: Option<FinishReason>,
}

/// The messages of a generation and, unless all its answers are complete, the status that says why.
pub(crate) fn responses(
    events: GenerationStream,
    generator: Generator,
) -> impl Stream<Item = Result<GenerateResponse, Status>> + Send + 'static {
    let start = Responses { events, generator, pending: VecDeque::new(), worst: None };
    stream::unfold(Some(start), |state| async move {
        let mut state = state?;
        match state.next().await {
            Some(message) => Some((Ok(message), Some(state))),
            None => state.status().map(|status| (Err(status), None)),
        }
    })
}

impl Responses {
    async fn next(&mut self) -> Option<GenerateResponse> {
        while self.pending.is_empty() {
            let event = self.events.next().await?;
            if let GenerationEvent::Finished(finished) = &event {
                self.worst = Some(status::worse(self.worst.take(), finished.reason.clone()));
            }
            self.pending.extend(messages::responses(event));
        }
        self.pending.pop_front()
    }

    fn status(&self) -> Option<Status> {
        status::of_reason(self.worst.as_ref()?, &self.generator.health())
    }
}
