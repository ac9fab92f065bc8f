//! The driver with real threads: bounds, cancels, ends and failures as a client meets them.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use common::{MAX_REQUESTS, MODEL, held_engine, read, request, running_engine, submit, wait_until};
use engine::{DrainOutcome, Engine, Event, Health, SubmitError};
use serving_types::{FinishReason, SamplingParams, StepId};
use sim::Faults;

fn wait_until_empty(engine: &Engine) {
    wait_until("all blocks come back", || {
        let stats = engine.stats();
        (stats.num_waiting, stats.num_running, stats.blocks_active, stats.blocks_in_transit) == (0, 0, 0, 0)
    });
    let stats = engine.stats();
    assert_eq!(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
}

#[test]
fn many_threads_get_what_they_get_alone() {
    let engine = running_engine(Faults::default());
    thread::scope(|scope| {
        for client in 0..MAX_REQUESTS as u32 {
            let engine = &engine;
            scope.spawn(move || {
                for turn in 0..20 {
                    let prompt: Vec<u32> = (0..client * 5 + turn + 1).map(|token| token % 7).collect();
                    let (tokens, reason, usage) = read(submit(engine, &prompt, 12).unwrap());
                    let sampling = SamplingParams { max_tokens: 12, ..SamplingParams::default() };
                    let alone = MODEL.complete(&prompt, &sampling, engine.limits().max_model_len);
                    assert_eq!((tokens, reason), (alone.tokens, alone.reason));
                    assert_eq!((usage.prompt_tokens, usage.output_tokens), (prompt.len() as u32, 12));
                }
            });
        }
    });
    wait_until_empty(&engine);
    let stats = engine.stats();
    assert_eq!(stats.finished_requests, 20 * MAX_REQUESTS as u64);
    assert_eq!(stats.output_tokens, 12 * stats.finished_requests);
    assert!(stats.step_time >= stats.executor_time);
    assert!(stats.executor_time > Duration::ZERO);
}

#[test]
fn a_full_engine_is_busy_until_a_request_ends() {
    let (engine, permits) = held_engine(Faults::default());
    let handles: Vec<_> = (0..MAX_REQUESTS as u32).map(|nth| submit(&engine, &[nth], 3).unwrap()).collect();
    let busy = submit(&engine, &[9], 3).err();
    assert_eq!(busy, Some(SubmitError::Busy { max_requests: MAX_REQUESTS }));
    drop(permits);
    for handle in handles {
        assert_eq!(read(handle).1, FinishReason::Length);
    }
    assert_eq!(read(submit(&engine, &[9], 3).unwrap()).1, FinishReason::Length);
}

#[test]
fn a_refused_request_takes_no_place() {
    let engine = running_engine(Faults::default());
    for _ in 0..=MAX_REQUESTS {
        let refused = submit(&engine, &[], 3).err().unwrap();
        assert!(matches!(refused, SubmitError::Refused(_)), "{refused}");
    }
    assert_eq!(read(submit(&engine, &[1], 3).unwrap()).1, FinishReason::Length);
}

#[test]
fn a_dropped_handle_frees_its_blocks() {
    let (engine, permits) = held_engine(Faults::default());
    let mut handle = submit(&engine, &[1; 20], 100).unwrap();
    // The prompt and one decode; then the engine stands still.
    for _ in 0..2 {
        permits.send(()).unwrap();
    }
    assert!(matches!(handle.next_blocking(), Some(Event::Token { .. })));
    drop(handle);
    drop(permits);
    wait_until_empty(&engine);
    let stats = engine.stats();
    assert_eq!(stats.finished_requests, 1);
    assert!(stats.output_tokens < 100, "it did not run to its end");
}

#[test]
fn a_cancelled_stream_still_gets_its_end() {
    let (engine, permits) = held_engine(Faults::default());
    let handle = submit(&engine, &[1; 20], 100).unwrap();
    handle.cancel();
    let by_id = submit(&engine, &[2; 20], 100).unwrap();
    engine.cancel(by_id.id());
    drop(permits);
    for handle in [handle, by_id] {
        let (tokens, reason, usage) = read(handle);
        assert_eq!(reason, FinishReason::Cancelled);
        assert_eq!(usage.output_tokens as usize, tokens.len());
    }
    wait_until_empty(&engine);
}

#[test]
fn a_deadline_ends_a_stream() {
    let engine = running_engine(Faults::default());
    let late = engine::SubmitRequest { timeout: Some(Duration::ZERO), ..request(&engine, &[1], 3) };
    assert_eq!(read(engine.submit(late).unwrap()).1, FinishReason::Deadline);
    let in_time = engine::SubmitRequest { timeout: Some(Duration::from_secs(600)), ..request(&engine, &[1], 3) };
    assert_eq!(read(engine.submit(in_time).unwrap()).1, FinishReason::Length);
}

#[test]
fn a_stream_outlives_the_engine_handle() {
    let (engine, permits) = held_engine(Faults::default());
    let handle = submit(&engine, &[1; 9], 20).unwrap();
    drop((engine, permits));
    assert_eq!(read(handle).1, FinishReason::Length);
}

#[test]
fn the_prefix_cache_can_be_cleared() {
    let engine = running_engine(Faults::default());
    let mut cached = Vec::new();
    for clear_before in [false, false, true] {
        if clear_before {
            engine.clear_prefix_cache();
        }
        cached.push(read(submit(&engine, &[3; 21], 2).unwrap()).2.cached_tokens);
    }
    assert_eq!(cached, [0, 20, 0]);
}

#[test]
fn a_lost_engine_says_why_to_everyone() {
    for (faults, expected) in [
        (Faults { device_loss: Some(StepId(3)), ..Faults::default() }, "a fake loss"),
        (Faults { panic: Some(StepId(3)), ..Faults::default() }, "the engine panicked: a fake panic"),
    ] {
        let (engine, permits) = held_engine(faults);
        let handles: Vec<_> = (0..4).map(|nth| submit(&engine, &[nth; 9], 50).unwrap()).collect();
        drop(permits);
        for handle in handles {
            let (tokens, reason, usage) = read(handle);
            assert_eq!(reason, FinishReason::Failed(expected.into()));
            assert_eq!((usage.prompt_tokens, usage.output_tokens as usize), (9, tokens.len()));
        }
        assert_eq!(engine.health(), Health::Failed(expected.into()));
        assert_eq!(submit(&engine, &[1], 1).err(), Some(SubmitError::DeviceLost(expected.into())));
        assert_eq!(engine.drain(Duration::ZERO), DrainOutcome::Failed(expected.into()));
    }
}

#[test]
fn a_drain_ends_every_stream() {
    for (timeout, expected) in
        [(Duration::MAX, DrainOutcome::Finished), (Duration::ZERO, DrainOutcome::Cancelled { num_requests: 3 })]
    {
        let (engine, permits) = held_engine(Faults::default());
        assert_eq!(engine.health(), Health::Serving);
        let handles: Vec<_> = (0..3).map(|nth| submit(&engine, &[nth; 9], 50).unwrap()).collect();
        let drain = thread::spawn({
            let engine = engine.clone();
            move || engine.drain(timeout)
        });
        wait_until("the drain begins", || engine.health() != Health::Serving);
        assert_eq!(submit(&engine, &[1], 1).err(), Some(SubmitError::ShuttingDown));
        drop(permits);
        assert_eq!(drain.join().unwrap(), expected);
        let ends: Vec<_> = handles.into_iter().map(|handle| read(handle).1).collect();
        let end = if expected == DrainOutcome::Finished { FinishReason::Length } else { FinishReason::Cancelled };
        assert_eq!(ends, [end.clone(), end.clone(), end]);
        assert_eq!(engine.health(), Health::Stopped);
        assert_eq!(submit(&engine, &[1], 1).err(), Some(SubmitError::ShuttingDown));
        assert_eq!(engine.drain(timeout), expected, "asking again gives the same answer");
    }
}

#[test]
fn the_stream_can_be_awaited() {
    let engine = running_engine(Faults::default());
    let mut handle = submit(&engine, &[4; 9], 5).unwrap();
    let num_events = block_on(async move {
        let mut num_events = 0;
        while handle.next().await.is_some() {
            num_events += 1;
        }
        num_events
    });
    assert_eq!(num_events, 6);
}

/// Runs a future on this thread, which sleeps while the future waits.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
