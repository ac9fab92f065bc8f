//! `pagewise pull`: a model from where it is published into the cache, whole and checked, or not at all.
//!
//! A source only fills a staging folder; knows what a name means and what to say when it fails, not how models are run.

mod checksum;
mod demo;
mod hub;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cache::ModelCache;
use crate::cli::PullArgs;

pub(crate) use demo::{DEMO_FILE, DEMO_MODEL};

/// Runs the command. The model's path goes to stdout.
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    let path = pull(&ModelCache::of_user()?, &args.model)?;
    println!("{}", path.display());
    Ok(())
}

/// Makes sure that a model is in the cache, and returns where.
fn pull(cache: &ModelCache, model: &str) -> Result<PathBuf> {
    if model == DEMO_MODEL {
        return demo::pull(cache, &demo::published());
    }
    match hub::HubModel::parse(model) {
        Some(model) => hub::pull(cache, &model, &hub::Hub::of_environment()),
        None => bail!(
            "`{model}` names no model that can be pulled: `{DEMO_MODEL}` does, and so does a Hugging Face id, `owner/name` \
             or `owner/name/file.gguf`"
        ),
    }
}
