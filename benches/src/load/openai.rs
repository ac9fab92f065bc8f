//! A client of OpenAI's completions, as llama.cpp's server and vLLM offer them: prompts as token ids, answers streamed as
//! server-sent events. Knows no workload.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, Uri, header};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};

use super::answer::{Failure, Outcome, Reader, Wish};
use super::server::{About, Protocol, Question};
use super::sse::Events;

/// Longest that a question beside the measured ones may take.
const SHORT: Duration = Duration::from_secs(10);

/// Most bytes of an answer that is not streamed.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Opens a connection for each request: some peers close one that has answered when the next request is on its way already,
/// and on loopback a new one costs a tenth of a millisecond.
pub(super) struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    completions: Uri,
    model: String,
}

/// The request's body. All but `ignore_eos` and `cache_salt` is OpenAI's own; those two are the peers'.
#[derive(Serialize)]
struct Completion<'a> {
    model: &'a str,
    prompt: &'a [u32],
    max_tokens: u32,
    temperature: f32,
    stream: bool,
    stream_options: StreamOptions,
    ignore_eos: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    cache_salt: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// An event of the answer, as far as it matters.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: String,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_tokens_details: Option<PromptTokensDetails>,
}

#[derive(Deserialize)]
struct PromptTokensDetails {
    cached_tokens: Option<u32>,
}

impl Client {
    pub(super) async fn connect(url: &str) -> Result<(Self, About)> {
        let base = url.trim_end_matches('/');
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        let completions = format!("{base}/v1/completions").parse().with_context(|| format!("the address {url}"))?;
        let mut client = Self { http, completions, model: String::new() };
        // While they load, the peers answer 503 here, and some of them already list their model.
        let (status, _) = client.get(&format!("{base}/health")).await?;
        if status.is_server_error() {
            bail!("{url} is not ready (HTTP {})", status.as_u16());
        }
        let (status, body) = client.get(&format!("{base}/v1/models")).await?;
        let models: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let model = models["data"][0]["id"].as_str();
        client.model = model.with_context(|| format!("{url} lists no model (HTTP {})", status.as_u16()))?.to_string();
        let about = About { protocol: Protocol::Openai, model: client.model.clone(), version: None, vocab_size: None };
        Ok((client, about))
    }

    async fn get(&self, url: &str) -> Result<(StatusCode, Bytes)> {
        let request = Request::builder().uri(url).body(Full::default())?;
        let answer = async {
            let response = self.http.request(request).await?;
            let status = response.status();
            let body = http_body_util::Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
            Ok::<_, anyhow::Error>((status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
        };
        tokio::time::timeout(SHORT, answer)
            .await
            .ok()
            .with_context(|| format!("{url} does not answer"))?
            .with_context(|| format!("cannot reach {url}"))
    }

    pub(super) async fn ask(&self, question: &Question<'_>, reader: &mut Reader<'_>) -> Result<Outcome, Failure> {
        let response = self.http.request(self.request(question)).await;
        let response = response.map_err(|error| Failure::new("connection", chain(&error)))?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        read(response.into_body(), question.turn.output_tokens, reader).await
    }

    fn request(&self, question: &Question<'_>) -> Request<Full<Bytes>> {
        let body = Completion {
            model: &self.model,
            prompt: &question.turn.prompt,
            max_tokens: question.turn.output_tokens,
            temperature: 0.0,
            stream: true,
            stream_options: StreamOptions { include_usage: true },
            ignore_eos: true,
            cache_salt: question.tenant,
        };
        let body = serde_json::to_vec(&body).expect("numbers and strings are JSON");
        Request::builder()
            .method(Method::POST)
            .uri(self.completions.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .expect("the address was checked")
    }
}

async fn refused(response: Response<Incoming>) -> Failure {
    let kind = format!("HTTP {}", response.status().as_u16());
    let body = http_body_util::Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
    let detail = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    Failure::new(kind, detail)
}

/// Reads to the end of the body, or until the reader hangs up.
async fn read(mut body: Incoming, output_tokens: u32, reader: &mut Reader<'_>) -> Result<Outcome, Failure> {
    let mut events = Events::default();
    let mut end = End::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::new("connection", chain(&error)))?;
        let Some(bytes) = frame.data_ref() else { continue };
        events.push(bytes).map_err(|_| Failure::new("unreadable", "an event that does not end"))?;
        while let Some(data) = events.next() {
            if end.take(&data, reader)? == Wish::HangUp {
                return Ok(Outcome::HungUp);
            }
        }
    }
    match end {
        End { is_counted: true, .. } => Ok(reader.finish(output_tokens)),
        // A server that does not count tokens is taken at its word that the answer is whole.
        End { is_finished: true, .. } => Ok(Outcome::Complete),
        End { .. } => Err(Failure::new("broken off", "the stream ended without a finish reason")),
    }
}

/// What an answer has said of its end so far.
#[derive(Default)]
struct End {
    is_finished: bool,
    is_counted: bool,
}

impl End {
    fn take(&mut self, data: &str, reader: &mut Reader<'_>) -> Result<Wish, Failure> {
        if data == "[DONE]" {
            return Ok(Wish::More);
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|error| Failure::new("unreadable", error.to_string()))?;
        if let Some(error) = chunk.error {
            return Err(Failure::new("error event", error.to_string()));
        }
        let mut wish = Wish::More;
        if let Some(choice) = chunk.choices.first() {
            self.is_finished |= choice.finish_reason.is_some();
            // A token's text may be empty; but an empty one with a finish reason is only the end.
            if choice.finish_reason.is_none() || !choice.text.is_empty() {
                wish = reader.read(1);
            }
        }
        if let Some(usage) = chunk.usage.filter(|usage| self.is_finished || usage.completion_tokens > 0) {
            // Some servers count along with every event; the last one holds.
            self.is_counted = true;
            let cached_tokens = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
            reader.count(usage.prompt_tokens, cached_tokens.unwrap_or(0), usage.completion_tokens);
        }
        Ok(wish)
    }
}

/// An error with its causes, in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
