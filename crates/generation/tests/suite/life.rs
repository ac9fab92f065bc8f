//! How requests end before their time, and what is left of them: nothing.

use std::time::Duration;

use generation::{
    DrainOutcome, FinishReason, GenerateError, GenerateRequest, GenerationEvent, Health, Input, SamplingOptions,
    SpecialTokens, TokenizeInput,
};
use serving_types::StepId;
use sim::Faults;

use crate::support::{Fixture, Setup};
use crate::transcript::Transcript;

/// Longer than any test.
fn endless() -> GenerateRequest {
    let sampling = SamplingOptions { max_tokens: Some(4000), ignore_eos: true, ..SamplingOptions::default() };
    GenerateRequest { sampling, ..GenerateRequest::new(Input::Tokens(vec![1, 2, 3, 4, 5, 6, 7, 8, 9])) }
}

/// A fixture whose answers take a second at least.
fn slow() -> Fixture {
    let fixture = Setup::default().build();
    fixture.pace.slow(Duration::from_millis(1));
    fixture
}

/// The reasons for which the answers of a request end.
async fn reasons(fixture: &Fixture, request: GenerateRequest) -> Vec<FinishReason> {
    let transcript = Transcript::read(fixture.generator.generate(request).await.unwrap()).await;
    transcript.answers.into_iter().map(|answer| answer.finished.unwrap().reason).collect()
}

#[tokio::test]
async fn dropped_streams_free_their_blocks() {
    let fixture = slow();
    let request = GenerateRequest { n: 4, request_id: Some("mine".into()), ..endless() };
    let mut stream = fixture.generator.generate(request).await.unwrap();
    assert_eq!((stream.request_id(), stream.num_prompt_tokens()), ("mine", 9));
    assert!(matches!(stream.next().await, Some(GenerationEvent::Delta(_))));
    drop(stream);
    fixture.idle().await;
    let stats = fixture.generator.stats();
    assert_eq!(stats.finished_requests, 4);
    assert!(stats.output_tokens < 4 * 4000, "{stats:?}");
    assert!(!fixture.generator.abort("mine"), "its id is free again");
}

#[tokio::test]
async fn aborted_requests_end() {
    let fixture = slow();
    let request = || GenerateRequest { n: 2, request_id: Some("mine".into()), ..endless() };
    let mut stream = fixture.generator.generate(request()).await.unwrap();
    stream.next().await;
    let twice = fixture.generator.generate(request()).await.err().unwrap();
    assert!(matches!(&twice, GenerateError::InvalidArgument { field: "request_id", .. }), "{twice}");

    assert!(!fixture.generator.abort("other"));
    assert!(fixture.generator.abort("mine"));
    let mut reasons = Vec::new();
    while let Some(event) = stream.next().await {
        if let GenerationEvent::Finished(finished) = event {
            reasons.push(finished.reason);
        }
    }
    assert_eq!(reasons, [FinishReason::Cancelled, FinishReason::Cancelled]);
    drop(stream);
    assert!(!fixture.generator.abort("mine"));
    fixture.idle().await;
}

#[tokio::test]
async fn deadlines_end_answers_with_what_they_have() {
    let fixture = slow();
    for timeout in [Duration::ZERO, Duration::from_millis(60)] {
        let request = GenerateRequest { timeout: Some(timeout), ..endless() };
        let transcript = Transcript::read(fixture.generator.generate(request).await.unwrap()).await;
        let answer = &transcript.answers[0];
        let finished = answer.finished.as_ref().unwrap();
        assert_eq!(finished.reason, FinishReason::Deadline);
        assert_eq!(finished.usage.output_tokens as usize, answer.delta.token_ids.len());
        assert_eq!(answer.delta.text, fixture.decode(&answer.delta.token_ids));
    }
    fixture.idle().await;
}

#[tokio::test]
async fn a_full_queue_takes_all_answers_or_none() {
    let fixture = Setup { max_requests: 3, ..Setup::default() }.build();
    fixture.pace.hold();
    let request = |n| GenerateRequest { n, ..endless() };
    let held = fixture.generator.generate(request(2)).await.unwrap();
    assert_eq!(fixture.generator.generate(request(2)).await.err(), Some(GenerateError::Busy));
    drop(held);
    fixture.pace.release();
    // Two that were held, and one of the refused request that was taken and given up again.
    fixture.until(|fixture| fixture.generator.stats().finished_requests == 3).await;
    assert!(fixture.generator.generate(request(3)).await.is_ok(), "all places are free again");
}

