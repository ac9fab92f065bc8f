//! What comes over the wire when all goes well.

use inference_proto::v1::{
    Chat, ChatMessage, DetokenizeRequest, FinishReason, GenerateRequest, GetLoadsRequest, GetModelInfoRequest,
    GetServerInfoRequest, SamplingParams, TokenIds, TokenizeRequest, finished::MatchedStop, generate_request,
    tokenize_request,
};
use tokio_stream::StreamExt;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request, server_reflection_response};

use crate::served::{PROMPT, Received, Served, request};
use crate::support::{Setup, greedy};

#[tokio::test]
async fn answers_stream() {
    let mut served = Served::new(Setup::default()).await;
    let expected = served.fixture.expected_tokens(&PROMPT, &greedy(30));
    let request = GenerateRequest { request_id: Some("mine".into()), ..request(30) };
    let response = served.client.generate(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "mine");
    let received = Received::read(response.into_inner()).await;
    assert!(received.status.is_none(), "{received:?}");
    assert_eq!(received.tokens_of(0), expected);
    assert_eq!(received.text_of(0), served.fixture.decode(&expected));
    let [finished] = &received.finished[..] else { panic!("{received:?}") };
    assert_eq!(finished.finish_reason(), FinishReason::Length);
    let usage = finished.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.output_tokens), (9, 0, 30));
}

#[tokio::test]
async fn every_field_of_a_request_arrives() {
    let mut served = Served::new(Setup::default()).await;
    let text = served.fixture.decode(&served.fixture.expected_tokens(&PROMPT, &greedy(30)));
    let stop: String = text.chars().skip(10).take(2).collect();
    let sampling = SamplingParams { logprobs: Some(2), prompt_logprobs: Some(1), ..request(30).sampling.unwrap() };
    let with_stop = GenerateRequest {
        sampling: Some(sampling),
        stop: vec![stop.clone()],
        include_stop_str_in_output: Some(true),
        n: Some(2),
        ..request(30)
    };
    let received = Received::read(served.client.generate(with_stop).await.unwrap().into_inner()).await;
    assert!(received.status.is_none(), "{received:?}");
    assert_eq!(received.num_prompt_logprobs, [PROMPT.len() - 1]);
    assert_eq!(received.finished.len(), 2);
    for finished in &received.finished {
        assert_eq!(finished.finish_reason(), FinishReason::Stop);
        assert_eq!(finished.matched_stop, Some(MatchedStop::Stop(stop.clone())));
        assert!(received.text_of(finished.index).ends_with(&stop));
    }
    for delta in &received.deltas {
        assert_eq!(delta.logprobs.len(), delta.token_ids.len());
        assert!(delta.logprobs.iter().all(|entry| entry.rank > 0 && entry.top.len() == 2));
    }

    let token = served.fixture.expected_tokens(&PROMPT, &greedy(30))[0];
    let mut with_stop_token = request(30);
    with_stop_token.sampling.as_mut().unwrap().stop_token_ids = vec![token];
    let received = Received::read(served.client.generate(with_stop_token).await.unwrap().into_inner()).await;
    assert_eq!(received.finished[0].matched_stop, Some(MatchedStop::StopTokenId(token)));
}

#[tokio::test]
async fn long_prompts_are_scored_in_several_messages() {
    let mut served = Served::new(Setup::default()).await;
    let mut request = request(1);
    request.input = Some(generate_request::Input::TokenIds(TokenIds { ids: vec![1; 601] }));
    request.sampling.as_mut().unwrap().prompt_logprobs = Some(0);
    let received = Received::read(served.client.generate(request).await.unwrap().into_inner()).await;
    assert_eq!(received.num_prompt_logprobs, [256, 256, 88]);
}

