//! What is refused at the door, and that the message names the parameter, its value and its range.

use generation::{
    ChatMessage, GenerateError, GenerateRequest, GenerationDefaults, Input, SamplingOptions, SpecialText,
    SpecialTokens, TokenizeInput,
};

use crate::support::{Fixture, Setup};

/// Has a prompt that is changed by `change`, and checks that the field and all of `words` are in the error.
async fn check(fixture: &Fixture, change: impl FnOnce(&mut GenerateRequest), field: &str, words: &[&str]) {
    let mut request = GenerateRequest::new(Input::Text("hello".into()));
    change(&mut request);
    let Err(error) = fixture.generator.generate(request).await else { panic!("{field} {words:?} was taken") };
    let message = error.to_string();
    let is_named = matches!(&error, GenerateError::InvalidArgument { field: named, .. } if *named == field);
    assert!(is_named, "{error:?} does not name {field}");
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

fn message(role: &str) -> ChatMessage {
    ChatMessage { role: role.into(), content: "hi".into() }
}

#[tokio::test]
async fn sampling_options() {
    let fixture = Setup::default().build();
    type Change = fn(&mut SamplingOptions);
    let cases: &[(&str, Change, &[&str])] = &[
        ("temperature", |s| s.temperature = Some(-0.5), &["-0.5", "[0, 100]"]),
        ("temperature", |s| s.temperature = Some(101.0), &["101", "[0, 100]"]),
        ("temperature", |s| s.temperature = Some(f32::NAN), &["NaN", "[0, 100]"]),
        ("temperature", |s| s.temperature = Some(f32::INFINITY), &["inf", "[0, 100]"]),
        ("top_p", |s| s.top_p = Some(0.0), &["0", "(0, 1]"]),
        ("top_p", |s| s.top_p = Some(1.5), &["1.5", "(0, 1]"]),
        ("top_p", |s| s.top_p = Some(f32::NAN), &["NaN", "(0, 1]"]),
        ("min_p", |s| s.min_p = Some(-0.1), &["-0.1", "[0, 1]"]),
        ("min_p", |s| s.min_p = Some(1.1), &["1.1", "[0, 1]"]),
        ("repetition_penalty", |s| s.repetition_penalty = Some(0.0), &["0", "(0, 100]"]),
        ("repetition_penalty", |s| s.repetition_penalty = Some(1e9), &["1000000000", "(0, 100]"]),
        ("presence_penalty", |s| s.presence_penalty = Some(2.5), &["2.5", "[-2, 2]"]),
        ("frequency_penalty", |s| s.frequency_penalty = Some(-3.0), &["-3", "[-2, 2]"]),
        ("logit_bias", |s| s.logit_bias = vec![(1, 101.0)], &["101", "[-100, 100]"]),
        ("logit_bias", |s| s.logit_bias = vec![(100, 1.0)], &["100", "[0, 99]"]),
        ("logit_bias", |s| s.logit_bias = vec![(5, 1.0), (4, 0.0), (5, 2.0)], &["token 5 twice"]),
        ("logit_bias", |s| s.logit_bias = vec![(0, 0.0); 1025], &["1025", "1024"]),
        ("max_tokens", |s| s.max_tokens = Some(0), &["0", "[1, 4294967295]"]),
        ("min_tokens", |s| s.min_tokens = Some(33), &["33", "[0, 32]"]),
        ("stop_token_ids", |s| s.stop_token_ids = vec![3, 100], &["100 at place 1", "[0, 99]"]),
        ("stop_token_ids", |s| s.stop_token_ids = vec![0; 129], &["129", "128"]),
        ("logprobs", |s| s.logprobs = Some(6), &["6", "[0, 5]"]),
        ("prompt_logprobs", |s| s.prompt_logprobs = Some(6), &["6", "[0, 5]"]),
    ];
    for (field, change, words) in cases {
        check(&fixture, |request| change(&mut request.sampling), field, words).await;
    }
    fixture.idle().await;
}

#[tokio::test]
async fn requests() {
    let fixture = Setup::default().build();
    type Change = fn(&mut GenerateRequest);
    let cases: &[(&str, Change, &[&str])] = &[
        ("n", |r| r.n = 0, &["0", "[1, 64]"]),
        ("n", |r| r.n = 65, &["65", "[1, 64]"]),
        ("stop", |r| r.stop = vec!["ok".into(), String::new()], &["1 is empty"]),
        ("stop", |r| r.stop = vec!["x".repeat(1025)], &["1025", "1024"]),
        ("stop", |r| r.stop = vec!["x".into(); 65], &["65", "64"]),
        ("request_id", |r| r.request_id = Some(String::new()), &["0 bytes", "1 to 128"]),
        ("request_id", |r| r.request_id = Some("x".repeat(129)), &["129 bytes", "1 to 128"]),
        ("cache_salt", |r| r.cache_salt = Some("x".repeat(257)), &["257", "256"]),
        ("text", |r| r.input = Input::Text(String::new()), &["empty"]),
        // 4,096 tokens, of which the longest, "<|start|>", has 9 bytes.
        ("text", |r| r.input = Input::Text("x".repeat(9 * 4096 + 1)), &["36865 bytes", "36864"]),
        ("token_ids", |r| r.input = Input::Tokens(vec![]), &["no tokens"]),
        ("token_ids", |r| r.input = Input::Tokens(vec![0, 99, 100]), &["100 at place 2", "[0, 99]"]),
        ("chat", |r| r.input = Input::Chat(vec![]), &["no messages"]),
        ("chat", |r| r.input = Input::Chat(vec![message("user"), message("")]), &["no role", "message 1"]),
        ("chat", |r| r.input = Input::Chat(vec![message("robot")]), &["no such role"]),
    ];
    for (field, change, words) in cases {
        check(&fixture, change, field, words).await;
    }
    let long_chat = |request: &mut GenerateRequest| {
        request.input = Input::Chat(vec![ChatMessage { role: "user".into(), content: "x".repeat(9 * 4096) }]);
    };
    check(&fixture, long_chat, "chat", &["bytes", "36864"]).await;
    let without_template = Setup { has_template: false, ..Setup::default() }.build();
    let chat = |request: &mut GenerateRequest| request.input = Input::Chat(vec![message("user")]);
    check(&without_template, chat, "chat", &["chat template"]).await;
}

#[tokio::test]
async fn prompts_too_long() {
    let mut setup = Setup::default();
    setup.limits.max_model_len = 64;
    let by_model = setup.build();
    // 10 blocks of 4 tokens hold less than the model's context.
    let mut setup = Setup::default();
    setup.limits.num_blocks = 10;
    let by_pool = setup.build();
    for (fixture, max_model_len) in [(by_model, 64), (by_pool, 40)] {
        let request = |num_tokens| GenerateRequest::new(Input::Tokens(vec![1; num_tokens]));
        assert_eq!(fixture.generator.limits().max_model_len, max_model_len as u32);
        assert!(fixture.generator.generate(request(max_model_len - 1)).await.is_ok());
        let error = fixture.generator.generate(request(max_model_len)).await.err().unwrap();
        let expected =
            GenerateError::ContextTooLong { prompt_tokens: max_model_len, max_model_len: max_model_len as u32 };
        assert_eq!(error, expected);
        assert!(error.to_string().contains(&(max_model_len - 1).to_string()), "{error}");
    }
}

#[tokio::test]
async fn texts_and_tokens_that_no_request_would_have() {
    let fixture = Setup::default().build();
    // What is longer than a context can still be tokenized, within reason.
    let tokenize = |bytes| fixture.generator.tokenize(TokenizeInput::Text("x".repeat(bytes), SpecialTokens::Add));
    assert_eq!(tokenize(50_000).await.unwrap().len(), 50_000);
    let error = tokenize((4 << 20) + 1).await.unwrap_err().to_string();
    assert!(error.starts_with("text ") && error.contains("4194305") && error.contains("4194304"), "{error}");
    let error = fixture.generator.detokenize(vec![0; (1 << 20) + 1], SpecialText::Keep).await.unwrap_err().to_string();
    assert!(error.starts_with("token_ids ") && error.contains("1048577") && error.contains("1048576"), "{error}");
}

#[test]
fn defaults() {
    let defaults = GenerationDefaults::default();
    assert_eq!(defaults.validate(), Ok(()));
    let bad = GenerationDefaults { top_p: 2.0, ..defaults };
    assert!(bad.validate().unwrap_err().to_string().contains("top_p"));
}
