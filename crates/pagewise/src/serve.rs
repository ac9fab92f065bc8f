//! `pagewise serve`: listen, load, serve, drain. Knows no message of the protocol.

use std::time::Duration;

use anyhow::{Context, Result};
use generation::{Generator, Health};
use grpc_server::ServeOptions;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::cli::ServeArgs;
use crate::interrupts::Interrupts;
use crate::phases::Phases;
use crate::wiring::Profile;
use crate::{heap, output, wiring};

/// How often a lost device is looked for. Clients learn of it at once, by their streams.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);

/// Runs the command, until an interrupt or the loss of the device. A second interrupt cuts the drain
/// short.
pub(crate) async fn run(args: &ServeArgs, mut phases: Phases) -> Result<()> {
    phases.end("command line");
    // Before the model: a port in use is found at once, and clients that come early wait.
    let listener = listen(&args.host, args.port).await?;
    let address = listener.local_addr().context("the listener has no address")?;
    phases.end("listener");
    let started = wiring::start_with(&args.engine, Profile::Off, &mut phases)?;
    let generator = started.generator()?;
    phases.end("tokenizer");
    output::note(started.describe());

    let options = ServeOptions {
        device: started.model.device.clone(),
        drain_timeout: Duration::from_secs(args.shutdown_timeout),
        ..ServeOptions::default()
    };
    drop(started);
    heap::give_back_freed();
    // Before the address is told: who knows it may end the server at once, and expects the drain.
    let mut interrupts = Interrupts::new()?;
    phases.end("rest");
    output::note(phases.describe());
    // Whoever started the server may not want to know.
    let _ = output::print_line(format_args!("http://{address}"));
    output::note(format_args!("ready on http://{address}; Ctrl-C drains and ends"));

    let (drain, draining) = oneshot::channel::<()>();
    let shutdown = {
        let generator = generator.clone();
        async move {
            tokio::select! {
                _ = draining => {}
                () = device_lost(&generator) => {}
            }
        }
    };
    let hurry = async {
        interrupts.next().await;
        output::note("draining; another interrupt cancels what still runs");
        let _ = drain.send(());
        interrupts.next().await;
        let _ = generator.drain(Duration::ZERO).await;
        std::future::pending().await
    };
    tokio::select! {
        result = grpc_server::serve(listener, generator.clone(), options, shutdown) => Ok(result?),
        never = hurry => match never {},
    }
}

async fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let mut addresses = tokio::net::lookup_host((host, port)).await.with_context(|| format!("--host {host}"))?;
    let address = addresses.next().with_context(|| format!("--host {host} has no address"))?;
    Ok(grpc_server::bind(address).await?)
}

/// Returns when the device is lost.
async fn device_lost(generator: &Generator) {
    while !matches!(generator.health(), Health::Failed(_)) {
        tokio::time::sleep(HEALTH_PERIOD).await;
    }
}
