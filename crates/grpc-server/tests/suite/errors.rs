//! Which status a request gets that cannot be served.

use grpc_server::{ServeError, bind};
use inference_proto::v1::{
    AbortRequest, Chat, ChatMessage, DetokenizeRequest, GenerateRequest, SamplingParams, TokenIds, TokenizeRequest,
    generate_request::Input,
};
use tonic::{Code, Request, Status};

use crate::served::{Served, request};
use crate::support::Setup;

fn check(status: Option<Status>, code: Code, words: &[&str]) {
    let status = status.expect("the request is refused");
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "{:?} does not say {word:?}", status.message());
    }
}

#[tokio::test]
async fn requests_to_generate() {
    let mut served = Served::new(Setup { max_requests: 2, ..Setup::default() }).await;
    served.fixture.pace.hold(); // So that no answer ends before the queue is full.
    let with_input = |input| GenerateRequest { input: Some(input), ..request(4) };
    let with_sampling = |sampling| GenerateRequest { sampling: Some(sampling), ..request(4) };
    let chat_of = |role: &str| Chat { messages: vec![ChatMessage { role: role.into(), content: "hi".into() }] };
    let cases: Vec<(GenerateRequest, Code, &[&str])> = vec![
        (GenerateRequest::default(), Code::InvalidArgument, &["input", "text, chat, token_ids"]),
        (with_input(Input::Text(String::new())), Code::InvalidArgument, &["text", "empty"]),
        (with_input(Input::TokenIds(TokenIds { ids: vec![100] })), Code::InvalidArgument, &["token_ids", "[0, 99]"]),
        (with_input(Input::TokenIds(TokenIds { ids: vec![1; 4096] })), Code::InvalidArgument, &["4096", "4095"]),
        (with_input(Input::Chat(Chat::default())), Code::InvalidArgument, &["chat", "no messages"]),
        (with_input(Input::Chat(chat_of("robot"))), Code::InvalidArgument, &["chat", "no such role: robot"]),
        // The refusal quotes it; no client takes a header of that size.
        (with_input(Input::Chat(chat_of(&"é".repeat(1 << 16)))), Code::InvalidArgument, &["no such role: éé", "é…"]),
        (with_input(Input::Text("x".repeat(9 << 20))), Code::OutOfRange, &["too large"]),
        (
            with_sampling(SamplingParams { top_p: Some(1.5), ..SamplingParams::default() }),
            Code::InvalidArgument,
            &["top_p", "1.5", "(0, 1]"],
        ),
        (GenerateRequest { n: Some(0), ..request(4) }, Code::InvalidArgument, &["n is 0", "[1, 64]"]),
        (GenerateRequest { n: Some(3), ..request(4) }, Code::ResourceExhausted, &["retry later"]),
    ];
    for (request, code, words) in cases {
        check(served.client.generate(request).await.err(), code, words);
    }
    served.fixture.pace.release();
    // Of the last request, two answers were taken and given up again.
    served.fixture.until(|fixture| fixture.generator.stats().finished_requests == 2).await;
    assert!(served.client.generate(request(4)).await.is_ok());
}

#[tokio::test]
async fn other_requests() {
    let mut served = Served::new(Setup::default()).await;
    let status = served.client.tokenize(TokenizeRequest::default()).await.err();
    check(status, Code::InvalidArgument, &["input", "text, chat"]);
    let request_of_unknown = DetokenizeRequest { token_ids: vec![1, 100], skip_special_tokens: None };
    let status = served.client.detokenize(request_of_unknown).await.err();
    check(status, Code::InvalidArgument, &["token_ids", "100"]);
    let status = served.client.abort(AbortRequest::default()).await.err();
    check(status, Code::InvalidArgument, &["request_id"]);

    let mut with_bad_timeout = Request::new(request(4));
    with_bad_timeout.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = served.client.generate(with_bad_timeout).await.err();
    check(status, Code::InvalidArgument, &["grpc-timeout", "soon", "8 digits"]);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let served = Served::new(Setup::default()).await;
    let error = bind(served.address).await.err().unwrap();
    assert!(matches!(error, ServeError::AddressInUse { address } if address == served.address));
    assert!(error.to_string().contains(&format!("{} is in use", served.address)), "{error}");
    let nowhere = bind("192.0.2.1:1".parse().unwrap()).await.err().unwrap();
    assert!(matches!(nowhere, ServeError::Bind { .. }), "{nowhere}");
}
