//! The running requests by the ids that clients know, so that any connection can abort any of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::Engine;
use serving_types::RequestId;

use crate::GenerateError;
use crate::request::MAX_REQUEST_ID_BYTES;

/// What is known of the requests between [`Registry::enter`] and the drop of their [`Entry`]s.
#[derive(Default)]
pub(crate) struct Registry {
    requests: Mutex<HashMap<String, State>>,
}

enum State {
    /// Its prompt is being read. Nothing is there to cancel yet.
    Preparing { is_aborted: bool },
    /// The engine's requests, one for each answer.
    Submitted(Vec<RequestId>),
}

/// A request's entry in the registry, which goes when this is dropped.
pub(crate) struct Entry {
    registry: Arc<Registry>,
    request_id: String,
}

impl Registry {
    /// Enters a request under its id.
    pub(crate) fn enter(self: &Arc<Self>, request_id: String) -> Result<Entry, GenerateError> {
        const FIELD: &str = "request_id";
        if request_id.is_empty() || request_id.len() > MAX_REQUEST_ID_BYTES {
            let message = format!("has {} bytes; it must have 1 to {MAX_REQUEST_ID_BYTES}", request_id.len());
            return Err(GenerateError::invalid(FIELD, message));
        }
        let mut requests = self.requests();
        if requests.contains_key(&request_id) {
            return Err(GenerateError::invalid(FIELD, format!("{request_id:?} is the id of a running request")));
        }
        requests.insert(request_id.clone(), State::Preparing { is_aborted: false });
        Ok(Entry { registry: Arc::clone(self), request_id })
    }

    /// Ends a request; whether it was there.
    pub(crate) fn abort(&self, request_id: &str, engine: &Engine) -> bool {
        match self.requests().get_mut(request_id) {
            None => return false,
            Some(State::Preparing { is_aborted }) => *is_aborted = true,
            Some(State::Submitted(ids)) => ids.iter().for_each(|&id| engine.cancel(id)),
        }
        true
    }

    /// The map is whole at every moment, so that a panic elsewhere does not spoil it.
    fn requests(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Notes the engine's requests, so that an abort reaches them; one that came before does so now.
    pub(crate) fn submitted(&self, ids: Vec<RequestId>, engine: &Engine) {
        let mut requests = self.registry.requests();
        let state = requests.get_mut(&self.request_id).expect("an entry stays until it is dropped");
        if matches!(state, State::Preparing { is_aborted: true }) {
            ids.iter().for_each(|&id| engine.cancel(id));
        }
        *state = State::Submitted(ids);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.requests().remove(&self.request_id);
    }
}

#[cfg(test)]
mod tests {
    use engine::{EngineConfig, EngineCore, Event, PrefixKeys, Salt, SubmitRequest};
    use serving_types::{ExecutorLimits, FinishReason, SamplingParams};
    use sim::{FakeExecutor, FakeModel, Faults, small_limits};

    use super::*;

    #[test]
    fn an_abort_during_preparation_is_not_lost() {
        let limits = ExecutorLimits { block_size: 256, num_blocks: 4096, max_model_len: 1 << 20, ..small_limits() };
        let model = FakeModel { seed: 1, vocab_size: limits.vocab_size };
        let executor = FakeExecutor::new(model, limits, Faults::default());
        let engine = Engine::spawn(EngineCore::new(Box::new(executor), EngineConfig::default()).unwrap());
        let registry = Arc::new(Registry::default());

        let entry = registry.enter("mine".into()).unwrap();
        assert!(registry.abort("mine", &engine));
        let mut prompt = PrefixKeys::new(&Salt::default(), limits.block_size);
        prompt.extend(&[1]);
        let sampling = Arc::new(SamplingParams { max_tokens: 1 << 19, ..SamplingParams::default() });
        let mut handle = engine.submit(SubmitRequest::new(prompt, sampling)).unwrap();
        entry.submitted(vec![handle.id()], &engine);
        let reason = std::iter::from_fn(|| handle.next_blocking()).find_map(|event| match event {
            Event::Finished { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(reason, Some(FinishReason::Cancelled));
        drop(entry);
        assert!(!registry.abort("mine", &engine));
    }
}
