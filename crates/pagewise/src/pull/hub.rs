//! Models from a Hugging Face hub, through `hf-hub`. Knows which files a model consists of, not what is in them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError};
use indicatif::ProgressBar;

use super::checksum::copy_hashing;
use crate::progress;

/// Where the hub is, and who asks.
#[derive(Clone)]
pub(crate) struct Hub {
    /// Its address; `None` is the public hub.
    endpoint: Option<String>,
    /// Opens gated and private models.
    token: Option<String>,
    /// Times that a broken transfer is taken up again.
    max_retries: usize,
}

impl Hub {
    /// As the variables of Hugging Face's own tools say: `HF_ENDPOINT`, `HF_TOKEN`, and the token that `hf auth login`
    /// left behind.
    pub(crate) fn of_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let token = variable("HF_TOKEN").or_else(|| hf_hub::Cache::from_env().token());
        let endpoint = variable("HF_ENDPOINT").map(|address| address.trim_end_matches('/').to_string());
        Self { endpoint, token, max_retries: 5 }
    }

    fn name(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("https://huggingface.co")
    }
}

/// A model on a hub: a whole one, or one GGUF file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubModel {
    /// `owner/name`.
    id: String,
    gguf: Option<String>,
}

impl HubModel {
    /// Reads `owner/name` or `owner/name/file.gguf`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| is_plain_name(part)) {
            return None;
        }
        match parts[..] {
            [owner, name] => Some(Self { id: format!("{owner}/{name}"), gguf: None }),
            [owner, name, file] if file.ends_with(".gguf") => {
                Some(Self { id: format!("{owner}/{name}"), gguf: Some(file.to_string()) })
            }
            _ => None,
        }
    }

    /// Its place in the cache.
    pub(crate) fn cache_name(&self) -> String {
        format!("{}/{}", self.id, self.gguf.as_deref().unwrap_or("snapshot"))
    }
}

/// A name that stays in its folder.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Brings a model into a folder, checked.
pub(crate) async fn fetch(model: HubModel, hub: Hub, folder: &Path) -> Result<PathBuf> {
    let folder = folder.to_path_buf();
    super::blocking(move || fetch_blocking(&model, &hub, &folder)).await
}

fn fetch_blocking(model: &HubModel, hub: &Hub, folder: &Path) -> Result<PathBuf> {
    let builder = ApiBuilder::from_env()
        .with_progress(false)
        .with_cache_dir(folder.join("hub"))
        .with_token(hub.token.clone())
        .with_retries(hub.max_retries)
        .with_endpoint(hub.name().to_string());
    let repo = builder.build().map_err(|error| explain(&error, model, hub))?.model(model.id.clone());

    let siblings = repo.info().map_err(|error| explain(&error, model, hub))?.siblings;
    let published: Vec<String> = siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let staged = folder.join("model");
    std::fs::create_dir(&staged).with_context(|| format!("cannot write {}", staged.display()))?;
    for file in files_to_take(model, &published)? {
        let bar = Bar(progress::byte_bar(file, 0));
        let downloaded = repo.download_with_progress(file, bar).map_err(|error| explain(&error, model, hub));
        downloaded.and_then(|path| take(&path, &staged.join(file))).with_context(|| format!("cannot fetch {file}"))?;
    }
    Ok(model.gguf.as_ref().map_or(staged.clone(), |file| staged.join(file)))
}

/// `hf-hub`'s view of our progress bar.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn init(&mut self, size: usize, _filename: &str) {
        self.0.set_length(size as u64);
        self.0.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The published files that make up a model.
fn files_to_take<'f>(model: &HubModel, published: &'f [String]) -> Result<Vec<&'f str>> {
    let names = || published.iter().map(String::as_str).filter(|name| is_plain_name(name));
    let ggufs = || names().filter(|name| name.ends_with(".gguf")).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = &model.gguf {
        let Some(file) = names().find(|name| name == wanted) else {
            let there = ggufs();
            let there = if there.is_empty() { "no GGUF file" } else { &there };
            bail!("{} has no {wanted}; it has {there}", model.id);
        };
        return Ok(vec![file]);
    }
    const METADATA: [&str; 6] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    ];
    let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
    let files: Vec<&str> = names().filter(|name| METADATA.contains(name) || is_weights(name)).collect();
    if files.contains(&"config.json") && files.iter().any(|name| is_weights(name)) {
        return Ok(files);
    }
    match ggufs() {
        there if there.is_empty() => bail!("{} has no config.json with safetensors, and no GGUF file", model.id),
        there => bail!("{0} has GGUF files only; pull one of them as {0}/<file>: {there}", model.id),
    }
}

