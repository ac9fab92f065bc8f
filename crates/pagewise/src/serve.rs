//! `pagewise serve`: listen, load, serve, drain. Knows no message of the protocol.

use std::time::Duration;

use anyhow::{Context, Result};
use generation::{Generator, Health};
use grpc_server::ServeOptions;
use tokio::net::TcpListener;

use crate::cli::ServeArgs;
use crate::wiring;

/// How often a lost device is looked for. Clients learn of it at once, by their streams.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);

/// Runs the command, until an interrupt or the loss of the device.
pub(crate) async fn run(args: &ServeArgs) -> Result<()> {
    // Before the model: a port in use is found at once, and clients that come early wait.
    let listener = listen(&args.host, args.port).await?;
    let address = listener.local_addr().context("the listener has no address")?;
    let started = wiring::start(&args.engine)?;
    let generator = started.generator()?;
    eprintln!("{}", started.describe());

    let options = ServeOptions {
        device: started.device.clone(),
        drain_timeout: Duration::from_secs(args.shutdown_timeout.into()),
        ..ServeOptions::default()
    };
    drop(started);
    println!("http://{address}");
    eprintln!("ready on http://{address}; Ctrl-C drains and ends");
    let shutdown = end_of_service(generator.clone());
    Ok(grpc_server::serve(listener, generator, options, shutdown).await?)
}

async fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let mut addresses = tokio::net::lookup_host((host, port)).await.with_context(|| format!("--host {host}"))?;
    let address = addresses.next().with_context(|| format!("--host {host} has no address"))?;
    Ok(grpc_server::bind(address).await?)
}

/// Returns on SIGINT, on SIGTERM, and when the device is lost.
async fn end_of_service(generator: Generator) {
    let device_lost = async {
        while !matches!(generator.health(), Health::Failed(_)) {
            tokio::time::sleep(HEALTH_PERIOD).await;
        }
    };
    tokio::select! {
        () = interrupted() => eprintln!("draining"),
        () = device_lost => {}
    }
}

#[cfg(unix)]
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
