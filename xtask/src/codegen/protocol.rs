//! The wire protocol in Rust, and its descriptor set, from `proto/`.
//!
//! Compiles with protox, so that no protoc is needed. Knows the protocol's files, not what they say.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use prost::Message;

use super::GeneratedFile;

/// The protocol's files, below `proto/`.
const PROTO_FILES: [&str; 1] = ["pagewise/v1/inference.proto"];
/// Where the generated files are committed.
pub(super) const GENERATED: &str = "crates/inference-proto/src/generated";
/// The descriptor set, as reflection serves it.
const DESCRIPTOR_SET: &str = "descriptor_set.bin";

/// Compiles the protocol: one Rust file a package, and the descriptor set.
///
/// # Errors
/// The protocol does not compile.
pub(super) fn generate(root: &Path) -> Result<Vec<GeneratedFile>> {
    let mut descriptors =
        protox::compile(PROTO_FILES, [root.join("proto")]).context("the protocol does not compile")?;
    let rust = compile_rust(descriptors.clone())?;
    // Positions and comments serve the Rust code's documentation only.
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    let set = GeneratedFile { name: DESCRIPTOR_SET.to_owned(), bytes: descriptors.encode_to_vec() };
    Ok(rust.into_iter().chain([set]).collect())
}

/// tonic and prost write to a folder: lets them use a temporary one and reads it.
fn compile_rust(descriptors: prost_types::FileDescriptorSet) -> Result<Vec<GeneratedFile>> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    tonic_prost_build::configure()
        .out_dir(folder.path())
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .context("no Rust code could be generated")?;
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder.path())?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path.file_name().context("a generated file has no name")?.to_string_lossy().into_owned();
            Ok(GeneratedFile { name, bytes: fs::read(&path)? })
        })
        .collect()
}
