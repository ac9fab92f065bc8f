//! Who is served first under each policy, seen from the order of the first tokens. Results are made up: each row that samples
//! gets the token 7.

use std::sync::Arc;

use scheduler::{NewRequest, Planned, Policy, PrefixCaching, PrefixKeys, Scheduler, SchedulerConfig, Update};
use serving_types::{
    Batch, BatchOutput, RequestClass, RequestId, RowOutput, SamplingParams, StepId, TenantId, Timestamp, TokenId,
};

const CONFIG: SchedulerConfig = SchedulerConfig {
    block_size: 4,
    num_blocks: 100,
    num_host_blocks: 0,
    max_batch_tokens: 32,
    max_mixed_prefill_tokens: 32,
    expected_output_tokens: 1,
    max_batch_rows: 1,
    max_model_len: 100,
    max_waiting: 1000,
    prefix_caching: PrefixCaching::Off,
    policy: Policy::FirstCome,
};

fn request(id: u64, tenant: u64, priority: i32, num_prompt_tokens: u32, max_tokens: u32) -> NewRequest {
    let mut prompt = PrefixKeys::new(&Default::default(), CONFIG.block_size);
    prompt.extend(&(0..num_prompt_tokens).map(|token| token + id as TokenId).collect::<Vec<_>>());
    NewRequest {
        id: RequestId(id),
        prompt,
        sampling: Arc::new(SamplingParams { max_tokens, ..SamplingParams::default() }),
        class: RequestClass { tenant: TenantId(tenant), priority },
        first_token_deadline: None,
        deadline: None,
    }
}

/// A request of one output token that must have it by some time, which is far.
fn hurried(id: u64, priority: i32, num_prompt_tokens: u32) -> NewRequest {
    NewRequest { first_token_deadline: Some(Timestamp(u64::MAX)), ..request(id, 0, priority, num_prompt_tokens, 1) }
}

/// Runs up to `num_steps` steps and appends what happened.
fn play(scheduler: &mut Scheduler, step: &mut u64, num_steps: u64, updates: &mut Vec<Update>) {
    let (mut batch, mut output) = (Batch::new(), BatchOutput::default());
    for _ in 0..num_steps {
        if scheduler.plan(StepId(*step), &mut batch) == Planned::Idle {
            return;
        }
        output.clear();
        for row in &batch.rows {
            let start = output.tokens.len() as u32;
            output.tokens.extend(row.sample.then_some(7));
            output.rows.push(RowOutput { tokens: start..output.tokens.len() as u32, ..RowOutput::default() });
        }
        scheduler.complete(StepId(*step), &output, updates);
        scheduler.check_invariants();
        *step += 1;
    }
}

fn ends(updates: &[Update]) -> Vec<u64> {
    let end = |update: &Update| if let Update::Finished { id, .. } = update { Some(id.0) } else { None };
    updates.iter().filter_map(end).collect()
}

#[test]
fn the_policy_decides_who_comes_first() {
    // Tenant, priority and output tokens of the requests 0, 1, 2 …, which come in this order, one place for all.
    let crowd = [(1, 0, 4), (1, 0, 4), (1, 0, 4), (2, 0, 4), (2, -1, 4), (3, 5, 4), (2, 0, 4)];
    for (policy, expected) in [
        (Policy::FirstCome, [0, 1, 2, 3, 4, 5, 6]),
        (Policy::Priority, [5, 0, 1, 2, 3, 6, 4]),
        // The tenants 1 and 2 take turns once the urgent one is through; the lowest priority is last.
        (Policy::Fair, [5, 0, 3, 1, 6, 2, 4]),
    ] {
        let mut scheduler = Scheduler::new(SchedulerConfig { policy, ..CONFIG }).unwrap();
        for (id, &(tenant, priority, max_tokens)) in (0..).zip(&crowd) {
            scheduler.submit(request(id, tenant, priority, 8, max_tokens)).unwrap();
        }
        let mut updates = Vec::new();
        play(&mut scheduler, &mut 0, 1000, &mut updates);
        assert_eq!(ends(&updates), expected, "{policy:?}");
    }
}

#[test]
fn a_flood_takes_no_more_than_its_share() {
    // One tenant leaves 200 requests at once; the other's come one after another, each after the end of the one before,
    // and are three times as long. Each is to get half of the service while both are there.
    let config = SchedulerConfig { policy: Policy::Fair, max_batch_rows: 2, ..CONFIG };
    let mut scheduler = Scheduler::new(config).unwrap();
    (0..200).for_each(|id| scheduler.submit(request(id, 1, 0, 8, 8)).unwrap());
    (1000..1003).for_each(|id| scheduler.submit(request(id, 2, 0, 8, 24)).unwrap());
    let (mut step, mut next, mut served) = (0, 1003, [0_u32; 2]);
    for _ in 0..300 {
        let mut updates = Vec::new();
        play(&mut scheduler, &mut step, 1, &mut updates);
        for update in &updates {
            match update {
                Update::Token { id, .. } => served[usize::from(id.0 >= 1000)] += 1,
                Update::Finished { id, .. } if id.0 >= 1000 => {
                    scheduler.submit(request(next, 2, 0, 8, 24)).unwrap();
                    next += 1;
                }
                _ => {}
            }
        }
    }
    // A prompt token weighs half of a generated one: 8 + 16 for a short request, 8 + 48 for a long one.
    let service = [served[0] * 24 / 8, served[1] * 56 / 24];
    assert!(service[0].abs_diff(service[1]) < 150, "{served:?} tokens, which is {service:?} of service");
    assert!(served[0] + served[1] > 550, "two rows were busy for 300 steps");
}

