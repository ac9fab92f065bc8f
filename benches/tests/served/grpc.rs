//! The client of pagewise.v1 before a service of a few lines.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use benches::load::{Outcome, Protocol};
use benches::workload::{Arrivals, Turn};
use futures_util::{Stream, StreamExt as _, stream};
use inference_proto::v1::generate_request::Input;
use inference_proto::v1::generate_response::Event;
use inference_proto::v1::inference_server::{Inference, InferenceServer};
use inference_proto::v1::{
    AbortRequest, AbortResponse, Delta, DetokenizeRequest, DetokenizeResponse, FinishReason, Finished, GenerateRequest,
    GenerateResponse, GetLoadsRequest, GetLoadsResponse, GetModelInfoRequest, GetModelInfoResponse,
    GetServerInfoRequest, GetServerInfoResponse, TokenizeRequest, TokenizeResponse, Usage,
};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

use crate::{BREAK_OFF, FULL, NEVER, SHORT, WHOLE, ask, ask_in_turn, check_outcomes, failed, plan, turn};

/// In place of a token id: answer whole, once so many such requests are there.
const CROWD: u32 = 6;
const NUM_CROWD: usize = 1100;

/// Keeps what it was asked, with whether there was a deadline.
#[derive(Clone)]
struct Stub {
    asked: Arc<Mutex<Vec<(GenerateRequest, bool)>>>,
    crowd: Arc<Barrier>,
}

