//! The server under load, whatever it speaks. Knows no workload and no figures.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::answer::{Outcome, Reader};
use super::{grpc, openai};
use crate::workload::Turn;

/// How often a server that is not ready is asked again.
const RETRY: Duration = Duration::from_millis(5);

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The package pagewise.v1.
    Grpc,
    /// OpenAI's completions over HTTP/1.1, streamed as server-sent events.
    Openai,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct About {
    /// What it speaks.
    pub protocol: Protocol,
    /// The model's name.
    pub model: String,
    /// Its own version and device, if it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Number of token ids, if it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<u32>,
}

/// A server that can be asked.
pub struct Server {
    about: About,
    client: Client,
}

enum Client {
    Grpc(grpc::Client),
    OpenAi(Box<openai::Client>),
}

/// One request as it is sent.
pub(super) struct Question<'a> {
    pub(super) turn: &'a Turn,
    /// Empty where there is only one.
    pub(super) tenant: &'a str,
    /// Until the request's deadline.
    pub(super) time_left: Option<Duration>,
}

impl Server {
    /// Connects, and asks what is served. A server that is not ready yet is waited for, if there is patience.
    ///
    /// # Errors
    /// What went wrong last, when patience ran out.
    pub async fn connect(protocol: Protocol, url: &str, num_connections: usize, patience: Duration) -> Result<Self> {
        let asked = Instant::now();
        loop {
            match Self::try_connect(protocol, url, num_connections).await {
                Ok(server) => return Ok(server),
                Err(error) if asked.elapsed() >= patience => return Err(error),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    async fn try_connect(protocol: Protocol, url: &str, num_connections: usize) -> Result<Self> {
        Ok(match protocol {
            Protocol::Grpc => {
                let (client, about) = grpc::Client::connect(url, num_connections).await?;
                Self { about, client: Client::Grpc(client) }
            }
            Protocol::Openai => {
                let (client, about) = openai::Client::connect(url).await?;
                Self { about, client: Client::OpenAi(Box::new(client)) }
            }
        })
    }

    /// What it says of itself.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Asks, and reads the answer to its end.
    pub(super) async fn ask(&self, question: &Question<'_>, reader: &mut Reader<'_>) -> Outcome {
        let outcome = match &self.client {
            Client::Grpc(client) => client.ask(question, reader).await,
            Client::OpenAi(client) => client.ask(question, reader).await,
        };
        outcome.unwrap_or_else(Outcome::Failed)
    }
}
