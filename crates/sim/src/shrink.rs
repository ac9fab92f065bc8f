//! Makes a failing scenario small: fewer requests, fewer faults, shorter prompts. Knows no engine; it is told what fails.

use std::sync::Arc;

use serving_types::{SamplingParams, Timestamp};

use crate::{Scenario, SimRequest};

/// Changes that make a scenario simpler. Each returns whether it changed anything.
const SIMPLER_RUN: [fn(&mut Scenario) -> bool; 12] = [
    |run| clear(&mut run.faults.launch_failure),
    |run| clear(&mut run.faults.finish_failure),
    |run| clear(&mut run.faults.row_fault),
    |run| clear(&mut run.faults.slow_step),
    |run| clear(&mut run.faults.device_loss),
    |run| clear(&mut run.faults.failed_step),
    |run| clear(&mut run.faults.faulty_step),
    |run| clear(&mut run.drain),
    |run| clear(&mut run.clears),
    |run| clear(&mut run.limits.num_host_blocks),
    |run| core::mem::replace(&mut run.limits.max_steps_in_flight, 1) != 1,
    |run| run.limits.max_batch_rows > 1 && reduce(&mut run.limits.max_batch_rows, 1),
];

/// The same for one of its requests.
const SIMPLER_REQUEST: [fn(&mut SimRequest) -> bool; 12] = [
    |request| clear(&mut request.cancel_at),
    |request| clear(&mut request.cancel_after_tokens),
    |request| clear(&mut request.timeout),
    |request| clear(&mut request.first_token_timeout),
    |request| clear(&mut request.salt),
    |request| core::mem::take(&mut request.arrival) != Timestamp(0),
    |request| {
        let half = request.prompt.len() / 2;
        half > 0 && request.prompt.drain(half..).count() > 0
    },
    |request| reduce(&mut sampling(request).max_tokens, 1),
    |request| clear(&mut sampling(request).logprobs),
    |request| clear(&mut sampling(request).prompt_logprobs),
    |request| clear(&mut sampling(request).temperature) | clear(&mut sampling(request).min_tokens),
    |request| {
        let has_penalty = core::mem::replace(&mut sampling(request).repetition_penalty, 1.0) != 1.0;
        clear(&mut sampling(request).stop_token_ids) | has_penalty
    },
];

/// The smallest failing scenario that can be reached from a failing one by leaving out requests and by simplifying, each
/// step of which `fails`. It need not fail in the same way.
pub fn shrink(failing: &Scenario, mut fails: impl FnMut(&Scenario) -> bool) -> Scenario {
    let mut smallest = failing.clone();
    let mut is_simpler = true;
    while is_simpler {
        is_simpler = drop_requests(&mut smallest, &mut fails);
        for simplify in SIMPLER_RUN {
            is_simpler |= attempt(&mut smallest, simplify, &mut fails);
        }
        for index in 0..smallest.requests.len() {
            for simplify in SIMPLER_REQUEST {
                is_simpler |= attempt(&mut smallest, |run| simplify(&mut run.requests[index]), &mut fails);
            }
        }
    }
    smallest
}

/// Leaves out half of the requests, a quarter, and so on down to single ones.
fn drop_requests(smallest: &mut Scenario, fails: &mut impl FnMut(&Scenario) -> bool) -> bool {
    let num_before = smallest.requests.len();
    let mut size = num_before.div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < smallest.requests.len() {
            let end = (start + size).min(smallest.requests.len());
            let leave_out = |run: &mut Scenario| run.requests.drain(start..end).count() > 0;
            if !attempt(smallest, leave_out, fails) {
                start = end;
            }
        }
        size /= 2;
    }
    smallest.requests.len() < num_before
}

/// Takes a change if it changes something and the run still fails.
fn attempt(
    smallest: &mut Scenario,
    simplify: impl Fn(&mut Scenario) -> bool,
    fails: &mut impl FnMut(&Scenario) -> bool,
) -> bool {
    let mut simpler = smallest.clone();
    let is_taken = simplify(&mut simpler) && fails(&simpler);
    if is_taken {
        *smallest = simpler;
    }
    is_taken
}

fn sampling(request: &mut SimRequest) -> &mut SamplingParams {
    Arc::make_mut(&mut request.sampling)
}

fn clear<T: Default + PartialEq>(value: &mut T) -> bool {
    core::mem::take(value) != T::default()
}

/// Halves the way down to `least`.
fn reduce(value: &mut u32, least: u32) -> bool {
    let half = least + value.saturating_sub(least) / 2;
    core::mem::replace(value, half) != half
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the swarm chose, what is left is what the failure needs.
    #[test]
    fn what_is_left_is_needed() {
        let fails = |run: &Scenario| {
            let has_long_prompt = run.requests.iter().any(|request| request.prompt.len() >= 10);
            run.faults.row_fault > 0 && has_long_prompt
        };
        let mut num_failing = 0;
        for failing in (0..200).map(Scenario::random).filter(fails) {
            num_failing += 1;
            let smallest = shrink(&failing, fails);
            assert_eq!(smallest.requests.len(), 1, "one request is enough: {smallest:#?}");
            let request = &smallest.requests[0];
            assert!((10..20).contains(&request.prompt.len()), "half the prompt would do: {request:#?}");
            let rest = (request.cancel_at, request.timeout, request.sampling.max_tokens, smallest.drain);
            assert_eq!(rest, (None, None, 1, None), "nothing else is needed: {smallest:#?}");
            assert_eq!(smallest.faults.launch_failure + smallest.faults.finish_failure, 0);
        }
        assert!(num_failing > 5, "the swarm has row faults");
    }
}