type Events = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Inference for Stub {
    type GenerateStream = Events;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Events>, Status> {
        let has_deadline = request.metadata().contains_key("grpc-timeout");
        let request = request.into_inner();
        let Some(Input::TokenIds(prompt)) = request.input.clone() else { return Err(Status::invalid_argument("ids")) };
        let num_tokens = request.sampling.as_ref().and_then(|sampling| sampling.max_tokens).expect("it is always set");
        self.asked.lock().expect("no panic").push((request, has_deadline));
        if prompt.ids[0] == CROWD {
            self.crowd.wait().await;
        }
        let events = match prompt.ids[0] {
            WHOLE | CROWD => answer(num_tokens).chain(stream::iter([Ok(finished(num_tokens))])).boxed(),
            SHORT => answer(num_tokens - 1).chain(stream::iter([Ok(finished(num_tokens - 1))])).boxed(),
            BREAK_OFF => answer(1).boxed(),
            NEVER => stream::pending().boxed(),
            FULL => return Err(Status::resource_exhausted("the queue is full")),
            id => return Err(Status::invalid_argument(format!("no answer for {id}"))),
        };
        Ok(Response::new(events))
    }

    async fn get_model_info(&self, _: Request<GetModelInfoRequest>) -> Result<Response<GetModelInfoResponse>, Status> {
        Ok(Response::new(GetModelInfoResponse { name: "stub".into(), vocab_size: 10, ..Default::default() }))
    }

    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        Ok(Response::new(GetServerInfoResponse { version: "1.2".into(), device: "none".into(), ..Default::default() }))
    }

    async fn tokenize(&self, _: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn detokenize(&self, _: Request<DetokenizeRequest>) -> Result<Response<DetokenizeResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get_loads(&self, _: Request<GetLoadsRequest>) -> Result<Response<GetLoadsResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// A message a token.
fn answer(num_tokens: u32) -> impl Stream<Item = Result<GenerateResponse, Status>> {
    stream::iter(0..num_tokens).map(|id| {
        let delta = Delta { token_ids: vec![id], ..Delta::default() };
        Ok(GenerateResponse { event: Some(Event::Delta(delta)) })
    })
}

fn finished(output_tokens: u32) -> GenerateResponse {
    let usage = Usage { prompt_tokens: 3, cached_tokens: 2, output_tokens, preemptions: 0 };
    let finished = Finished { finish_reason: FinishReason::Length.into(), usage: Some(usage), ..Finished::default() };
    GenerateResponse { event: Some(Event::Finished(finished)) }
}

/// Serves until the runtime ends.
async fn serve() -> (Stub, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let stub = Stub { asked: Arc::default(), crowd: Arc::new(Barrier::new(NUM_CROWD)) };
    let service = InferenceServer::new(stub.clone());
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    (stub, url)
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn answers_and_failures() {
    let (stub, url) = serve().await;
    let hangs_up = Turn { cancel_after_tokens: Some(2), ..turn(WHOLE) };
    let turns = vec![turn(WHOLE), turn(SHORT), turn(FULL), turn(BREAK_OFF), hangs_up];
    let answers = ask_in_turn(Protocol::Grpc, &url, turns, LONG).await;
    check_outcomes(
        &answers,
        &[
            (Outcome::Complete, 3, 3),
            (failed("wrong length", "2 of 3 tokens"), 2, 2),
            (failed("ResourceExhausted", "the queue is full"), 0, 0),
            (failed("Unknown", "the stream ended without a last message"), 1, 1),
            (Outcome::HungUp, 2, 2),
        ],
    );
    assert_eq!((answers[0].received.prompt_tokens, answers[0].received.cached_tokens), (3, 2));
    let asked = stub.asked.lock().expect("no panic");
    let (first, has_deadline) = &asked[0];
    let sampling = first.sampling.as_ref().expect("it is always set");
    assert_eq!((sampling.temperature, sampling.ignore_eos), (Some(0.0), Some(true)));
    assert_eq!((first.cache_salt.as_deref(), *has_deadline), (Some("acme"), false));
}

#[tokio::test]
async fn what_never_comes_is_waited_for_as_long_as_it_should() {
    let (stub, url) = serve().await;
    let impatient = Turn { deadline_ms: Some(20), ..turn(NEVER) };
    let answers = ask_in_turn(Protocol::Grpc, &url, vec![impatient, turn(NEVER)], Duration::from_millis(20)).await;
    let expected = [(Outcome::DeadlineMissed, 0, 0), (failed("timed out", "no end within 20ms"), 0, 0)];
    check_outcomes(&answers, &expected);
    let deadlines: Vec<bool> = stub.asked.lock().expect("no panic").iter().map(|(_, deadline)| *deadline).collect();
    assert_eq!(deadlines, [true, false]);
}

#[tokio::test]
async fn a_conversation_goes_on_until_it_breaks_off() {
    let (stub, url) = serve().await;
    let conversations = vec![
        vec![turn(WHOLE), Turn { pause_ms: 1, ..turn(WHOLE) }],
        vec![turn(FULL), Turn { pause_ms: 1, ..turn(WHOLE) }],
    ];
    let answers = ask(Protocol::Grpc, &url, plan(conversations), &Arrivals::AllAtOnce {}, LONG).await;
    assert_eq!(stub.asked.lock().expect("no panic").len(), 3);
    let whole: Vec<_> = answers.iter().filter(|answer| answer.outcome == Outcome::Complete).collect();
    assert_eq!(whole.len(), 2);
    assert_eq!(whole[1].intended_at, whole[0].ended_at + Duration::from_millis(1));
}

#[tokio::test]
async fn many_streams_are_under_way_at_once() {
    let (_, url) = serve().await;
    let plan = plan(vec![vec![turn(CROWD)]; NUM_CROWD]);
    let answers = ask(Protocol::Grpc, &url, plan, &Arrivals::AllAtOnce {}, Duration::from_secs(60)).await;
    assert_eq!(answers.len(), NUM_CROWD);
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::Complete), "{:?}", answers[0].outcome);
}

#[tokio::test]
async fn no_server_is_said_so() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let url = format!("http://{}", gone.local_addr().expect("it is bound"));
    drop(gone);
    for protocol in [Protocol::Grpc, Protocol::Openai] {
        let Err(error) = benches::load::Server::connect(protocol, &url, 1, Duration::ZERO).await else {
            panic!("nobody listens there")
        };
        assert!(format!("{error:#}").contains(&format!("cannot reach {url}")), "{error:#}");
    }
}