#[tokio::test]
async fn calls_under_way_are_bounded() {
    let fixture = Setup { max_requests: 2, ..Setup::default() }.build();
    let short = || GenerateRequest { sampling: SamplingOptions::default(), ..endless() };
    let unread =
        [fixture.generator.generate(short()).await.unwrap(), fixture.generator.generate(short()).await.unwrap()];
    // The engine is done with them. What they hold is still here, until they are dropped.
    fixture.until(|fixture| fixture.generator.stats().finished_requests == 2).await;
    assert_eq!(fixture.generator.generate(short()).await.err(), Some(GenerateError::Busy));
    let text = || TokenizeInput::Text("hi".into(), SpecialTokens::Add);
    assert_eq!(fixture.generator.tokenize(text()).await, Err(GenerateError::Busy));
    drop(unread);
    assert_eq!(fixture.generator.tokenize(text()).await.map(|tokens| tokens.len()), Ok(2));
    assert!(fixture.generator.generate(short()).await.is_ok());
}

#[tokio::test]
async fn slow_callers_get_few_and_bounded_deltas() {
    let fixture = Setup::default().build();
    let request = GenerateRequest { n: 2, ..endless() };
    let stream = fixture.generator.generate(request).await.unwrap();
    fixture.until(|fixture| fixture.generator.stats().finished_requests == 2).await;
    let transcript = Transcript::read(stream).await;
    assert!(transcript.answers.iter().all(|answer| answer.delta.token_ids.len() == 4000));
    // 4,000 tokens in deltas of at most 256 each.
    assert_eq!(transcript.num_deltas, 2 * 16);
}

#[tokio::test]
async fn drains_end_every_stream() {
    let fixture = slow();
    let stream = fixture.generator.generate(endless()).await.unwrap();
    fixture.until(|fixture| fixture.generator.stats().output_tokens > 0).await;
    let outcome = fixture.generator.drain(Duration::ZERO).await;
    assert_eq!(outcome, DrainOutcome::Cancelled { num_requests: 1 });
    let transcript = Transcript::read(stream).await;
    assert_eq!(transcript.answers[0].finished.as_ref().unwrap().reason, FinishReason::Cancelled);
    assert_ne!(fixture.generator.health(), Health::Serving);
    assert_eq!(fixture.generator.generate(endless()).await.err(), Some(GenerateError::ShuttingDown));
}

#[tokio::test]
async fn failures_are_told() {
    let faulty = Setup { faults: Faults { row_fault: 1000, ..Faults::default() }, ..Setup::default() }.build();
    let reasons_of_fault = reasons(&faulty, endless()).await;
    assert!(matches!(&reasons_of_fault[..], [FinishReason::Failed(cause)] if cause.contains("not finite")));
    assert_eq!(faulty.generator.health(), Health::Serving);

    let lost =
        Setup { faults: Faults { device_loss: Some(StepId(3)), ..Faults::default() }, ..Setup::default() }.build();
    lost.pace.hold(); // So that the device is there when the second answer is submitted.
    let stream = lost.generator.generate(GenerateRequest { n: 2, ..endless() }).await.unwrap();
    lost.pace.release();
    for answer in Transcript::read(stream).await.answers {
        let reason = answer.finished.unwrap().reason;
        assert!(matches!(&reason, FinishReason::Failed(cause) if cause.contains("loss")), "{reason:?}");
    }
    assert!(matches!(lost.generator.health(), Health::Failed(_)));
    assert!(matches!(lost.generator.generate(endless()).await.err(), Some(GenerateError::DeviceLost(_))));
}

#[tokio::test]
async fn tokens_beyond_the_vocabulary_have_no_text() {
    // The model has more rows than the tokenizer has tokens.
    let mut setup = Setup::default();
    setup.limits.vocab_size = 200;
    let fixture = setup.build();
    let transcript = Transcript::read(fixture.generator.generate(endless()).await.unwrap()).await;
    let answer = &transcript.answers[0];
    assert_eq!(answer.finished.as_ref().unwrap().reason, FinishReason::Length);
    let (known, unknown): (Vec<_>, Vec<_>) = answer.delta.token_ids.iter().partition(|token| **token < 100);
    assert!(!unknown.is_empty());
    assert_eq!(answer.delta.text, fixture.decode(&known));
}
