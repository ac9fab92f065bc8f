//! What answers say: text, stop strings, log-probabilities, usage, several answers to one prompt.

use generation::{FinishReason, GenerateRequest, Input, SamplingOptions, SpecialText, SpecialTokens, TokenizeInput};
use serving_types::{SamplingParams, TokenId};

use crate::support::{END, Fixture, SPACE, START, Setup, greedy};
use crate::transcript::{Answer, Transcript};

/// A prompt that no other number gives.
fn prompt(nth: u32) -> Vec<TokenId> {
    (0..9).map(|place| (nth * 31 + nth / 96 * place + place * place) % 96).collect()
}

fn request(prompt: &[TokenId], sampling: SamplingOptions) -> GenerateRequest {
    GenerateRequest { sampling, ..GenerateRequest::new(Input::Tokens(prompt.to_vec())) }
}

/// So many tokens whatever they are.
fn exactly(max_tokens: u32) -> SamplingOptions {
    SamplingOptions { max_tokens: Some(max_tokens), ignore_eos: true, ..SamplingOptions::default() }
}

async fn answer(fixture: &Fixture, request: GenerateRequest) -> Answer {
    let mut transcript = Transcript::read(fixture.generator.generate(request).await.unwrap()).await;
    assert_eq!(transcript.answers.len(), 1);
    transcript.answers.remove(0)
}

/// The first place where the text of `tokens` holds `stop`: the tokens up to there, and the text before it.
fn until_stop(fixture: &Fixture, tokens: &[TokenId], stop: &str, min_tokens: usize) -> (usize, String) {
    let free = fixture.decode(&tokens[..min_tokens]);
    let num_tokens = (min_tokens + 1..=tokens.len())
        .find(|&num| fixture.decode(&tokens[..num])[free.len()..].contains(stop))
        .expect("the stop string is in the text");
    let text = fixture.decode(&tokens[..num_tokens]);
    let end = free.len() + text[free.len()..].find(stop).unwrap();
    (num_tokens, text[..end].to_owned())
}

#[tokio::test]
async fn text_is_that_of_the_tokens() {
    let fixture = Setup::default().build();
    let text = |nth| fixture.decode(&fixture.expected_tokens(&prompt(nth), &greedy(60)));
    // A character of two tokens, a half of one, and whatever comes.
    let whole = (0..).find(|&nth| text(nth).contains('é')).unwrap();
    let half = (0..).find(|&nth| text(nth).ends_with(char::REPLACEMENT_CHARACTER)).unwrap();
    for nth in (0..10).chain([whole, half]) {
        let answer = answer(&fixture, request(&prompt(nth), exactly(60))).await;
        assert_eq!(answer.delta.token_ids, fixture.expected_tokens(&prompt(nth), &greedy(60)));
        assert_eq!(answer.delta.text, text(nth));
        let finished = answer.finished.unwrap();
        assert_eq!(finished.reason, FinishReason::Length);
        assert_eq!((finished.usage.prompt_tokens, finished.usage.output_tokens), (9, 60));
    }
}

#[tokio::test]
async fn completions_keep_the_space_that_answers_in_a_chat_lose() {
    let fixture = Setup { has_space_marks: true, ..Setup::default() }.build();
    let begins_with_space = |prompt: &[TokenId]| fixture.expected_tokens(prompt, &greedy(1)) == [SPACE];
    let prompt = (0..).map(prompt).find(|prompt| begins_with_space(prompt)).unwrap();
    assert_eq!(answer(&fixture, request(&prompt, exactly(1))).await.delta.text, " ");

    for len in 0.. {
        let chat = || vec![generation::ChatMessage { role: "user".into(), content: "x".repeat(len) }];
        if begins_with_space(&fixture.generator.tokenize(TokenizeInput::Chat(chat())).await.unwrap()) {
            let request = GenerateRequest { sampling: exactly(1), ..GenerateRequest::new(Input::Chat(chat())) };
            let answer = answer(&fixture, request).await;
            assert_eq!((answer.delta.token_ids.as_slice(), answer.delta.text.as_str()), (&[SPACE][..], ""));
            break;
        }
    }
}

#[tokio::test]
async fn special_tokens_are_shown_on_demand() {
    let fixture = Setup::default().build();
    let prompt = (0..).map(prompt).find(|p| fixture.expected_tokens(p, &greedy(60)).contains(&START)).unwrap();
    let shown = GenerateRequest { skip_special_tokens: false, ..request(&prompt, exactly(60)) };
    let text = answer(&fixture, shown).await.delta.text;
    assert!(text.contains("<|start|>"), "{text}");
}

