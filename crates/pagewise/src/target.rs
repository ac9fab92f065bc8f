//! Who answers: an engine in this process, or a server over gRPC. Makes both look the same to the commands that talk;
//! knows no terminal.

use anyhow::{Context, Result, bail};
use generation::{
    ChatMessage, FinishReason, GenerateRequest, GenerationEvent, GenerationStream, Generator, Input, SamplingOptions,
};
use inference_proto::v1;
use inference_proto::v1::generate_request::Input as ProtoInput;
use inference_proto::v1::generate_response::Event as ProtoEvent;
use inference_proto::v1::inference_client::InferenceClient;
use serving_types::Usage;
use tonic::transport::{Channel, Endpoint};

use crate::cli::{AnswerArgs, EngineArgs, SamplingArgs};
use crate::wiring::{self, StopAtEnd};

/// An engine that answers.
pub(crate) enum Target {
    /// In this process, on this device.
    Here { generator: Generator, device: String, _stop: StopAtEnd },
    /// Behind a connection.
    Server(InferenceClient<Channel>),
}

/// One answer, as it comes.
pub(crate) enum Answer {
    /// From this process.
    Here(GenerationStream),
    /// From a server.
    Server(Box<tonic::Streaming<v1::GenerateResponse>>),
}

/// A piece of an answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    /// Text that has become certain, and how many tokens came with it.
    Text(String, usize),
    /// The end.
    End(End),
    /// The end of an answer that is not complete, and why.
    Failed(String),
}

/// How an answer ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Why, for people: "stop token 2", "length" …
    pub(crate) reason: String,
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) output_tokens: u32,
}

/// What the engine behind a target looks like.
pub(crate) struct EngineFigures {
    pub(crate) device: String,
    pub(crate) block_size: u32,
    pub(crate) num_blocks: u32,
    pub(crate) memory: Vec<(String, u64)>,
}

const CANCELLED: &str = "it was cancelled";
const DEADLINE: &str = "its time was up";

impl Target {
    /// Connects, or loads the model here.
    pub(crate) async fn open(answer: &AnswerArgs, engine: &EngineArgs) -> Result<Self> {
        match &answer.connect {
            None => {
                let started = wiring::start(engine)?;
                let (generator, _stop) = (started.generator()?, started.stop_at_end());
                Ok(Self::Here { generator, device: started.model.device, _stop })
            }
            Some(url) => Ok(Self::Server(connect(url).await?)),
        }
    }

    /// Asks. The first piece may take as long as the prompt.
    pub(crate) async fn generate(
        &mut self,
        input: Input,
        sampling: &SamplingArgs,
        seed: Option<u64>,
    ) -> Result<Answer> {
        Ok(match self {
            Self::Here { generator, .. } => {
                let mut request = GenerateRequest::new(input);
                request.stop.clone_from(&sampling.stop);
                request.sampling = options(sampling, seed);
                Answer::Here(generator.generate(request).await?)
            }
            Self::Server(client) => {
                let response = client.generate(proto_request(input, sampling, seed)).await;
                Answer::Server(Box::new(response.map_err(|status| explain(&status))?.into_inner()))
            }
        })
    }

    /// What answers, for a summary.
    pub(crate) async fn figures(&mut self) -> Result<EngineFigures> {
        match self {
            Self::Here { generator, device, .. } => Ok(EngineFigures {
                device: device.clone(),
                block_size: generator.limits().block_size,
                num_blocks: generator.limits().num_blocks,
                memory: generator.memory().iter().map(|entry| (entry.name.to_string(), entry.bytes)).collect(),
            }),
            Self::Server(client) => {
                let response = client.get_server_info(v1::GetServerInfoRequest {}).await;
                let info = response.map_err(|status| explain(&status))?.into_inner();
                Ok(EngineFigures {
                    device: info.device,
                    block_size: info.block_size,
                    num_blocks: info.num_blocks,
                    memory: info.memory.into_iter().map(|entry| (entry.name, entry.bytes)).collect(),
                })
            }
        }
    }
}

impl Answer {
    /// The next piece; `None` after the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let piece = match self {
                Self::Here(stream) => match stream.next().await {
                    None => return Ok(None),
                    Some(event) => piece_here(event),
                },
                Self::Server(stream) => match stream.message().await.map_err(|status| explain(&status))? {
                    None => return Ok(None),
                    Some(response) => piece_of_server(response)?,
                },
            };
            if piece.is_some() {
                return Ok(piece);
            }
        }
    }
}

