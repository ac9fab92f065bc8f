//! Errors and finish reasons as gRPC status codes: the code says who can act, the message what to do.

use generation::{FinishReason, GenerateError, Health};
use tonic::Status;

/// Longest message, in bytes. It travels in a header, where clients take a few kilobytes; a template's refusal may quote a
/// whole prompt.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The status of a request that was not taken.
pub(crate) fn of_error(error: &GenerateError) -> Status {
    let message = bounded(error.to_string());
    match error {
        GenerateError::InvalidArgument { .. } | GenerateError::ContextTooLong { .. } => {
            Status::invalid_argument(message)
        }
        GenerateError::Busy => Status::resource_exhausted(message),
        GenerateError::ShuttingDown | GenerateError::DeviceLost(_) => Status::unavailable(message),
        GenerateError::Internal(_) => Status::internal(message),
    }
}

/// The status at the end of a stream one of whose answers ended like this; `None` is OK.
pub(crate) fn of_reason(reason: &FinishReason, health: &Health) -> Option<Status> {
    match reason {
        FinishReason::StopString(_) | FinishReason::StopToken(_) | FinishReason::Length => None,
        FinishReason::Deadline => Some(Status::deadline_exceeded("the deadline passed before the answer was complete")),
        FinishReason::Cancelled if *health == Health::Serving => Some(Status::cancelled("the request was aborted")),
        FinishReason::Cancelled => Some(Status::unavailable("the server shut down before the answer was complete")),
        FinishReason::Failed(cause) if matches!(health, Health::Failed(_) | Health::Stopped) => {
            Some(Status::unavailable(bounded(cause.clone())))
        }
        FinishReason::Failed(cause) => Some(Status::internal(bounded(cause.clone()))),
    }
}

/// The worse of two ends of answers of one request: failed, then out of time, then cancelled, then complete.
pub(crate) fn worse(a: Option<FinishReason>, b: FinishReason) -> FinishReason {
    let badness = |reason: &FinishReason| match reason {
        FinishReason::StopString(_) | FinishReason::StopToken(_) | FinishReason::Length => 0,
        FinishReason::Cancelled => 1,
        FinishReason::Deadline => 2,
        FinishReason::Failed(_) => 3,
    };
    match a {
        Some(a) if badness(&a) >= badness(&b) => a,
        _ => b,
    }
}

/// The message, or the beginning of a long one.
fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    message
}