#[tokio::test]
async fn stop_strings_end_answers_across_tokens() {
    let fixture = Setup::default().build();
    let tokens = fixture.expected_tokens(&prompt(1), &greedy(60));
    let text = fixture.decode(&tokens);
    let stop: String = text.chars().skip(20).take(3).collect();
    for (min_tokens, include_stop_str_in_output) in [(0, false), (0, true), (5, false)] {
        let (num_tokens, mut expected) = until_stop(&fixture, &tokens, &stop, min_tokens);
        if include_stop_str_in_output {
            expected.push_str(&stop);
        }
        let sampling = SamplingOptions { min_tokens: Some(min_tokens as u32), ..exactly(60) };
        let request = GenerateRequest {
            stop: vec!["not in the text".into(), stop.clone()],
            include_stop_str_in_output,
            ..request(&prompt(1), sampling)
        };
        let answer = answer(&fixture, request).await;
        let finished = answer.finished.unwrap();
        assert_eq!(finished.reason, FinishReason::StopString(stop.clone()));
        assert_eq!(answer.delta.text, expected);
        assert_eq!(answer.delta.token_ids, tokens[..num_tokens]);
        assert_eq!(finished.usage.output_tokens, num_tokens as u32);
        assert_eq!(finished.usage.prompt_tokens, 9);
    }
    fixture.idle().await;
}

#[tokio::test]
async fn stop_strings_count_after_min_tokens() {
    let fixture = Setup::default().build();
    // A character that comes among the first ten tokens, and again later.
    let (prompt, stop, first, second) = (0..)
        .map(prompt)
        .find_map(|prompt| {
            let tokens = fixture.expected_tokens(&prompt, &greedy(60));
            let stop = tokens[2];
            let first = tokens.iter().position(|&token| token == stop)?;
            let second = 10 + tokens[10..].iter().position(|&token| token == stop)?;
            (stop < 96).then(|| (prompt, fixture.decode(&[stop]), first, second))
        })
        .unwrap();
    for (min_tokens, place) in [(0, first), (10, second)] {
        let sampling = SamplingOptions { min_tokens: Some(min_tokens), ..exactly(60) };
        let request = GenerateRequest { stop: vec![stop.clone()], ..request(&prompt, sampling) };
        let finished = answer(&fixture, request).await.finished.unwrap();
        assert_eq!(finished.reason, FinishReason::StopString(stop.clone()));
        assert_eq!(finished.usage.output_tokens as usize, place + 1);
    }
}

#[tokio::test]
async fn stop_tokens_end_answers_and_are_no_text() {
    let fixture = Setup::default().build();
    let tokens = fixture.expected_tokens(&prompt(2), &greedy(60));
    let stop = *tokens[8..].iter().find(|token| !tokens[..8].contains(token) && **token < 96).unwrap();
    let num_tokens = tokens.iter().position(|&token| token == stop).unwrap() + 1;
    for include_stop_str_in_output in [false, true] {
        let sampling = SamplingOptions { stop_token_ids: vec![stop], ..exactly(60) };
        let request = GenerateRequest { include_stop_str_in_output, ..request(&prompt(2), sampling) };
        let answer = answer(&fixture, request).await;
        let finished = answer.finished.unwrap();
        assert_eq!(finished.reason, FinishReason::StopToken(stop));
        assert_eq!(answer.delta.token_ids, tokens[..num_tokens]);
        let shown = if include_stop_str_in_output { num_tokens } else { num_tokens - 1 };
        assert_eq!(answer.delta.text, fixture.decode(&tokens[..shown]));
        assert_eq!(finished.usage.output_tokens as usize, num_tokens);
    }
}

#[tokio::test]
async fn the_models_end_of_sequence_is_a_stop_token_unless_ignored() {
    let fixture = Setup::default().build();
    let prompt = (0..).map(prompt).find(|p| fixture.expected_tokens(p, &greedy(60)).contains(&END)).unwrap();
    for (ignore_eos, reason) in [(false, FinishReason::StopToken(END)), (true, FinishReason::Length)] {
        let request = request(&prompt, SamplingOptions { ignore_eos, ..exactly(60) });
        assert_eq!(answer(&fixture, request).await.finished.unwrap().reason, reason);
    }
}

#[tokio::test]
async fn several_answers_differ_and_share_the_prompt() {
    let fixture = Setup::default().build();
    let sampling = SamplingOptions { temperature: Some(1.0), seed: Some(5), ..exactly(40) };
    let request = GenerateRequest { n: 3, ..request(&prompt(3), sampling) };
    let transcript = Transcript::read(fixture.generator.generate(request).await.unwrap()).await;
    assert_eq!(transcript.answers.len(), 3);
    for (index, answer) in transcript.answers.iter().enumerate() {
        let alone = SamplingParams { temperature: 1.0, seed: 5, sample_index: index as u32, ..greedy(40) };
        assert_eq!(answer.delta.token_ids, fixture.expected_tokens(&prompt(3), &alone));
        assert_eq!(answer.delta.text, fixture.decode(&answer.delta.token_ids));
    }
    assert_ne!(transcript.answers[0].delta.text, transcript.answers[1].delta.text);
    // 9 prompt tokens are two full blocks; whoever was not the first has them from the cache.
    let num_cached: u32 =
        transcript.answers.iter().map(|answer| answer.finished.as_ref().unwrap().usage.cached_tokens).sum();
    assert_eq!(num_cached, 16);
}

