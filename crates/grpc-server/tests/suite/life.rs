//! How calls and the server end before their time.

use std::time::Duration;

use grpc_server::{ServeError, ServeOptions};
use inference_proto::v1::{AbortRequest, FinishReason, GenerateRequest};
use serving_types::StepId;
use sim::Faults;
use tonic::{Code, Request, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::served::{Received, Served, request};
use crate::support::Setup;

/// Answers take a second at least.
async fn slow() -> Served {
    slow_with(ServeOptions::default()).await
}

async fn slow_with(options: ServeOptions) -> Served {
    let served = Served::with_options(Setup::default(), options).await;
    served.fixture.pace.slow(Duration::from_millis(1));
    served
}

fn health_request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// The next change that a watch tells of; `None` if it has ended.
async fn next_status(watch: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    watch.message().await.unwrap().map(|response| response.status())
}

#[tokio::test]
async fn dropped_streams_free_their_blocks() {
    let mut served = slow().await;
    let mut stream = served.client.generate(request(4000)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    drop(stream);
    served.fixture.idle().await;
    let stats = served.fixture.generator.stats();
    assert_eq!(stats.finished_requests, 1);
    assert!(stats.output_tokens < 4000, "{stats:?}");
}

#[tokio::test]
async fn aborted_streams_end_with_cancelled() {
    let mut served = slow().await;
    let mut other = served.client.clone();
    let response = served.client.generate(request(4000)).await.unwrap();
    let request_id = response.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    let abort = |request_id: &str| AbortRequest { request_id: request_id.to_owned() };
    assert!(!other.abort(abort("other")).await.unwrap().into_inner().found);
    assert!(other.abort(abort(&request_id)).await.unwrap().into_inner().found);
    let received = Received::read(response.into_inner()).await;
    assert_eq!(received.finished[0].finish_reason(), FinishReason::Cancelled);
    assert_eq!(received.status.unwrap().code(), Code::Cancelled);
    served.fixture.idle().await;
}

#[tokio::test]
async fn deadlines_end_streams_with_the_tokens_so_far() {
    let mut served = slow().await;
    // Set as a header only: this client would not end the stream by itself.
    let mut with_timeout = Request::new(GenerateRequest { n: Some(2), ..request(4000) });
    with_timeout.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let received = Received::read(served.client.generate(with_timeout).await.unwrap().into_inner()).await;
    assert_eq!(received.status.as_ref().unwrap().code(), Code::DeadlineExceeded, "{:?}", received.status);
    assert_eq!(received.finished.len(), 2);
    for finished in &received.finished {
        assert_eq!(finished.finish_reason(), FinishReason::Deadline);
        assert_eq!(finished.usage.unwrap().output_tokens as usize, received.tokens_of(finished.index).len());
    }
    served.fixture.idle().await;
}

#[tokio::test]
async fn a_lost_device_ends_streams_and_shows_in_the_health() {
    let faults = Faults { device_loss: Some(StepId(5)), ..Faults::default() };
    let mut served = Served::new(Setup { faults, ..Setup::default() }).await;
    let mut health = HealthClient::new(served.channel.clone());
    let unknown = health.check(health_request("other")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    for service in ["", "pagewise.v1.Inference"] {
        let status = health.check(health_request(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
    }
    let mut watch = health.watch(health_request("")).await.unwrap().into_inner();
    assert_eq!(next_status(&mut watch).await, Some(ServingStatus::Serving));

    let received = Received::read(served.client.generate(request(100)).await.unwrap().into_inner()).await;
    assert_eq!(received.finished[0].finish_reason(), FinishReason::Error);
    assert!(received.finished[0].error.contains("loss"), "{received:?}");
    assert_eq!(received.status.unwrap().code(), Code::Unavailable);

    assert_eq!(next_status(&mut watch).await, Some(ServingStatus::NotServing));
    let status = served.client.generate(request(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let result = served.shut_down().await.unwrap();
    assert!(matches!(result, Err(ServeError::Engine(cause)) if cause.contains("loss")));
    assert_eq!(next_status(&mut watch).await, None, "watches do not hold up the shutdown");
}

#[tokio::test]
async fn faults_of_one_answer_are_internal_errors() {
    let faults = Faults { row_fault: 1000, ..Faults::default() };
    let mut served = Served::new(Setup { faults, ..Setup::default() }).await;
    let received = Received::read(served.client.generate(request(100)).await.unwrap().into_inner()).await;
    let status = received.status.unwrap();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status.message(), received.finished[0].error);
}

#[tokio::test]
async fn shutdown_lets_streams_finish_and_takes_no_more() {
    let mut served = slow().await;
    let mut client = served.client.clone();
    let mut health = HealthClient::new(served.channel.clone());
    let mut stream = served.client.generate(request(300)).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let pace = std::sync::Arc::clone(&served.fixture.pace);
    pace.hold();
    let server = served.shut_down();
    let mut watch = health.watch(health_request("")).await.unwrap().into_inner();
    while next_status(&mut watch).await != Some(ServingStatus::NotServing) {}
    assert_eq!(client.generate(request(1)).await.unwrap_err().code(), Code::Unavailable);
    pace.release();
    let received = Received::read(stream).await;
    assert!(received.status.is_none(), "{received:?}");
    assert_eq!(received.finished[0].finish_reason(), FinishReason::Length);
    drop((client, health, watch));
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_cancels_what_takes_too_long() {
    let mut served = slow_with(ServeOptions { drain_timeout: Duration::ZERO, ..ServeOptions::default() }).await;
    let mut stream = served.client.generate(request(4000)).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let server = served.shut_down();
    let received = Received::read(stream).await;
    assert_eq!(received.finished[0].finish_reason(), FinishReason::Cancelled);
    assert_eq!(received.status.unwrap().code(), Code::Unavailable);
    server.await.unwrap().unwrap();
}