#[test]
fn a_tenant_that_comes_back_has_saved_up_nothing() {
    let mut scheduler = Scheduler::new(SchedulerConfig { policy: Policy::Fair, ..CONFIG }).unwrap();
    (0..60).for_each(|id| scheduler.submit(request(id, 1, 0, 8, 4)).unwrap());
    let (mut step, mut updates) = (0, Vec::new());
    play(&mut scheduler, &mut step, 160, &mut updates);
    assert_eq!(ends(&updates).len(), 40);
    (100..120).for_each(|id| scheduler.submit(request(id, 2, 0, 8, 4)).unwrap());
    updates.clear();
    play(&mut scheduler, &mut step, 40, &mut updates);
    let num_late = ends(&updates).iter().filter(|&&id| id >= 100).count();
    assert!((4..=6).contains(&num_late), "{num_late} of ten are the late one's");
}

#[test]
fn the_less_entitled_make_way_and_are_not_thrown_out_over_and_over() {
    // The urgent one comes last and grows to fill most of the pool.
    let config = SchedulerConfig { policy: Policy::Priority, max_batch_rows: 8, num_blocks: 24, ..CONFIG };
    let mut scheduler = Scheduler::new(config).unwrap();
    (0..6).for_each(|id| scheduler.submit(request(id, 0, 0, 8, 40)).unwrap());
    let (mut step, mut updates) = (0, Vec::new());
    play(&mut scheduler, &mut step, 1, &mut updates);
    scheduler.submit(request(9, 0, 1, 8, 80)).unwrap();
    play(&mut scheduler, &mut step, 5000, &mut updates);
    let preemptions = |wanted: u64| {
        let end = |update: &Update| match update {
            Update::Finished { id, usage, .. } if id.0 == wanted => Some(usage.preemptions),
            _ => None,
        };
        updates.iter().find_map(end).expect("all end")
    };
    assert_eq!(preemptions(9), 0, "the urgent one is never the one to go");
    assert!(preemptions(5) > 0, "the pool is too small for all");
    let total: u32 = (0..6).map(preemptions).sum();
    assert!(total <= 12, "{total} preemptions of six requests");
}

#[test]
fn the_cheapest_in_a_hurry_takes_the_turns_of_those_in_a_hurry() {
    // Priority and prompt tokens of the requests 0, 1, 2 …; a negative number of tokens is of one that can wait.
    let check = |crowd: &[(i32, i32)], expected: &[u64]| {
        let mut scheduler = Scheduler::new(SchedulerConfig { policy: Policy::Priority, ..CONFIG }).unwrap();
        for (id, &(priority, num_tokens)) in (0..).zip(crowd) {
            let request = match u32::try_from(num_tokens) {
                Ok(num_tokens) => hurried(id, priority, num_tokens),
                Err(_) => request(id, 0, priority, num_tokens.unsigned_abs(), 1),
            };
            scheduler.submit(request).unwrap();
        }
        let mut updates = Vec::new();
        play(&mut scheduler, &mut 0, 1000, &mut updates);
        assert_eq!(ends(&updates), expected, "{crowd:?}");
    };
    check(&[(0, -20), (0, -8), (0, -4)], &[0, 1, 2]);
    check(&[(0, 20), (0, 8), (0, 4)], &[2, 1, 0]);
    // Two that need as many blocks come in their order.
    check(&[(0, 20), (0, 8), (0, 5)], &[1, 2, 0]);
    // Whoever can wait has its turn after the turns of those that came before, whoever took them.
    check(&[(0, 20), (0, -4), (0, 8), (0, 4)], &[3, 2, 0, 1]);
    check(&[(0, -20), (0, 20), (0, -4), (0, 4)], &[0, 3, 1, 2]);
    check(&[(0, 4), (1, 20), (1, 8)], &[2, 1, 0]);
}

#[test]
fn what_is_cached_costs_nothing() {
    let mut scheduler = Scheduler::new(SchedulerConfig { prefix_caching: PrefixCaching::On, ..CONFIG }).unwrap();
    let (mut step, mut updates) = (0, Vec::new());
    scheduler.submit(hurried(7, 0, 32)).unwrap();
    play(&mut scheduler, &mut step, 1, &mut updates);
    let again = NewRequest { id: RequestId(1), ..hurried(7, 0, 32) };
    for request in [hurried(0, 0, 8), again] {
        scheduler.submit(request).unwrap();
    }
    play(&mut scheduler, &mut step, 100, &mut updates);
    assert_eq!(ends(&updates), [7, 1, 0], "one block of the long prompt is to be computed, and two of the short one");
}

#[test]
fn a_flood_in_a_hurry_starves_nobody() {
    // Cheap ones in a hurry come for ever, more than can be served, behind a costly one with a far deadline and one that can
    // wait.
    let mut scheduler = Scheduler::new(CONFIG).unwrap();
    for request in [hurried(0, 0, 60), request(1, 0, 0, 60, 1)] {
        scheduler.submit(request).unwrap();
    }
    let (mut step, mut updates) = (0, Vec::new());
    for id in 2..400 {
        scheduler.submit(hurried(id, 0, 4)).unwrap();
        play(&mut scheduler, &mut step, 1, &mut updates);
    }
    let num_before = |wanted| ends(&updates).iter().position(|&id| id == wanted).expect("it had its turn");
    assert_eq!((num_before(0), num_before(1)), (100, 101));
}