fn piece_here(event: GenerationEvent) -> Option<Piece> {
    let finished = match event {
        GenerationEvent::PromptLogprobs(_) => return None,
        GenerationEvent::Delta(delta) => return Some(Piece::Text(delta.text, delta.token_ids.len())),
        GenerationEvent::Finished(finished) => finished,
    };
    let reason = match finished.reason {
        FinishReason::StopString(text) => format!("stop string {text:?}"),
        FinishReason::StopToken(token) => format!("stop token {token}"),
        FinishReason::Length => "length".to_string(),
        FinishReason::Cancelled => return Some(Piece::Failed(CANCELLED.to_string())),
        FinishReason::Deadline => return Some(Piece::Failed(DEADLINE.to_string())),
        FinishReason::Failed(cause) => return Some(Piece::Failed(cause)),
    };
    let Usage { prompt_tokens, cached_tokens, output_tokens, .. } = finished.usage;
    Some(Piece::End(End { reason, prompt_tokens, cached_tokens, output_tokens }))
}

fn piece_of_server(response: v1::GenerateResponse) -> Result<Option<Piece>> {
    use v1::finished::MatchedStop;
    Ok(match response.event {
        None => bail!("the server sent a message without an event"),
        Some(ProtoEvent::PromptLogprobs(_)) => None,
        Some(ProtoEvent::Delta(delta)) => Some(Piece::Text(delta.text, delta.token_ids.len())),
        Some(ProtoEvent::Finished(finished)) => {
            let reason = match (finished.finish_reason(), finished.matched_stop) {
                (_, Some(MatchedStop::Stop(text))) => format!("stop string {text:?}"),
                (_, Some(MatchedStop::StopTokenId(token))) => format!("stop token {token}"),
                (v1::FinishReason::Length, None) => "length".to_string(),
                (v1::FinishReason::Cancelled, None) => return Ok(Some(Piece::Failed(CANCELLED.to_string()))),
                (v1::FinishReason::Deadline, None) => return Ok(Some(Piece::Failed(DEADLINE.to_string()))),
                (v1::FinishReason::Error, None) => return Ok(Some(Piece::Failed(finished.error))),
                (v1::FinishReason::Stop | v1::FinishReason::Unspecified, None) => "stop".to_string(),
            };
            let v1::Usage { prompt_tokens, cached_tokens, output_tokens, .. } = finished.usage.unwrap_or_default();
            Some(Piece::End(End { reason, prompt_tokens, cached_tokens, output_tokens }))
        }
    })
}

async fn connect(url: &str) -> Result<InferenceClient<Channel>> {
    let with_scheme = if url.contains("://") { url.to_string() } else { format!("http://{url}") };
    let endpoint = Endpoint::from_shared(with_scheme).with_context(|| format!("{url} is no address"))?;
    if endpoint.uri().scheme_str() == Some("https") {
        bail!("{url}: this client speaks plain http; put a TLS proxy between");
    }
    let channel = endpoint.connect().await.with_context(|| format!("cannot reach a server at {url}"))?;
    Ok(InferenceClient::new(channel))
}

/// A refusal in the server's own words, with the code as the protocol writes it: `INVALID_ARGUMENT`.
fn explain(status: &tonic::Status) -> anyhow::Error {
    let mut code = String::new();
    for letter in format!("{:?}", status.code()).chars() {
        if letter.is_uppercase() && !code.is_empty() {
            code.push('_');
        }
        code.push(letter.to_ascii_uppercase());
    }
    anyhow::anyhow!("the server says {code}: {}", status.message())
}

fn options(sampling: &SamplingArgs, seed: Option<u64>) -> SamplingOptions {
    SamplingOptions {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        seed,
        max_tokens: sampling.max_tokens,
        min_tokens: sampling.min_tokens,
        stop_token_ids: sampling.stop_token_ids.clone(),
        ignore_eos: sampling.ignore_eos,
        ..SamplingOptions::default()
    }
}

fn proto_request(input: Input, sampling: &SamplingArgs, seed: Option<u64>) -> v1::GenerateRequest {
    let chat_message = |message: ChatMessage| v1::ChatMessage { role: message.role, content: message.content };
    let input = match input {
        Input::Text(text) => ProtoInput::Text(text),
        Input::Chat(messages) => {
            ProtoInput::Chat(v1::Chat { messages: messages.into_iter().map(chat_message).collect() })
        }
        Input::Tokens(ids) => ProtoInput::TokenIds(v1::TokenIds { ids }),
    };
    v1::GenerateRequest {
        input: Some(input),
        sampling: Some(v1::SamplingParams {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed,
            max_tokens: sampling.max_tokens,
            min_tokens: sampling.min_tokens,
            stop_token_ids: sampling.stop_token_ids.clone(),
            ignore_eos: sampling.ignore_eos.then_some(true),
            ..v1::SamplingParams::default()
        }),
        stop: sampling.stop.clone(),
        ..v1::GenerateRequest::default()
    }
}
