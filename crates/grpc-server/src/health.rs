//! `grpc.health.v1` over the engine's own health, asked at the moment of each call: nothing has to be kept up to date.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use generation::{Generator, Health};
use inference_proto::v1::inference_server::SERVICE_NAME;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

/// How often the health is looked at for each watching client.
const WATCH_PERIOD: Duration = Duration::from_millis(250);

pub(crate) struct HealthService {
    pub(crate) generator: Generator,
    /// Becomes true when the server closes; watches then end, so that they do not hold it up.
    pub(crate) closing: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match status(&self.generator, &service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!("there is no service {service:?} here"))),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watch = Watch {
            generator: self.generator.clone(),
            service: request.into_inner().service,
            closing: self.closing.clone(),
            told: None,
        };
        let changes = stream::unfold(watch, |mut watch| async move {
            let status = watch.next().await?;
            Some((Ok(HealthCheckResponse { status: status.into() }), watch))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// One client that watches.
struct Watch {
    generator: Generator,
    service: String,
    closing: watch::Receiver<bool>,
    /// What the client knows.
    told: Option<ServingStatus>,
}

impl Watch {
    /// Waits for a status that the client does not know yet; `None` once the server closes.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let status = status(&self.generator, &self.service);
            if self.told.replace(status) != Some(status) {
                return Some(status);
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_PERIOD) => {}
                _ = self.closing.wait_for(|&closing| closing) => return None,
            }
        }
    }
}

fn status(generator: &Generator, service: &str) -> ServingStatus {
    match generator.health() {
        _ if !service.is_empty() && service != SERVICE_NAME => ServingStatus::ServiceUnknown,
        Health::Serving => ServingStatus::Serving,
        Health::Draining | Health::Stopped | Health::Failed(_) => ServingStatus::NotServing,
    }
}
