//! The files of a model: what `--model` names, opened and mapped, and what each kind of them has to offer. Knows where
//! things are, not what they mean: parsers and the runner do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use model_format::{ConfigSource, GenerationDefaults, Gguf, ModelConfig, Safetensors, SafetensorsIndex};
use model_runner::{Checkpoint, check_architecture};
use tokenization::{ChatTemplate, Tokenizer};

use crate::cache::ModelCache;
use crate::cli::LoadFormat;
use crate::mmap::MappedFile;
use crate::pull::{DEMO_FILE, DEMO_MODEL};
use crate::text_file;

/// An opened model.
pub(crate) struct ModelFiles {
    /// The last part of its path: the name under which it is served.
    pub(crate) name: String,
    kind: Kind,
    load_format: LoadFormat,
}

enum Kind {
    Gguf {
        file: MappedFile,
        gguf: Gguf,
    },
    /// `shards` is empty where weights are made, not read.
    Folder {
        path: PathBuf,
        config: ModelConfig,
        shards: Vec<(Safetensors, MappedFile)>,
    },
}

/// What turns text into tokens and back.
pub(crate) struct TextParts {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
}

impl ModelFiles {
    /// Opens a model by path, or by the name of a pulled one.
    ///
    /// # Errors
    /// There is no such model, a file cannot be read, or a header does not parse.
    pub(crate) fn open(model: &str, load_format: LoadFormat) -> Result<Self> {
        let path = find(model, &ModelCache::of_user())?;
        // What is served under a cached folder's name is the model's name, not "snapshot".
        let named = if path.ends_with("snapshot") { Path::new(model) } else { path.as_path() };
        let name = named.file_name().unwrap_or(named.as_os_str()).to_string_lossy().into_owned();
        let kind = match path.is_dir() {
            true => open_folder(&path, load_format),
            false if path.extension().is_some_and(|extension| extension == "json") => open_config(&path, load_format),
            false => open_gguf(&path),
        };
        Ok(Self { name, kind: kind?, load_format })
    }

    /// The model's config and tensors.
    ///
    /// # Errors
    /// The architecture is not supported, or config and tensors contradict each other.
    pub(crate) fn checkpoint(&self, dummy_seed: u64) -> Result<Checkpoint<'_>> {
        let checkpoint = match (&self.kind, self.load_format) {
            (Kind::Gguf { file, gguf }, LoadFormat::Auto) => Checkpoint::from_gguf(gguf, file),
            (Kind::Gguf { file, gguf }, LoadFormat::Dummy) => {
                Checkpoint::dummy(ModelConfig::from_gguf(gguf, file)?, dummy_seed)
            }
            (Kind::Folder { config, .. }, LoadFormat::Dummy) => Checkpoint::dummy(config.clone(), dummy_seed),
            (Kind::Folder { config, shards, .. }, LoadFormat::Auto) => {
                let shards: Vec<(Safetensors, &[u8])> =
                    shards.iter().map(|(header, file)| (header.clone(), &**file)).collect();
                Checkpoint::from_safetensors(config.clone(), &shards)
            }
        };
        checkpoint.with_context(|| format!("cannot use the model {}", self.name))
    }

    /// Tokenizer and chat template; `None` if the model has no tokenizer, as a bare config.json.
    ///
    /// # Errors
    /// One of them is there and cannot be used.
    pub(crate) fn text_parts(&self) -> Result<Option<TextParts>> {
        match &self.kind {
            Kind::Gguf { gguf, .. } => {
                let tokenizer = Tokenizer::from_gguf(gguf).context("the tokenizer of the GGUF file")?;
                let template =
                    ChatTemplate::from_gguf(gguf, &tokenizer).context("the chat template of the GGUF file")?;
                Ok(Some(TextParts { tokenizer: Arc::new(tokenizer), template }))
            }
            Kind::Folder { path, .. } => folder_text_parts(path),
        }
    }

    /// What the model's authors recommend for sampling.
    ///
    /// # Errors
    /// What they wrote cannot be used.
    pub(crate) fn generation_defaults(&self) -> Result<GenerationDefaults> {
        match &self.kind {
            Kind::Gguf { gguf, .. } => Ok(GenerationDefaults::from_gguf(gguf)?),
            Kind::Folder { path, .. } => {
                let json = text_file::read_if_there(&path.join("generation_config.json"))?;
                Ok(json.map(|json| GenerationDefaults::from_json(&json)).transpose()?.unwrap_or_default())
            }
        }
    }

    /// One line about the files, for people.
    pub(crate) fn describe(&self) -> String {
        match (&self.kind, self.load_format) {
            (_, LoadFormat::Dummy) => "random weights".to_string(),
            (Kind::Gguf { gguf, file }, _) => format!("GGUF v{}, {} bytes", gguf.version(), file.len()),
            (Kind::Folder { shards, .. }, _) => format!("safetensors, {} file(s)", shards.len()),
        }
    }
}

