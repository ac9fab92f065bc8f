//! The index of a sharded safetensors model: which file holds which tensor. It knows names only and opens nothing.

use crate::{FormatError, Safetensors, error::shortened, json::Object};

/// The name of the file, for messages.
const FILE: &str = "model.safetensors.index.json";
const MAX_SHARDS: usize = 4096;

/// `model.safetensors.index.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetensorsIndex {
    /// Sorted and unique.
    shards: Vec<String>,
    /// Tensor name and index into `shards`, sorted by name.
    tensors: Vec<(String, usize)>,
}

impl SafetensorsIndex {
    /// Parses the text of the index. Shards are plain names of `.safetensors` files beside it, so an index leads
    /// neither out of its folder nor to itself or to another index.
    pub fn parse(json: &str) -> Result<Self, FormatError> {
        let mut fields = Object::parse(FILE, json)?;
        let weight_map = fields.take_object("weight_map")?.ok_or_else(|| FormatError::missing("weight_map"))?;
        let weight_map: Vec<(String, String)> = weight_map.into_typed()?;

        let mut shards: Vec<String> = weight_map.iter().map(|(_, shard)| shard.clone()).collect();
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > MAX_SHARDS {
            return Err(FormatError::corrupt(format_args!(
                "{FILE} names {} shards; at most {MAX_SHARDS} are allowed",
                shards.len()
            )));
        }
        if let Some(shard) = shards.iter().find(|shard| !is_shard_name(shard)) {
            return Err(FormatError::corrupt(format_args!(
                "{FILE} names the shard `{}`; a shard is a plain `.safetensors` file name without a path",
                shortened(shard)
            )));
        }
        let mut tensors = Vec::with_capacity(weight_map.len());
        for (name, shard) in weight_map {
            let shard = shards.binary_search(&shard).expect("the shards were collected from the same map");
            tensors.push((name, shard));
        }
        tensors.sort_unstable();
        Ok(Self { shards, tensors })
    }

    /// The file names of the shards, sorted and unique.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// Every tensor and the file name of its shard, sorted by tensor.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.tensors.iter().map(|(name, shard)| (name.as_str(), self.shards[*shard].as_str()))
    }

    /// The file name of the shard that holds the tensor.
    pub fn shard_of(&self, tensor: &str) -> Option<&str> {
        let found = self.tensors.binary_search_by(|(name, _)| name.as_str().cmp(tensor)).ok()?;
        Some(&self.shards[self.tensors[found].1])
    }

    /// Checks that a shard holds the tensors that the index gives it and no others.
    ///
    /// # Errors
    /// The first tensor that is missing or misplaced.
    pub fn check_shard(&self, shard: &str, file: &Safetensors) -> Result<(), FormatError> {
        if let Some((name, _)) = self.tensors().find(|(name, of)| *of == shard && file.tensor(name).is_none()) {
            return Err(FormatError::missing(format_args!("{name} in {shard}")));
        }
        if let Some(tensor) = file.tensors().iter().find(|tensor| self.shard_of(&tensor.name) != Some(shard)) {
            return Err(FormatError::corrupt(format_args!(
                "{} holds the tensor `{}`, which {FILE} does not place there",
                shortened(shard),
                shortened(&tensor.name)
            )));
        }
        Ok(())
    }
}

/// Whether `name` is a file name in the index's own folder, on any system: no separators, drives, control characters or
/// leading dot.
fn is_shard_name(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !name.starts_with('.')
        && name.len() <= 255
        && !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}