#[tokio::test]
async fn unseeded_requests_differ_and_seeded_ones_do_not() {
    let fixture = Setup::default().build();
    let mut texts = Vec::new();
    for seed in [None, None, Some(1), Some(1)] {
        let sampling = SamplingOptions { temperature: Some(1.0), seed, ..exactly(40) };
        texts.push(answer(&fixture, request(&prompt(4), sampling)).await.delta.text);
    }
    assert_ne!(texts[0], texts[1]);
    assert_eq!(texts[2], texts[3]);
}

#[tokio::test]
async fn prefixes_are_shared_between_equal_salts_only() {
    let fixture = Setup::default().build();
    for (salt, num_cached) in [(None, 0), (None, 8), (Some("tenant"), 0), (Some("tenant"), 8), (Some(""), 8)] {
        let request = GenerateRequest { cache_salt: salt.map(str::to_owned), ..request(&prompt(5), exactly(4)) };
        let finished = answer(&fixture, request).await.finished.unwrap();
        assert_eq!(finished.usage.cached_tokens, num_cached, "{salt:?}");
    }
}

#[tokio::test]
async fn log_probabilities() {
    let fixture = Setup::default().build();
    let prompt = prompt(6);
    let sampling = SamplingOptions { logprobs: Some(2), prompt_logprobs: Some(1), ..exactly(12) };
    let request = GenerateRequest { n: 2, ..request(&prompt, sampling) };
    let transcript = Transcript::read(fixture.generator.generate(request).await.unwrap()).await;

    let mut prefix = fixture.model.root();
    let scored: Vec<TokenId> = transcript.prompt_logprobs.iter().map(|entry| entry.token).collect();
    assert_eq!(scored, prompt[1..], "each prompt token but the first, once for all answers");
    for (place, &token) in prompt.iter().enumerate() {
        if let Some(entry) = place.checked_sub(1).map(|place| &transcript.prompt_logprobs[place]) {
            assert_eq!((entry.logprob, entry.rank), fixture.model.score(prefix, token));
            assert_eq!(entry.top.len(), 1);
        }
        prefix = fixture.model.extend(prefix, token);
    }
    for answer in &transcript.answers {
        let mut prefix = prefix;
        assert_eq!(answer.delta.logprobs.len(), 12);
        for (&token, entry) in answer.delta.token_ids.iter().zip(&answer.delta.logprobs) {
            assert_eq!(entry.token, token);
            assert_eq!((entry.logprob, entry.rank), fixture.model.score(prefix, token));
            assert_eq!(entry.top, fixture.model.top(prefix, 2).collect::<Vec<_>>());
            prefix = fixture.model.extend(prefix, token);
        }
    }
}

#[tokio::test]
async fn max_tokens_are_cut_to_the_context() {
    let mut setup = Setup::default();
    setup.limits.max_model_len = 64;
    let fixture = setup.build();
    for max_tokens in [56, u32::MAX] {
        let finished = answer(&fixture, request(&prompt(7), exactly(max_tokens))).await.finished.unwrap();
        assert_eq!((finished.reason, finished.usage.output_tokens), (FinishReason::Length, 55));
    }
}

#[tokio::test]
async fn text_and_chat_become_the_prompt_that_tokenize_shows() {
    let fixture = Setup::default().build();
    let messages = || vec![generation::ChatMessage { role: "user".into(), content: "hi".into() }];
    let cases = [
        (Input::Text("hi there".into()), TokenizeInput::Text("hi there".into(), SpecialTokens::Add), "hi there"),
        (Input::Chat(messages()), TokenizeInput::Chat(messages()), "<|start|>user\nhi<|end|><|start|>assistant\n"),
    ];
    for (input, shown, text) in cases {
        let prompt = fixture.generator.tokenize(shown).await.unwrap();
        assert_eq!(fixture.generator.detokenize(prompt.clone(), SpecialText::Keep).await.unwrap(), text);
        let request = GenerateRequest { sampling: exactly(8), ..GenerateRequest::new(input) };
        let answer = answer(&fixture, request).await;
        assert_eq!(answer.delta.token_ids, fixture.expected_tokens(&prompt, &greedy(8)));
        assert_eq!(answer.finished.unwrap().usage.prompt_tokens as usize, prompt.len());
    }
    assert!(
        fixture.generator.detokenize(vec![1, 100], SpecialText::Keep).await.unwrap_err().to_string().contains("100")
    );
    assert_eq!(fixture.generator.tokenize(TokenizeInput::Text(String::new(), SpecialTokens::Add)).await, Ok(vec![]));
}
