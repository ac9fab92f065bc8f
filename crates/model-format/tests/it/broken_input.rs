//! Broken files, made from valid ones: cut at each byte, with every byte and every length changed, and
//! shuffled by a seeded generator. Every parser must answer with a value or an error, and hold memory in proportion to the
//! input.

use model_format::{FormatError, GenerationDefaults, Gguf, ModelConfig, Safetensors, SafetensorsIndex};

use crate::{allocation::peak_bytes, config_gguf, config_json, gguf, safetensors};

/// Bytes that parsing may hold at once for each byte of input, and beside them (messages and small tables).
const MAX_BYTES_PER_INPUT_BYTE: usize = 16;
const MAX_FIXED_BYTES: usize = 8 * 1024;

/// A parser under test; whether it accepts the bytes.
pub(crate) type Parse = fn(&[u8]) -> Result<(), FormatError>;

fn check(name: &str, valid: &[u8], parse: Parse) {
    let attempt = |input: &[u8]| {
        let (result, peak) = peak_bytes(|| parse(input));
        let bound = MAX_FIXED_BYTES + MAX_BYTES_PER_INPUT_BYTE * input.len();
        assert!(peak <= bound, "{name}: {peak} bytes held for {} bytes of input: {result:?}", input.len());
        result
    };
    assert_eq!(attempt(valid), Ok(()), "{name}");
    for len in 0..valid.len() {
        assert!(attempt(&valid[..len]).is_err(), "{name} was accepted when cut at {len} of {} bytes", valid.len());
    }
    let mut input = valid.to_vec();
    for at in 0..valid.len() {
        for byte in
            [0, 1, 0x7F, 0xFF, b'"', b'{', b'[', b'9', valid[at] ^ 1, valid[at] ^ 0x80, valid[at].wrapping_add(1)]
        {
            input[at] = byte;
            let _ = attempt(&input);
        }
        input[at] = valid[at];
    }
    // Lengths, counts, offsets and dimensions are 64 bits wide, wherever they lie.
    for at in 0..valid.len().saturating_sub(8) {
        for lie in [0, 1 << 16, 1 << 20, 1 << 40, 1 << 63, u64::MAX, u64::MAX - 7, valid.len() as u64] {
            input[at..at + 8].copy_from_slice(&lie.to_le_bytes());
            let _ = attempt(&input);
        }
        input[at..at + 8].copy_from_slice(&valid[at..at + 8]);
    }
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..2000 {
        let _ = attempt(&shuffled(valid, &mut random));
    }
}

/// xorshift64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// A few random edits: bytes overwritten, and spans copied, removed or repeated.
fn shuffled(valid: &[u8], random: &mut Random) -> Vec<u8> {
    let mut input = valid.to_vec();
    for _ in 0..=random.below(4) {
        let start = random.below(input.len());
        let end = (start + random.below(40)).min(input.len());
        let to = random.below(input.len());
        match random.below(4) {
            0 => input[start] = random.below(256) as u8,
            1 => input.drain(start..end.min(input.len() - 1)).for_each(drop),
            2 => drop(input.splice(to..to, valid[start.min(valid.len())..end.min(valid.len())].to_vec())),
            _ => {
                let to = to.min(input.len() - (end - start));
                input.copy_within(start..end, to);
            }
        }
    }
    input
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, FormatError> {
    std::str::from_utf8(bytes).map_err(|e| FormatError::Corrupt { what: e.to_string() })
}

#[test]
fn gguf_files() {
    check("gguf", &gguf::sample().finish(), |bytes| Gguf::parse(bytes).map(drop));
}

#[test]
fn gguf_configs() {
    let valid = config_gguf::edited(&[], &[("rope_freqs.weight", 8)]);
    check("gguf config", &valid, |bytes| config_gguf::parse(bytes).map(drop));
}

#[test]
fn safetensors_files() {
    check("safetensors", &safetensors::sample(), |bytes| Safetensors::parse(bytes).map(drop));
}

#[test]
fn safetensors_indexes() {
    check("index", safetensors::INDEX.as_bytes(), |bytes| SafetensorsIndex::parse(text(bytes)?).map(drop));
}

#[test]
fn config_files() {
    for name in ["llama-3.1-8b-instruct", "qwen3-transformers-5"] {
        let valid = config_json::fixture(name);
        check(name, valid.trim_end().as_bytes(), |bytes| ModelConfig::from_json(text(bytes)?).map(drop));
    }
}

#[test]
fn generation_configs() {
    let valid = r#"{"eos_token_id": [1, 2], "temperature": 0.6, "top_p": 0.9, "do_sample": true, "num_beams": 1}"#;
    check("generation config", valid.as_bytes(), |bytes| GenerationDefaults::from_json(text(bytes)?).map(drop));
}

/// Inputs made to grow: many small things, long things and deep things.
#[test]
fn memory_stays_in_proportion() {
    let many_keys = format!("{{{}}}", (0..20_000).map(|i| format!("\"{i}\":0")).collect::<Vec<_>>().join(","));
    let long_list = format!(r#"{{"architectures":["A"],"eos_token_id":[{}]}}"#, vec!["0"; 50_000].join(","));
    let long_shape =
        format!(r#"{{"t":{{"dtype":"F32","shape":[{}],"data_offsets":[0,4]}}}}"#, vec!["1"; 50_000].join(","));
    let deep = format!("{}{}", r#"{"a":"#.repeat(50_000), "}".repeat(50_000));
    let deep_list = format!(r#"{{"rope_scaling":{}"#, "[".repeat(100_000));
    let long_key = config_json::edited("qwen3-0.6b", &[(&"k".repeat(100_000), "1")]);
    let parsers: [(&str, Parse); 4] = [
        ("safetensors", |bytes| {
            let file = [&(bytes.len() as u64).to_le_bytes(), bytes].concat();
            Safetensors::parse(&file).map(drop)
        }),
        ("index", |bytes| SafetensorsIndex::parse(text(bytes)?).map(drop)),
        ("config", |bytes| ModelConfig::from_json(text(bytes)?).map(drop)),
        ("generation config", |bytes| GenerationDefaults::from_json(text(bytes)?).map(drop)),
    ];
    for json in [&many_keys, &long_list, &long_shape, &deep, &deep_list, &long_key] {
        for (name, parse) in parsers {
            let (result, peak) = peak_bytes(|| parse(json.as_bytes()));
            let bound = MAX_FIXED_BYTES + MAX_BYTES_PER_INPUT_BYTE * json.len();
            let message = result.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(peak <= bound, "{name}: {peak} bytes for {} of {:.40}", json.len(), json);
            assert!(message.len() < 500, "{name}: a message of {} bytes for {:.40}", message.len(), json);
        }
    }
}
