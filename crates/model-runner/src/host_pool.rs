//! The host's KV pool, and which steps' copies from it have arrived. Knows no order between copies and ops, which is the
//! backend's.

use std::collections::VecDeque;

use serving_types::{Batch, BlockId, HostCopy, StepId};
use tensor_backend::Backend;

/// The host's KV pool, if there is one, with the fetches under way.
pub(crate) struct HostPool<B: Backend> {
    kv: Option<B::HostKv>,
    /// Fetches that were started.
    num_started: u64,
    /// Steps whose fetches have not arrived, oldest first, each with how many were started up to its last.
    fetching: VecDeque<(StepId, u64)>,
    last_launched: Option<StepId>,
}

/// Blocks that ops of a step touch and that those of earlier steps, as far as is known, did not.
#[derive(Debug, Default)]
pub(crate) struct TouchedBlocks {
    pub(crate) read: Vec<BlockId>,
    pub(crate) written: Vec<BlockId>,
}

impl TouchedBlocks {
    pub(crate) fn clear(&mut self) {
        self.read.clear();
        self.written.clear();
    }
}

impl<B: Backend> HostPool<B> {
    pub(crate) fn new(kv: Option<B::HostKv>) -> Self {
        Self { kv, num_started: 0, fetching: VecDeque::new(), last_launched: None }
    }

    /// Starts the copies of a batch, and has its ops enqueued behind those that they must not meet.
    pub(crate) fn enqueue(
        &mut self,
        backend: &mut B,
        kv: &mut B::Kv,
        batch: &Batch,
        touched: &TouchedBlocks,
    ) -> Result<(), B::Error> {
        self.last_launched = Some(batch.step);
        let Some(host) = &mut self.kv else {
            assert!(batch.host_copies.is_empty(), "only a runner with a host pool is given copies to and from it");
            return Ok(());
        };
        if !batch.host_copies.is_empty() {
            backend.copy_host_blocks(kv, host, &batch.host_copies)?;
            let is_fetch = |copy: &&HostCopy| matches!(copy, HostCopy::Fetch { .. });
            let num_fetches = batch.host_copies.iter().filter(is_fetch).count() as u64;
            if num_fetches > 0 {
                self.num_started += num_fetches;
                self.fetching.push_back((batch.step, self.num_started));
            }
        }
        backend.order_after_host_copies(host, &touched.read, &touched.written)
    }

    /// The next step is the first one. No fetches are under way.
    pub(crate) fn forget_steps(&mut self) {
        assert!(self.fetching.is_empty(), "all fetches have arrived");
        self.last_launched = None;
    }

    /// Waits until some fetches have arrived, if any are under way.
    pub(crate) fn await_fetches(&mut self, backend: &mut B) -> Result<(), B::Error> {
        self.kv.as_mut().map_or(Ok(()), |host| backend.await_fetches(host))
    }

    /// The last step of which, as of all before it, the fetches have arrived.
    pub(crate) fn fetched_through(&mut self, backend: &mut B) -> Result<Option<StepId>, B::Error> {
        if !self.fetching.is_empty()
            && let Some(host) = &mut self.kv
        {
            let num_arrived = self.num_started - backend.num_fetching(host)? as u64;
            while self.fetching.pop_front_if(|(_, num_started)| *num_started <= num_arrived).is_some() {}
        }
        Ok(match self.fetching.front() {
            Some((step, _)) => step.0.checked_sub(1).map(StepId),
            None => self.last_launched,
        })
    }
}
