//! What the results of a step do to the requests that had rows in it. Knows no batch that is still to be planned.

use serving_types::{BatchOutput, FinishReason, RowOutput, RowSlot, StepId};

use kv_paging::StepOutcome;

use crate::plan::{PlannedRow, PlannedStep};
use crate::scheduler::kv_step;
use crate::{Scheduler, Update};

impl Scheduler {
    /// Applies the results of the oldest step in flight: appends tokens, ends what has ended, publishes full blocks.
    /// Rows of requests that ended or were preempted since are dropped.
    ///
    /// # Panics
    /// If this is not the oldest step in flight, or the output has not exactly its rows: bugs of the caller or the
    /// executor.
    pub fn complete(&mut self, step: StepId, output: &BatchOutput, updates: &mut Vec<Update>) {
        let planned = self.in_flight.front().expect("a step is in flight");
        assert_eq!(planned.rows.len(), output.rows.len(), "step {step} must answer each of its rows");
        for (row, result) in planned.rows.iter().zip(&output.rows) {
            if result.fault.is_some() {
                // What it computed may be what is wrong, and so may be what it matched: nobody else shall start from that,
                // though the request may have ended or been preempted since. Its blocks are held until the step retires;
                // after that, another block with the same content may stand for the first of them in the prefix index.
                self.kv.forget(row.first_block);
            }
        }
        let planned = self.retire(step, StepOutcome::Completed);
        self.last_completed = Some((step, planned.shape));
        self.fetched_through = self.fetched_through.max(output.fetched_through);
        for (row, result) in planned.rows.iter().zip(&output.rows) {
            if self.running.get_mut(row.slot, row.admission).is_some() {
                self.complete_row(row.slot, row, (result, output), updates);
            }
        }
        self.recycle(planned);
    }

    /// Ends the requests of the oldest step in flight, of which nothing was computed. Requests that matched blocks which
    /// the step should have filled are computed again.
    ///
    /// # Panics
    /// If this is not the oldest step in flight.
    pub fn fail_step(&mut self, step: StepId, cause: &str, updates: &mut Vec<Update>) {
        let planned = self.retire(step, StepOutcome::Failed);
        for row in &planned.rows {
            if let Some(running) = self.running.get_mut(row.slot, row.admission) {
                let index = running.request;
                self.end(index, FinishReason::Failed(cause.into()), updates);
            }
        }
        self.recycle(planned);
        // From the youngest on, so that each removal leaves the places before it alone.
        for place in (0..self.running.len()).rev() {
            let slot = self.running.slot_at(place);
            if self.kv.is_withdrawn(&self.running[slot].table) {
                self.preempt(slot);
            }
        }
    }

    /// Ends every request with one cause and forgets the steps in flight: the device is gone.
    pub fn abandon(&mut self, cause: &str, updates: &mut Vec<Update>) {
        self.end_all(&FinishReason::Failed(cause.into()), updates);
        while let Some(planned) = self.in_flight.front() {
            self.retire(planned.step, StepOutcome::Failed);
        }
    }

    /// Keeps the memory of a step's rows.
    fn recycle(&mut self, mut planned: PlannedStep) {
        planned.rows.clear();
        self.spare_rows.push(planned.rows);
    }

    fn retire(&mut self, step: StepId, outcome: StepOutcome) -> PlannedStep {
        let planned = self.in_flight.pop_front().expect("a step is in flight");
        assert_eq!(planned.step, step, "steps end in the order in which they were planned");
        self.kv.retire(kv_step(step), outcome);
        self.last_retired = Some(step);
        planned
    }

    fn complete_row(
        &mut self,
        slot: RowSlot,
        row: &PlannedRow,
        (result, output): (&RowOutput, &BatchOutput),
        updates: &mut Vec<Update>,
    ) {
        let running = &mut self.running[slot];
        let index = running.request;
        if let Some(fault) = result.fault {
            if running.num_matched > 0 {
                // Perhaps it is not its own. A fault shows only where there are logits, so whoever computed what it matched
                // may have had it unseen. A second one, after it computed everything itself, is its own.
                self.requests[index].computes_all = true;
                self.preempt(slot);
            } else {
                self.end(index, FinishReason::Failed(fault.to_string()), updates);
            }
            return;
        }
        let request = &mut self.requests[index];
        running.num_computed = row.end;
        let first_sampled = result.logprobs.start + row.num_scored;
        if row.num_scored > 0 {
            request.num_scored += row.num_scored;
            updates.push(Update::PromptScored {
                id: request.id,
                logprobs: result.logprobs.start..first_sampled,
                is_last: request.num_scored == request.num_to_score(),
            });
        }
        if !row.samples {
            return;
        }
        let &[token] = output.tokens_of(result) else { panic!("a sound row that samples has one token") };
        // A key is promised by the next plan, which passes over all rows and nothing else.
        request.keys.extend(&[token]).iter().for_each(|key| self.kv.prefetch(*key));
        request.usage.output_tokens += 1;
        running.num_tokens += 1;
        running.last_token = token;
        running.num_pending -= 1;
        self.stats.output_tokens += 1;
        self.waiting.charge_output(running.class.tenant);
        let logprobs = request.sampling.logprobs.map(|_| first_sampled);
        updates.push(Update::Token { id: request.id, token, logprobs });
        if request.sampling.stop_token_ids.binary_search(&token).is_ok() {
            self.end(index, FinishReason::StopToken(token), updates);
        } else if running.num_tokens == running.max_len {
            self.end(index, FinishReason::Length, updates);
        }
    }
}
