//! Writes a GGUF file again with its matrices in another format, to compare formats on the same weights:
//! `cargo run --release -p model-format --example requantise -- IN.gguf OUT.gguf Q8_0`. Prints how many tensors it has in which
//! format.
//!
//! Vectors stay as they are, and so does the embedding (which may be the output's matrix too), unless the format is a float.
//! Where rows are no multiples of 256, Q5_0, Q5_1 or Q8_0 stand in for Q4_K, Q5_K or Q6_K, as llama.cpp has it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use model_format::gguf::Writer;
use model_format::{Gguf, TensorFormat, TensorInfo, dequantize, quantize};

/// Says something of the file's old contents.
const FILE_TYPE_KEY: &str = "general.file_type";
/// The new file has the usual alignment.
const ALIGNMENT_KEY: &str = "general.alignment";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, format] = &arguments[..] else {
        eprintln!("usage: requantise IN.gguf OUT.gguf FORMAT");
        return ExitCode::FAILURE;
    };
    match run(input, output, format) {
        Ok(formats) => {
            println!(
                "{}",
                formats.iter().map(|(format, num)| format!("{num} {format}")).collect::<Vec<_>>().join(", ")
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many tensors of the new file have which format.
fn run(input: &str, output: &str, format: &str) -> Result<BTreeMap<&'static str, usize>, String> {
    let wanted = TensorFormat::ALL.into_iter().find(|wanted| wanted.name() == format);
    let wanted =
        wanted.ok_or_else(|| format!("{format} is none of {:?}", TensorFormat::ALL.map(TensorFormat::name)))?;
    let file = std::fs::read(input).map_err(|error| format!("cannot read {input}: {error}"))?;
    let gguf = Gguf::parse(&file).map_err(|error| format!("{input}: {error}"))?;
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| ![FILE_TYPE_KEY, ALIGNMENT_KEY].contains(key)) {
        writer.metadata(key, value.clone());
    }
    let mut formats = BTreeMap::new();
    for tensor in gguf.tensors() {
        let format = format_of(tensor, wanted);
        let stored = &file[tensor.data.clone()];
        if format == tensor.format {
            writer.tensor(&tensor.name, format, &tensor.shape, stored);
        } else {
            let mut values = vec![0.0; tensor.shape.iter().product()];
            dequantize(tensor.format, stored, &mut values);
            writer.tensor(&tensor.name, format, &tensor.shape, &quantize(format, &values));
        }
        *formats.entry(format.name()).or_insert(0) += 1;
    }
    std::fs::write(output, writer.finish()).map_err(|error| format!("cannot write {output}: {error}"))?;
    Ok(formats)
}

/// The format of a tensor in the new file.
fn format_of(tensor: &TensorInfo, wanted: TensorFormat) -> TensorFormat {
    let is_float = wanted.block_len() == 1;
    match &tensor.shape[..] {
        &[_, cols] if is_float || tensor.name != "token_embd.weight" => match wanted {
            _ if cols.is_multiple_of(wanted.block_len()) => wanted,
            TensorFormat::Q4K => TensorFormat::Q5_0,
            TensorFormat::Q5K => TensorFormat::Q5_1,
            TensorFormat::Q6K => TensorFormat::Q8_0,
            _ => tensor.format,
        },
        _ => tensor.format,
    }
}