/// The path that `--model` means: itself if it is there, else a pulled model of that name.
fn find(model: &str, cache: &Result<ModelCache>) -> Result<PathBuf> {
    let path = PathBuf::from(model);
    match path.try_exists() {
        Ok(true) => return Ok(path),
        Ok(false) => {}
        Err(error) => bail!("cannot read {model}: {error}"),
    }
    let cache = cache.as_ref().map_err(|error| anyhow!("{model} is not there, and {error}"))?;
    let names = match model {
        DEMO_MODEL => vec![DEMO_FILE.to_string()],
        name if name.split('/').all(|part| !part.is_empty() && !part.starts_with('.')) => {
            vec![format!("{name}/snapshot"), name.to_string()]
        }
        _ => Vec::new(),
    };
    let found =
        names.iter().map(|name| cache.path(name)).find(|path| path.join("config.json").exists() || path.is_file());
    found.with_context(|| {
        format!("there is no {model}: neither a file or folder, nor a pulled model (`pagewise pull` fetches one)")
    })
}

fn open_gguf(path: &Path) -> Result<Kind> {
    let file = MappedFile::open(path)?;
    let gguf = Gguf::parse(&file).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Kind::Gguf { file, gguf })
}

/// A config.json alone.
fn open_config(path: &Path, load_format: LoadFormat) -> Result<Kind> {
    if load_format != LoadFormat::Dummy {
        bail!("{} has no weights; --load-format dummy makes some", path.display());
    }
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    Ok(Kind::Folder { config: read_config(path)?, path: folder, shards: Vec::new() })
}

fn open_folder(path: &Path, load_format: LoadFormat) -> Result<Kind> {
    let config = read_config(&path.join("config.json"))?;
    let shards = match load_format {
        LoadFormat::Dummy => Vec::new(),
        LoadFormat::Auto => open_shards(path)?,
    };
    Ok(Kind::Folder { path: path.to_path_buf(), config, shards })
}

/// The architecture is judged first: an unknown one is refused as such, and not for the first of its unknown fields.
fn read_config(path: &Path) -> Result<ModelConfig> {
    let json = text_file::read(path)?;
    let read = || -> Result<ModelConfig> {
        check_architecture(&ModelConfig::architecture_from_json(&json)?, ConfigSource::HuggingFace)?;
        Ok(ModelConfig::from_json(&json)?)
    };
    read().with_context(|| format!("cannot use {}", path.display()))
}

fn open_shards(folder: &Path) -> Result<Vec<(Safetensors, MappedFile)>> {
    const INDEX: &str = "model.safetensors.index.json";
    let Some(json) = text_file::read_if_there(&folder.join(INDEX))? else {
        return Ok(vec![open_shard(&folder.join("model.safetensors"))?]);
    };
    let index =
        SafetensorsIndex::parse(&json).with_context(|| format!("cannot use {}", folder.join(INDEX).display()))?;
    let mut shards = Vec::new();
    for name in index.shards() {
        let shard = open_shard(&folder.join(name))?;
        index.check_shard(name, &shard.0)?;
        shards.push(shard);
    }
    Ok(shards)
}

fn open_shard(path: &Path) -> Result<(Safetensors, MappedFile)> {
    let file = MappedFile::open(path)?;
    let header = Safetensors::parse(&file).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((header, file))
}

fn folder_text_parts(folder: &Path) -> Result<Option<TextParts>> {
    let path = folder.join("tokenizer.json");
    let Some(json) = text_file::read_if_there(&path)? else { return Ok(None) };
    let config = text_file::read_if_there(&folder.join("tokenizer_config.json"))?;
    let tokenizer = Tokenizer::from_json(json.as_bytes(), config.as_deref())
        .with_context(|| format!("cannot use {}", path.display()))?;
    let template = match (text_file::read_if_there(&folder.join("chat_template.jinja"))?, &config) {
        (Some(source), _) => Some(ChatTemplate::new(&source, &tokenizer)?),
        (None, Some(config)) => ChatTemplate::from_tokenizer_config(config, &tokenizer)?,
        (None, None) => None,
    };
    Ok(Some(TextParts { tokenizer: Arc::new(tokenizer), template }))
}
