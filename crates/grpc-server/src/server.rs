//! The server's life: bind, serve, drain, close. Knows the services by name only.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use generation::{DrainOutcome, Generator};
use inference_proto::v1::inference_server::InferenceServer;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::{Router, Server, TcpIncoming};
use tonic_health::pb::health_server::HealthServer;

use crate::health::HealthService;
use crate::service::InferenceService;

/// How the server behaves towards its clients.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// What `GetServerInfo` calls the device: "cpu", "cuda:0" …
    pub device: String,
    /// What `GetServerInfo` calls the version.
    pub version: String,
    /// How long running requests may take to finish after the shutdown began; then they are cancelled.
    pub drain_timeout: Duration,
    /// How long connections may take to close after that.
    pub close_timeout: Duration,
    /// Largest request message, in bytes.
    pub max_request_bytes: usize,
    /// Most calls at once on one connection. The engine's own queue is what limits requests.
    pub max_concurrent_streams: u32,
    /// A connection without traffic is asked this often whether its client is alive; a dead one's requests are cancelled.
    pub keepalive_interval: Duration,
    /// How long it has to answer.
    pub keepalive_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            device: "cpu".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            drain_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            max_request_bytes: 8 << 20,
            max_concurrent_streams: 4096,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// Why the server could not start, or did not end well. For the operator.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Another program listens there.
    #[error("{address} is in use: another server runs there; stop it or choose another port with --port")]
    AddressInUse {
        /// Where.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The connections failed as a whole.
    #[error("the server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptor set is broken, which no user can cause.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The engine was lost while or before the server shut down.
    #[error("the engine failed: {0}")]
    Engine(String),
}

/// Takes the address, so that nobody else can from now on.
///
/// # Errors
/// [`ServeError::AddressInUse`], or [`ServeError::Bind`] for any other reason.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServeError::AddressInUse { address },
        _ => ServeError::Bind { address, source },
    })
}

/// Serves until `shutdown` completes, then drains: takes no more requests (UNAVAILABLE) and says so in the health check,
/// lets the running ones finish, cancels what is left after the drain's time, and closes the connections.
///
/// # Errors
/// The transport failed, or the engine was lost or did not come back from a step.
pub async fn serve(
    listener: TcpListener,
    generator: Generator,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (close, closing) = watch::channel(false);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = router(&generator, &options, closing.clone())?;
    let mut server = pin!(router.serve_with_incoming_shutdown(incoming, closed(closing)));

    tokio::select! {
        result = &mut server => return Ok(result?),
        () = shutdown => {}
    }
    // Connections stay open meanwhile: streams go on to their end, and health checks learn of it.
    let outcome = tokio::select! {
        result = &mut server => return Ok(result?),
        outcome = generator.drain(options.drain_timeout) => outcome,
    };
    close.send_replace(true);
    match tokio::time::timeout(options.close_timeout, server).await {
        Ok(result) => result?,
        Err(_) => tracing::warn!("some clients kept their connections open; closing them"),
    }
    match outcome {
        DrainOutcome::Finished => Ok(()),
        DrainOutcome::Cancelled { num_requests } => {
            tracing::warn!(num_requests, "cancelled what was still running when the drain's time was up");
            Ok(())
        }
        DrainOutcome::Failed(cause) => Err(ServeError::Engine(cause)),
        DrainOutcome::Stuck => Err(ServeError::Engine("it did not come back from a step".to_owned())),
    }
}

/// The services behind one port.
fn router(generator: &Generator, options: &ServeOptions, closing: watch::Receiver<bool>) -> Result<Router, ServeError> {
    let inference = InferenceService {
        generator: generator.clone(),
        device: options.device.clone(),
        version: options.version.clone(),
        started: Instant::now(),
    };
    let health = HealthService { generator: generator.clone(), closing };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(inference_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Server::builder()
        .max_concurrent_streams(options.max_concurrent_streams)
        .http2_keepalive_interval(Some(options.keepalive_interval))
        .http2_keepalive_timeout(Some(options.keepalive_timeout))
        .add_service(InferenceServer::new(inference).max_decoding_message_size(options.max_request_bytes))
        .add_service(HealthServer::new(health))
        .add_service(reflection().build_v1()?)
        // Many clients, the one for Python among them, still ask under the name of before version 1.
        .add_service(reflection().build_v1alpha()?))
}

async fn closed(mut closing: watch::Receiver<bool>) {
    // An error means that the server's own end is gone, which closes it as well.
    let _ = closing.wait_for(|&closing| closing).await;
}
