//! A client of the package pagewise.v1. Knows no workload.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use inference_proto::v1::generate_request::Input;
use inference_proto::v1::generate_response::Event;
use inference_proto::v1::inference_client::InferenceClient;
use inference_proto::v1::{
    FinishReason, Finished, GenerateRequest, GetModelInfoRequest, GetServerInfoRequest, SamplingParams, TokenIds,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::answer::{Failure, Outcome, Reader, Wish};
use super::server::{About, Protocol, Question};

/// Several connections, used in turn: one alone is a queue of its own when many answers stream at once.
pub(super) struct Client {
    connections: Vec<InferenceClient<Channel>>,
    next: AtomicUsize,
}

impl Client {
    pub(super) async fn connect(url: &str, num_connections: usize) -> Result<(Self, About)> {
        let mut connections = Vec::with_capacity(num_connections);
        for _ in 0..num_connections {
            let channel = Endpoint::from_shared(url.to_string())?.connect().await;
            connections.push(InferenceClient::new(channel.with_context(|| format!("cannot reach {url}"))?));
        }
        let first = connections.first_mut().context("there must be a connection")?;
        let model = first.get_model_info(GetModelInfoRequest {}).await?.into_inner();
        let server = first.get_server_info(GetServerInfoRequest {}).await?.into_inner();
        let about = About {
            protocol: Protocol::Grpc,
            model: model.name,
            version: Some(format!("{} on {}", server.version, server.device)),
            vocab_size: Some(model.vocab_size),
        };
        Ok((Self { connections, next: AtomicUsize::new(0) }, about))
    }

    pub(super) async fn ask(&self, question: &Question<'_>, reader: &mut Reader<'_>) -> Result<Outcome, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let mut client = self.connections[number].clone();
        let mut request = Request::new(message(question));
        if let Some(time_left) = question.time_left {
            request.set_timeout(time_left);
        }
        match read(&mut client, request, reader).await {
            Ok(Some(finished)) => end(&finished, question, reader),
            Ok(None) => Ok(Outcome::HungUp),
            Err(status) => failed(&status, question),
        }
    }
}

fn message(question: &Question<'_>) -> GenerateRequest {
    let sampling = SamplingParams {
        temperature: Some(0.0),
        max_tokens: Some(question.turn.output_tokens),
        ignore_eos: Some(true),
        ..SamplingParams::default()
    };
    GenerateRequest {
        input: Some(Input::TokenIds(TokenIds { ids: question.turn.prompt.clone() })),
        sampling: Some(sampling),
        cache_salt: (!question.tenant.is_empty()).then(|| question.tenant.to_string()),
        ..GenerateRequest::default()
    }
}

/// Reads to the last message, or until the reader hangs up.
async fn read(
    client: &mut InferenceClient<Channel>,
    request: Request<GenerateRequest>,
    reader: &mut Reader<'_>,
) -> Result<Option<Finished>, Status> {
    let mut stream = client.generate(request).await?.into_inner();
    let mut last = None;
    while let Some(response) = stream.message().await? {
        match response.event {
            Some(Event::Delta(delta)) if !delta.token_ids.is_empty() => {
                if reader.read(delta.token_ids.len() as u32) == Wish::HangUp {
                    return Ok(None);
                }
            }
            Some(Event::Finished(finished)) => last = Some(finished),
            Some(Event::Delta(_) | Event::PromptLogprobs(_)) | None => {}
        }
    }
    last.map(Some).ok_or_else(|| Status::unknown("the stream ended without a last message"))
}

fn end(finished: &Finished, question: &Question<'_>, reader: &mut Reader<'_>) -> Result<Outcome, Failure> {
    if let Some(usage) = finished.usage {
        reader.count(usage.prompt_tokens, usage.cached_tokens, usage.output_tokens);
    }
    match finished.finish_reason() {
        FinishReason::Length => Ok(reader.finish(question.turn.output_tokens)),
        reason => Err(Failure::new(reason.as_str_name(), &finished.error)),
    }
}

fn failed(status: &Status, question: &Question<'_>) -> Result<Outcome, Failure> {
    match status.code() {
        Code::DeadlineExceeded => Ok(Outcome::DeadlineMissed),
        // So the client's own library calls it when the time is over before the server answered at all.
        Code::Cancelled if question.time_left.is_some() => Ok(Outcome::DeadlineMissed),
        code => Err(Failure::new(format!("{code:?}"), status.message())),
    }
}
