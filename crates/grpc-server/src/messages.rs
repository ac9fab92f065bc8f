//! Between the messages of the wire and the values of `generation`, field by field. Decides nothing.

use std::time::Duration;

use generation::{
    ChatMessage, FinishReason, GenerateRequest, GenerationDefaults, GenerationEvent, Input, SamplingOptions,
    SpecialTokens, TokenLogprobs, TokenizeInput,
};
use inference_proto::v1;
use tonic::Status;

/// Most prompt tokens with log-probabilities in one message, so that none comes near a client's size limit.
const PROMPT_LOGPROBS_PER_MESSAGE: usize = 256;

/// A request to generate, with the time that its call has.
pub(crate) fn generate_request(
    wire: v1::GenerateRequest,
    timeout: Option<Duration>,
) -> Result<GenerateRequest, Status> {
    use v1::generate_request::Input as Wire;
    let input = match wire.input {
        Some(Wire::Text(text)) => Input::Text(text),
        Some(Wire::Chat(chat)) => Input::Chat(chat_messages(chat)),
        Some(Wire::TokenIds(tokens)) => Input::Tokens(tokens.ids),
        None => return Err(Status::invalid_argument("input is missing; it must be one of text, chat, token_ids")),
    };
    let defaults = GenerateRequest::new(input);
    Ok(GenerateRequest {
        request_id: wire.request_id,
        sampling: sampling_options(wire.sampling.unwrap_or_default()),
        n: wire.n.unwrap_or(defaults.n),
        stop: wire.stop,
        include_stop_str_in_output: wire.include_stop_str_in_output.unwrap_or(defaults.include_stop_str_in_output),
        skip_special_tokens: wire.skip_special_tokens.unwrap_or(defaults.skip_special_tokens),
        timeout,
        cache_salt: wire.cache_salt,
        input: defaults.input,
    })
}

/// Input to tokenize.
pub(crate) fn tokenize_input(wire: v1::TokenizeRequest) -> Result<TokenizeInput, Status> {
    use v1::tokenize_request::Input as Wire;
    let special = if wire.add_special_tokens.unwrap_or(true) { SpecialTokens::Add } else { SpecialTokens::Omit };
    match wire.input {
        Some(Wire::Text(text)) => Ok(TokenizeInput::Text(text, special)),
        Some(Wire::Chat(chat)) => Ok(TokenizeInput::Chat(chat_messages(chat))),
        None => Err(Status::invalid_argument("input is missing; it must be one of text, chat")),
    }
}

fn chat_messages(wire: v1::Chat) -> Vec<ChatMessage> {
    wire.messages.into_iter().map(|message| ChatMessage { role: message.role, content: message.content }).collect()
}

fn sampling_options(wire: v1::SamplingParams) -> SamplingOptions {
    SamplingOptions {
        temperature: wire.temperature,
        top_p: wire.top_p,
        top_k: wire.top_k,
        min_p: wire.min_p,
        repetition_penalty: wire.repetition_penalty,
        presence_penalty: wire.presence_penalty,
        frequency_penalty: wire.frequency_penalty,
        logit_bias: wire.logit_bias.iter().map(|entry| (entry.token_id, entry.bias)).collect(),
        seed: wire.seed,
        max_tokens: wire.max_tokens,
        min_tokens: wire.min_tokens,
        stop_token_ids: wire.stop_token_ids,
        ignore_eos: wire.ignore_eos.unwrap_or(false),
        logprobs: wire.logprobs,
        prompt_logprobs: wire.prompt_logprobs,
    }
}

/// The defaults as a client would have to write them.
pub(crate) fn defaults(defaults: &GenerationDefaults) -> v1::SamplingParams {
    v1::SamplingParams {
        temperature: Some(defaults.temperature),
        top_p: Some(defaults.top_p),
        top_k: Some(defaults.top_k),
        min_p: Some(defaults.min_p),
        repetition_penalty: Some(defaults.repetition_penalty),
        max_tokens: Some(defaults.max_tokens),
        ..v1::SamplingParams::default()
    }
}

/// One event as the messages that carry it: one, or several for a long prompt's log-probabilities.
pub(crate) fn responses(event: GenerationEvent) -> Vec<v1::GenerateResponse> {
    use v1::generate_response::Event;
    let events = match event {
        GenerationEvent::PromptLogprobs(entries) => {
            let mut entries = entries.into_iter().map(token_logprobs).peekable();
            let mut parts = Vec::new();
            while entries.peek().is_some() {
                let tokens = entries.by_ref().take(PROMPT_LOGPROBS_PER_MESSAGE).collect();
                parts.push(Event::PromptLogprobs(v1::PromptLogprobs { tokens }));
            }
            parts
        }
        GenerationEvent::Delta(delta) => vec![Event::Delta(v1::Delta {
            index: delta.index,
            text: delta.text,
            token_ids: delta.token_ids,
            logprobs: delta.logprobs.into_iter().map(token_logprobs).collect(),
        })],
        GenerationEvent::Finished(finished) => vec![Event::Finished(finished_message(finished))],
    };
    events.into_iter().map(|event| v1::GenerateResponse { event: Some(event) }).collect()
}

fn finished_message(finished: generation::Finished) -> v1::Finished {
    use v1::FinishReason as Wire;
    use v1::finished::MatchedStop;
    let (reason, matched_stop, error) = match finished.reason {
        FinishReason::StopString(stop) => (Wire::Stop, Some(MatchedStop::Stop(stop)), String::new()),
        FinishReason::StopToken(token) => (Wire::Stop, Some(MatchedStop::StopTokenId(token)), String::new()),
        FinishReason::Length => (Wire::Length, None, String::new()),
        FinishReason::Cancelled => (Wire::Cancelled, None, String::new()),
        FinishReason::Deadline => (Wire::Deadline, None, String::new()),
        FinishReason::Failed(cause) => (Wire::Error, None, cause),
    };
    let usage = v1::Usage {
        prompt_tokens: finished.usage.prompt_tokens,
        cached_tokens: finished.usage.cached_tokens,
        output_tokens: finished.usage.output_tokens,
        preemptions: finished.usage.preemptions,
    };
    v1::Finished { index: finished.index, finish_reason: reason.into(), matched_stop, usage: Some(usage), error }
}

fn token_logprobs(entry: TokenLogprobs) -> v1::TokenLogprobs {
    v1::TokenLogprobs {
        token_id: entry.token,
        logprob: entry.logprob,
        rank: entry.rank,
        top: entry.top.into_iter().map(|(token_id, logprob)| v1::TopLogprob { token_id, logprob }).collect(),
    }
}
