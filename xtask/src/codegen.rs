//! Generated code: makes the Rust code and the descriptor set of `proto/`, or checks that the committed ones are current.
//!
//! Compiles with protox, so that no protoc is needed. Knows the protocol's files, not what they say.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use prost::Message;

/// The protocol's files, below `proto/`.
const PROTO_FILES: [&str; 1] = ["pagewise/v1/inference.proto"];
/// Where the generated files are committed.
const GENERATED: &str = "crates/inference-proto/src/generated";
/// The descriptor set, as reflection serves it.
const DESCRIPTOR_SET: &str = "descriptor_set.bin";

/// Writes the generated files, or with `check` only compares them with the committed ones.
///
/// # Errors
/// The protocol does not compile, a file cannot be read or written, or (with `check`) a committed file is not current.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
    let committed = root.join(GENERATED);
    let stale: Vec<String> = generate(root)?
        .into_iter()
        .filter(|file| fs::read(committed.join(&file.name)).ok().as_deref() != Some(&file.bytes))
        .map(|file| if check { Ok(file.name) } else { file.write(&committed) })
        .collect::<Result<_>>()?;
    match (check, stale.is_empty()) {
        (_, true) => println!("codegen: {GENERATED} is current"),
        (false, false) => println!("codegen: wrote {} in {GENERATED}", stale.join(", ")),
        (true, false) => {
            bail!("not current in {GENERATED}: {}; run `cargo xtask codegen` and commit the result", stale.join(", "))
        }
    }
    Ok(())
}

/// A generated file in memory.
struct GeneratedFile {
    name: String,
    bytes: Vec<u8>,
}

impl GeneratedFile {
    fn write(self, folder: &Path) -> Result<String> {
        let path = folder.join(&self.name);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, &self.bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(self.name)
    }
}

/// Compiles the protocol: one Rust file a package, and the descriptor set.
fn generate(root: &Path) -> Result<Vec<GeneratedFile>> {
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
