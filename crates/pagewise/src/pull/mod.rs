//! `pagewise pull`: a model from where it is published into the cache, whole and checked, or not at all.
//!
//! A source only fills a staging folder; knows what a name means and what to say when it fails, not how models are run.

mod checksum;
mod demo;
mod hub;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::ModelCache;
use crate::cli::PullArgs;
use crate::interrupts::Interrupts;
use crate::output;

pub(crate) use demo::{DEMO_FILE, DEMO_MODEL};

/// Runs the command. The model's path goes to stdout.
pub(crate) async fn run(args: &PullArgs) -> Result<()> {
    let cache = ModelCache::of_user()?;
    let mut interrupts = Interrupts::new()?;
    let path = tokio::select! {
        path = pull(&cache, &args.model) => path?,
        () = interrupts.next() => bail!("interrupted; nothing was kept"),
    };
    output::print_line(path.display())
}

/// Makes sure that a model is in the cache, and returns where. When it is given up, nothing is left of it.
async fn pull(cache: &ModelCache, model: &str) -> Result<PathBuf> {
    if model == DEMO_MODEL {
        return pull_with(cache, DEMO_FILE, async |folder| demo::fetch(demo::published(), folder).await).await;
    }
    let Some(model) = hub::HubModel::parse(model) else {
        bail!(
            "`{model}` names no model that can be pulled: `{DEMO_MODEL}` does, and so does a Hugging Face id, `owner/name` \
             or `owner/name/file.gguf`"
        )
    };
    let name = model.cache_name();
    pull_with(cache, &name, async |folder| hub::fetch(model, hub::Hub::of_environment(), folder).await).await
}

/// Makes sure that the cache has a model of this name. `fetch` brings it into a folder that is there for this alone, checks
/// it, and returns where it lies.
async fn pull_with(
    cache: &ModelCache,
    name: &str,
    fetch: impl AsyncFnOnce(&Path) -> Result<PathBuf>,
) -> Result<PathBuf> {
    if let Some(path) = cache.find(name) {
        return Ok(path);
    }
    let staging = blocking({
        let cache = cache.clone();
        move || cache.staging()
    });
    let staging = staging.await?;
    // Perhaps brought by the pull that this one waited for.
    if let Some(path) = cache.find(name) {
        return Ok(path);
    }
    let staged = fetch(staging.path()).await?;
    staging.publish(&staged, name)
}

/// Runs work that blocks its thread, so that an interrupt is heard meanwhile.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread failed")?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pulls on a runtime of its own.
    pub(super) fn pull_with(
        cache: &ModelCache,
        name: &str,
        fetch: impl AsyncFnOnce(&Path) -> Result<PathBuf>,
    ) -> Result<PathBuf> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(super::pull_with(cache, name, fetch))
    }
}
