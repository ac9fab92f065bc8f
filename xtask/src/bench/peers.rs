//! The peers that `--peer` names. Knows where each comes from, and no measurement.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;

use super::contender::{Contender, running_at};
use super::llama::Llama;
use super::vllm;

/// One that is to be measured beside Pagewise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// llama.cpp: the pinned release, or the build of this server.
    LlamaServer(Option<PathBuf>),
    /// vLLM, with the model's folder in Hugging Face's layout.
    Vllm(PathBuf),
    /// Whatever listens there and speaks OpenAI's completions.
    Url(String),
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") {
            return Ok(Self::Url(text.to_string()));
        }
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name, Some(PathBuf::from(path))),
            None => (text, None),
        };
        match (name, path) {
            ("llama-server", path) => Ok(Self::LlamaServer(path)),
            ("vllm", Some(folder)) => Ok(Self::Vllm(folder)),
            ("vllm", None) => Err("vLLM needs the model in Hugging Face's layout: vllm=FOLDER".into()),
            _ => Err("llama-server, llama-server=PATH, vllm=FOLDER or http://HOST:PORT".into()),
        }
    }
}

impl fmt::Display for Peer {
    /// As it was named, but for the folders of paths, which are one machine's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            Self::LlamaServer(None) => f.write_str("llama-server"),
            Self::LlamaServer(Some(server)) => write!(f, "llama-server={}", name(server)),
            Self::Vllm(folder) => write!(f, "vllm={}", name(folder)),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl Peer {
    /// Fetches, builds or finds it; a peer that cannot be had is an error. Those that read a file get this model.
    pub(super) fn contender(&self, model: &Path) -> Result<Contender> {
        match self {
            Self::LlamaServer(server) => {
                let llama = server.as_deref().map_or_else(Llama::pinned, Llama::at)?;
                Ok(llama.contender("Q4_0", &llama.requantised(model)?))
            }
            Self::Vllm(folder) => vllm::contender(folder),
            Self::Url(url) => running_at(url, "openai"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named() {
        let check = |text: &str, expected: Peer| assert_eq!(text.parse(), Ok(expected));
        check("llama-server", Peer::LlamaServer(None));
        check("llama-server=/opt/llama-server", Peer::LlamaServer(Some("/opt/llama-server".into())));
        check("vllm=model", Peer::Vllm("model".into()));
        check("http://10.0.0.1:8000", Peer::Url("http://10.0.0.1:8000".into()));
        for text in ["vllm", "lama", "https://a", ""] {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
    }
}