/// Moves a downloaded file to its place, and to the disk. The hub names large files by their SHA-256, which is checked.
fn take(downloaded: &Path, to: &Path) -> Result<()> {
    let blob = downloaded.canonicalize().context("the downloaded file is not there")?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let hash = copy_hashing(&mut File::open(&blob)?, &mut io::sink(), |_| ())?;
        if !hash.eq_ignore_ascii_case(&name) {
            bail!("bad checksum: it has SHA-256 {hash}, expected {name}; nothing was kept");
        }
    }
    File::open(&blob)?.sync_all()?;
    Ok(std::fs::rename(&blob, to)?)
}

/// What an error of `hf-hub` means for who asked.
fn explain(error: &ApiError, model: &HubModel, hub: &Hub) -> anyhow::Error {
    let (id, name) = (&model.id, hub.name());
    match error {
        ApiError::TooManyRetries(last) => explain(last, model, hub),
        ApiError::IoError(error) if error.kind() == io::ErrorKind::StorageFull => anyhow!("the disk is full: {error}"),
        ApiError::RequestError(request) => match request.as_ref() {
            ureq::Error::StatusCode(404) => anyhow!("{name} has no model {id}"),
            ureq::Error::StatusCode(401 | 403) => {
                anyhow!("{name} has no model {id}, or shows it only to those whom HF_TOKEN names")
            }
            ureq::Error::StatusCode(status) => anyhow!("{name} answered with status {status}"),
            ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Io(_)
            | ureq::Error::Timeout(_) => {
                anyhow!("cannot reach {name}: {request}")
            }
            other => anyhow!("{name} cannot be used: {other}"),
        },
        other => anyhow!("{name}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use super::super::tests::pull_with;
    use super::*;
    use crate::cache::ModelCache;

    fn pull(cache: &ModelCache, model: &HubModel, hub: &Hub) -> Result<PathBuf> {
        let fetch = async |folder: &Path| fetch(model.clone(), hub.clone(), folder).await;
        pull_with(cache, &model.cache_name(), fetch)
    }

    /// A file of the fake hub.
    #[derive(Clone)]
    struct Published {
        content: &'static str,
        /// What the hub says about it: a git hash of small files, the SHA-256 of large ones.
        etag: String,
        /// Large files are elsewhere: the hub answers with a redirect.
        is_large: bool,
        /// Bytes of it that come over before the connection breaks.
        num_sent: usize,
    }

    fn small(content: &'static str) -> Published {
        Published { content, etag: "0123abcd".to_string(), is_large: false, num_sent: content.len() }
    }

    fn large(content: &'static str) -> Published {
        let etag = copy_hashing(&mut content.as_bytes(), &mut io::sink(), |_| ()).expect("hashed");
        Published { content, etag, is_large: true, num_sent: content.len() }
    }

    /// Serves one model, `owner/name`, as the hub's API does. Lives as long as the test's process.
    fn serve(files: &[(&'static str, Published)]) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let files: Arc<BTreeMap<&str, Published>> = Arc::new(files.iter().cloned().collect());
        let address = endpoint.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (files, address) = (files.clone(), address.clone());
                std::thread::spawn(move || answer(&connection, &files, &address));
            }
        });
        Hub { endpoint: Some(endpoint), token: None, max_retries: 0 }
    }

    /// Answers one request and closes.
    fn answer(mut connection: &TcpStream, files: &BTreeMap<&str, Published>, address: &str) -> Option<()> {
        let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
        let path = lines.next()?.split(' ').nth(1)?.to_string();
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
        let range = headers.iter().find_map(|line| line.strip_prefix("range: bytes="));
        let (head, body) = if path == "/api/models/owner/name/revision/main" {
            let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let body = serde_json::json!({ "sha": "c0ffee", "siblings": siblings }).to_string();
            (format!("200 OK\r\nContent-Length: {}", body.len()), body)
        } else if let Some(file) = path.strip_prefix("/owner/name/resolve/main/").and_then(|name| files.get(name)) {
            let name = path.rsplit('/').next()?;
            let about = format!("X-Repo-Commit: c0ffee\r\nETag: \"{}\"", file.etag);
            if file.is_large {
                (
                    format!("302 Found\r\nContent-Length: 0\r\nLocation: {address}/large/{name}\r\n{about}"),
                    String::new(),
                )
            } else {
                part(file, range?, &about)
            }
        } else if let Some(file) = path.strip_prefix("/large/").and_then(|name| files.get(name)) {
            part(file, range?, "X-Large: yes")
        } else {
            ("404 Not Found\r\nContent-Length: 0".to_string(), String::new())
        };
        write!(connection, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}").ok()
    }

    /// The part of a file that a `Range` asks for: `0-0` or `<start>-`.
    fn part(file: &Published, range: &str, about: &str) -> (String, String) {
        let (start, end) = range.split_once('-').expect("a range");
        let start: usize = start.parse().expect("a number");
        let len = file.content.len();
        let end = end.parse().map_or(len, |last: usize| last + 1).min(len);
        let head = format!(
            "206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{len}\r\n{about}",
            end - start,
            end - 1
        );
        (head, file.content[start..end.min(file.num_sent)].to_string())
    }

    /// Pulls into an empty cache and says what is there afterwards, or why nothing is.
    #[track_caller]
    fn check(hub: &Hub, model: &str, expected: Result<&[(&str, &str)], &str>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = ModelCache::at(folder.path());
        let model = HubModel::parse(model).expect("a model's name");
        match (pull(&cache, &model, hub), expected) {
            (Ok(path), Ok(files)) => {
                let folder = if path.is_dir() { path } else { path.parent().expect("a parent").to_path_buf() };
                let mut found: Vec<String> = folder
                    .read_dir()
                    .expect("read")
                    .map(|entry| entry.expect("read").file_name().into_string().expect("UTF-8"))
                    .collect();
                found.sort();
                let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
                assert_eq!(found, names);
                for (name, content) in files {
                    assert_eq!(std::fs::read_to_string(folder.join(name)).expect("read"), *content, "{name}");
                }
                assert!(pull(&cache, &model, &unreachable_hub()).is_ok(), "what is there needs no hub");
            }
            (Err(error), Err(expected)) => {
                let error = format!("{error:#}");
                assert!(error.contains(expected), "{error}");
                assert_eq!(folder.path().read_dir().expect("read").count(), 0, "nothing is left of a failed pull");
            }
            (outcome, expected) => panic!("{outcome:?}, expected {expected:?}"),
        }
    }

    /// A port on which nobody listens.
    fn unreachable_hub() -> Hub {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        Hub { endpoint: Some(format!("http://127.0.0.1:{port}")), token: None, max_retries: 0 }
    }

    #[test]
    fn models_come_whole_or_not_at_all() {
        let config = ("config.json", small("{}"));
        let weights = ("model.safetensors", large("weights"));
        let hub = serve(&[
            config.clone(),
            weights.clone(),
            ("tokenizer.json", small("tokens")),
            ("README.md", small("words")),
            ("consolidated.safetensors", large("the same again")),
            ("../escape.json", small("no")),
            ("q8.gguf", large("one file")),
        ]);
        let all = [("config.json", "{}"), ("model.safetensors", "weights"), ("tokenizer.json", "tokens")];
        check(&hub, "owner/name", Ok(&all));
        check(&hub, "owner/name/q8.gguf", Ok(&[("q8.gguf", "one file")]));
        check(&hub, "owner/name/q4.gguf", Err("owner/name has no q4.gguf; it has q8.gguf"));
        check(&hub, "owner/none", Err("has no model owner/none"));
        check(&unreachable_hub(), "owner/name", Err("cannot reach http://127.0.0.1:"));

        let gguf_only = serve(&[("q8.gguf", large("one file"))]);
        check(
            &gguf_only,
            "owner/name",
            Err("owner/name has GGUF files only; pull one of them as owner/name/<file>: q8.gguf"),
        );
        check(
            &serve(std::slice::from_ref(&config)),
            "owner/name",
            Err("owner/name has no config.json with safetensors, and no GGUF file"),
        );

        let corrupt = Published { content: "weighty", ..weights.1.clone() };
        let corrupt = serve(&[config.clone(), ("model.safetensors", corrupt)]);
        check(&corrupt, "owner/name", Err("cannot fetch model.safetensors: bad checksum: it has SHA-256"));
        let broken = Published { num_sent: 3, ..weights.1 };
        check(&serve(&[config, ("model.safetensors", broken)]), "owner/name", Err("cannot fetch model.safetensors: "));
    }

    #[test]
    fn names() {
        let parse = |text: &str| HubModel::parse(text).map(|model| model.cache_name());
        assert_eq!(parse("Qwen/Qwen3-0.6B").as_deref(), Some("Qwen/Qwen3-0.6B/snapshot"));
        assert_eq!(parse("a/b/c.gguf").as_deref(), Some("a/b/c.gguf"));
        for wrong in ["", "a", "a/", "/b", "a/..", "../b", "a/b/c", "a/b/../c.gguf", "a/b c", "a//b"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
