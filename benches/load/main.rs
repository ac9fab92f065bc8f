//! A load generator over gRPC: a fixed number of requests, a fixed number of them under way at a time. Knows the protocol
//! and nothing behind it. Prints JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use benches::{draw_token_ids, percentiles_ms};
use clap::Parser;
use inference_proto::v1::generate_request::Input;
use inference_proto::v1::generate_response::Event;
use inference_proto::v1::inference_client::InferenceClient;
use inference_proto::v1::{FinishReason, GenerateRequest, GetModelInfoRequest, SamplingParams, TokenIds};
use tonic::transport::{Channel, Endpoint};

/// Measures a running server.
#[derive(Parser, Clone)]
struct Args {
    /// Where it listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    connect: String,
    /// Requests in all.
    #[arg(long, default_value_t = 32)]
    num_requests: u32,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 8)]
    max_concurrency: u32,
    /// Prompt tokens of a request.
    #[arg(long, default_value_t = 128)]
    input_len: usize,
    /// Output tokens of a request.
    #[arg(long, default_value_t = 64)]
    output_len: u32,
    /// Draws the prompts.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// One answer's times, counted from its own request.
struct Answered {
    /// When its messages came, and with how many tokens.
    at: Vec<(Duration, usize)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let channel = Endpoint::from_shared(args.connect.clone())?.connect().await;
    let mut client = InferenceClient::new(channel.with_context(|| format!("cannot reach {}", args.connect))?);
    let vocab_size = client.get_model_info(GetModelInfoRequest {}).await?.into_inner().vocab_size;

    let next = Arc::new(AtomicU32::new(0));
    let start = Instant::now();
    let clients: Vec<_> = (0..args.max_concurrency)
        .map(|_| tokio::spawn(ask_in_turn(client.clone(), args.clone(), vocab_size, Arc::clone(&next))))
        .collect();
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await??);
    }
    println!("{:#}", figures(&answers, start.elapsed()));
    Ok(())
}

/// One client: takes the next request until none is left.
async fn ask_in_turn(
    mut client: InferenceClient<Channel>,
    args: Args,
    vocab_size: u32,
    next: Arc<AtomicU32>,
) -> Result<Vec<Answered>> {
    let mut answers = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= args.num_requests {
            return Ok(answers);
        }
        let ids = draw_token_ids(args.input_len, vocab_size, args.seed ^ (u64::from(number) << 32));
        let answer = ask(&mut client, ids, args.output_len).await;
        answers.push(answer.with_context(|| format!("request {number}"))?);
    }
}

async fn ask(client: &mut InferenceClient<Channel>, ids: Vec<u32>, output_len: u32) -> Result<Answered> {
    let sampling = SamplingParams {
        temperature: Some(0.0),
        max_tokens: Some(output_len),
        ignore_eos: Some(true),
        ..SamplingParams::default()
    };
    let request = GenerateRequest {
        input: Some(Input::TokenIds(TokenIds { ids })),
        sampling: Some(sampling),
        ..GenerateRequest::default()
    };
    let asked = Instant::now();
    let mut stream = client.generate(request).await?.into_inner();
    let mut at = Vec::new();
    while let Some(response) = stream.message().await? {
        match response.event.context("a message without an event")? {
            Event::PromptLogprobs(_) => {}
            Event::Delta(delta) => at.push((asked.elapsed(), delta.token_ids.len())),
            Event::Finished(finished) if finished.finish_reason() == FinishReason::Length => {
                return Ok(Answered { at });
            }
            Event::Finished(finished) => bail!("it ended with {:?}", finished.finish_reason()),
        }
    }
    bail!("its stream ended without a last message")
}

fn figures(answers: &[Answered], elapsed: Duration) -> serde_json::Value {
    let seconds = elapsed.as_secs_f64();
    let output_tokens: usize = answers.iter().flat_map(|answer| &answer.at).map(|(_, tokens)| tokens).sum();
    let mut ttft: Vec<Duration> = answers.iter().filter_map(|answer| Some(answer.at.first()?.0)).collect();
    let mut gaps: Vec<Duration> =
        answers.iter().flat_map(|answer| answer.at.windows(2).map(|pair| pair[1].0 - pair[0].0)).collect();
    serde_json::json!({
        "seconds": seconds,
        "num_requests": answers.len(),
        "output_tokens": output_tokens,
        "requests_per_second": answers.len() as f64 / seconds,
        "output_tokens_per_second": output_tokens as f64 / seconds,
        "ttft_ms": percentiles_ms(&mut ttft),
        "gap_ms": percentiles_ms(&mut gaps),
    })
}
