//! Replays the files where fuzzing starts (`tests/fixtures/make_corpus.py` makes them): the sound ones are accepted, and
//! no others.

use std::{fs, path::Path};

use model_format::{GenerationDefaults, Gguf, ModelConfig, Safetensors, SafetensorsIndex, dequantize};

use crate::broken_input::{Parse, text};

fn check(target: &str, accepted: &[&str], parse: Parse) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder}: {e}")) {
        let path = entry.expect("a readable folder").path();
        let name = path.file_stem().map(Path::new).expect("a name").display().to_string();
        let file = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if parse(&file).is_ok() {
            found.push(name);
        }
    }
    found.sort_unstable();
    assert_eq!(found, accepted, "{target}");
}

#[test]
fn gguf_files() {
    #[rustfmt::skip]
    let sound = [
        "alignment", "blocks", "endless_context", "every_type", "experts", "model", "not_a_number", "part", "short_freqs",
        "version_2", "yarn",
    ];
    check("gguf", &sound, |file| {
        let gguf = Gguf::parse(file)?;
        for tensor in gguf.tensors() {
            let mut values = vec![0.0; tensor.shape.iter().product()];
            dequantize(tensor.format, &file[tensor.data.clone()], &mut values);
        }
        Ok(())
    });
    check("gguf", &["model", "version_2", "yarn"], |file| {
        let gguf = Gguf::parse(file)?;
        GenerationDefaults::from_gguf(&gguf)?;
        ModelConfig::from_gguf(&gguf, file).map(drop)
    });
}

#[test]
fn safetensors_files() {
    check("safetensors", &["no_tensors", "whole"], |file| Safetensors::parse(file).map(drop));
    check("safetensors_index", &["no_tensors", "two_shards"], |file| SafetensorsIndex::parse(text(file)?).map(drop));
}

#[test]
fn configs() {
    let published = fs::read_dir(format!("{}/tests/fixtures/configs", env!("CARGO_MANIFEST_DIR"))).expect("a folder");
    let mut published: Vec<String> =
        published.map(|entry| entry.expect("a file").file_name().display().to_string().replace(".json", "")).collect();
    published.sort_unstable();
    let published: Vec<&str> = published.iter().map(String::as_str).collect();
    check("config_json", &published, |file| ModelConfig::from_json(text(file)?).map(drop));
    let sound = ["no_fields", "nulls", "whole"];
    check("generation_config", &sound, |file| GenerationDefaults::from_json(text(file)?).map(drop));
}