#[tokio::test]
async fn a_crowd_gets_what_each_gets_alone() {
    let served = Served::new(Setup::default()).await;
    let streams = (0..64u32).map(|nth| {
        let mut client = served.client.clone();
        let ids: Vec<u32> = (0..1 + nth % 20).map(|place| (nth * 7 + place) % 90).collect();
        let expected = served.fixture.expected_tokens(&ids, &greedy(5 + nth));
        let input = Some(generate_request::Input::TokenIds(TokenIds { ids }));
        let request = GenerateRequest { input, ..request(5 + nth) };
        tokio::spawn(async move {
            let received = Received::read(client.generate(request).await.unwrap().into_inner()).await;
            assert_eq!(received.tokens_of(0), expected);
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        stream.await.unwrap();
    }
    served.fixture.idle().await;
    assert_eq!(served.fixture.generator.stats().finished_requests, 64);
}

#[tokio::test]
async fn tokens_and_text() {
    let mut served = Served::new(Setup::default()).await;
    let messages = vec![ChatMessage { role: "user".into(), content: "hi".into() }];
    let cases = [
        (tokenize_request::Input::Text("hi there".into()), "hi there"),
        (tokenize_request::Input::Chat(Chat { messages }), "<|start|>user\nhi<|end|><|start|>assistant\n"),
    ];
    for (input, text) in cases {
        let request = TokenizeRequest { input: Some(input), add_special_tokens: None };
        let token_ids = served.client.tokenize(request).await.unwrap().into_inner().token_ids;
        for (skip, shown) in [(None, text.to_owned()), (Some(true), served.fixture.decode(&token_ids))] {
            let request = DetokenizeRequest { token_ids: token_ids.clone(), skip_special_tokens: skip };
            assert_eq!(served.client.detokenize(request).await.unwrap().into_inner().text, shown);
        }
    }
}

#[tokio::test]
async fn the_server_describes_itself() {
    let mut served = Served::new(Setup::default()).await;
    let model = served.client.get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((model.name.as_str(), model.architecture.as_str()), ("fake", "hash"));
    assert_eq!((model.vocab_size, model.max_model_len), (100, 4096));
    assert_eq!((model.bos_token_id, model.eos_token_ids), (None, vec![98]));
    assert!(model.has_chat_template);
    let defaults = model.defaults.unwrap();
    assert_eq!((defaults.temperature, defaults.max_tokens, defaults.seed), (Some(0.0), Some(32), None));

    let server = served.client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((server.device.as_str(), server.block_size, server.num_blocks), ("cpu", 4, 2048));
    assert_eq!((server.max_num_seqs, server.max_num_batched_tokens, server.max_logprobs), (64, 256, 5));
    assert_eq!(server.memory[0].name, "shadow kv");
    assert!(server.uptime_seconds > 0.0);

    for _ in 0..2 {
        Received::read(served.client.generate(request(8)).await.unwrap().into_inner()).await;
    }
    served.fixture.idle().await;
    let loads = served.client.get_loads(GetLoadsRequest {}).await.unwrap().into_inner();
    assert_eq!((loads.num_waiting, loads.num_running, loads.kv_blocks_active), (0, 0, 0));
    assert_eq!(loads.kv_blocks_free + loads.kv_blocks_cached, loads.kv_blocks_total);
    assert!(loads.kv_blocks_cached > 0);
    assert!(loads.prefix_hit_tokens >= 8 && loads.prefix_query_tokens > loads.prefix_hit_tokens, "{loads:?}");
    assert_eq!(loads.output_tokens, 16);
}

#[tokio::test]
async fn reflection_lists_and_describes_the_services() {
    let served = Served::new(Setup::default()).await;
    let ask = |message_request| ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
    let requests = [
        ask(server_reflection_request::MessageRequest::ListServices(String::new())),
        ask(server_reflection_request::MessageRequest::FileContainingSymbol("pagewise.v1.Inference".into())),
    ];
    let mut client = ServerReflectionClient::new(served.channel.clone());
    let mut responses = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();

    use server_reflection_response::MessageResponse;
    let listed = responses.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("{listed:?}") };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["pagewise.v1.Inference", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let described = responses.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::FileDescriptorResponse(files)) = described else { panic!("{described:?}") };
    let field = b"include_stop_str_in_output";
    assert!(files.file_descriptor_proto[0].windows(field.len()).any(|window| window == field));

    use tonic_reflection::pb::v1alpha;
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(served.channel.clone());
    let mut responses = older.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let listed = responses.next().await.unwrap().unwrap().message_response;
    assert!(format!("{listed:?}").contains("\"pagewise.v1.Inference\""), "{listed:?}");
}
