//! A server under test and its client. Knows no test.

use std::net::SocketAddr;

use grpc_server::{ServeError, ServeOptions, bind, serve};
use inference_proto::v1::inference_client::InferenceClient;
use inference_proto::v1::{
    Delta, Finished, GenerateRequest, GenerateResponse, SamplingParams, TokenIds, generate_request::Input,
    generate_response::Event,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::support::{Fixture, Setup};

/// The prompt of every request that does not say otherwise.
pub(crate) const PROMPT: [u32; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

pub(crate) struct Served {
    pub(crate) fixture: Fixture,
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) client: InferenceClient<Channel>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    pub(crate) async fn new(setup: Setup) -> Self {
        Self::with_options(setup, ServeOptions::default()).await
    }

    pub(crate) async fn with_options(setup: Setup, options: ServeOptions) -> Self {
        let fixture = setup.build();
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, fixture.generator.clone(), options, async {
            let _ = stopped.await;
        }));
        let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
        let client = InferenceClient::new(channel.clone());
        Self { fixture, address, channel, client, stop, server }
    }

    /// Asks the server to shut down; the result is that of [`serve`].
    pub(crate) fn shut_down(self) -> JoinHandle<Result<(), ServeError>> {
        self.stop.send(()).unwrap();
        self.server
    }
}

/// So many tokens whatever they are.
pub(crate) fn request(max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        input: Some(Input::TokenIds(TokenIds { ids: PROMPT.to_vec() })),
        sampling: Some(SamplingParams {
            max_tokens: Some(max_tokens),
            ignore_eos: Some(true),
            ..SamplingParams::default()
        }),
        ..GenerateRequest::default()
    }
}

/// What a stream gave until its end.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) deltas: Vec<Delta>,
    pub(crate) finished: Vec<Finished>,
    pub(crate) num_prompt_logprobs: Vec<usize>,
    /// The status at the end, unless it is OK.
    pub(crate) status: Option<Status>,
}

impl Received {
    pub(crate) async fn read(mut stream: Streaming<GenerateResponse>) -> Self {
        let mut received = Self::default();
        loop {
            match stream.message().await {
                Ok(Some(response)) => match response.event.expect("every message has an event") {
                    Event::Delta(delta) => received.deltas.push(delta),
                    Event::Finished(finished) => received.finished.push(finished),
                    Event::PromptLogprobs(part) => received.num_prompt_logprobs.push(part.tokens.len()),
                },
                Ok(None) => return received,
                Err(status) => {
                    received.status = Some(status);
                    return received;
                }
            }
        }
    }

    pub(crate) fn text_of(&self, index: u32) -> String {
        self.deltas.iter().filter(|delta| delta.index == index).map(|delta| delta.text.as_str()).collect()
    }

    pub(crate) fn tokens_of(&self, index: u32) -> Vec<u32> {
        self.deltas.iter().filter(|delta| delta.index == index).flat_map(|delta| delta.token_ids.clone()).collect()
    }
}
