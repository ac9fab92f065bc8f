//! Block formats against an independent implementation: the fixtures are random blocks and values as the Python package
//! `gguf` converts them (`fixtures/make_blocks.py`).

use model_format::{TensorFormat, dequantize, quantize};

/// Values in each fixture.
const NUM_VALUES: usize = 512;

fn fixture(format: TensorFormat, kind: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/blocks/{format}.{kind}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn dequantized(format: TensorFormat, blocks: &[u8], len: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; len];
    dequantize(format, blocks, &mut values);
    values
}

#[test]
fn sizes() {
    for format in TensorFormat::ALL {
        let (len, bytes) = (format.block_len(), format.block_bytes());
        assert_eq!(format.row_bytes(3 * len), Some(3 * bytes), "{format}");
        assert_eq!(format.row_bytes(0), Some(0), "{format}");
        if len > 1 {
            assert_eq!(format.row_bytes(len + len / 2), None, "{format}: half a block");
        }
        if bytes > len {
            assert_eq!(format.row_bytes(usize::MAX / len * len), None, "{format}: more bytes than fit");
        }
    }
    let names = TensorFormat::ALL.map(|format| format.to_string());
    assert_eq!(names, ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]);
}

#[test]
fn dequantize_is_bit_exact() {
    for format in TensorFormat::ALL {
        let fixture = fixture(format, "dequantize");
        let (blocks, expected) = fixture.split_at(format.row_bytes(NUM_VALUES).expect("whole blocks"));
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&dequantized(format, blocks, NUM_VALUES)), bits(&f32s(expected)), "{format}");
    }
}

#[test]
fn quantize_is_the_reference_quantisation() {
    for format in TensorFormat::ALL {
        // The package cannot make K formats; their error is bounded below.
        if format.block_len() == 256 {
            continue;
        }
        let fixture = fixture(format, "quantize");
        let (values, expected) = fixture.split_at(4 * NUM_VALUES);
        assert_eq!(quantize(format, &f32s(values)), expected, "{format}");
    }
}

#[test]
fn quantisation_error_is_bounded() {
    // Large enough that no scale becomes a subnormal half, whose own rounding would show.
    let values: Vec<f32> =
        f32s(&fixture(TensorFormat::F32, "quantize")[..4 * NUM_VALUES]).iter().map(|x| x * 256.0).collect();
    // The error in units of the largest magnitude of each run of 32, or of 256 where runs share a scale.
    for (format, run, bound) in [
        (TensorFormat::F32, 32, 0.0),
        (TensorFormat::F16, 32, 1.0 / 2048.0),
        (TensorFormat::BF16, 32, 1.0 / 256.0),
        (TensorFormat::Q4_0, 32, 1.0 / 7.9),
        (TensorFormat::Q4_1, 32, 1.0 / 14.0),
        (TensorFormat::Q5_0, 32, 1.0 / 15.9),
        (TensorFormat::Q5_1, 32, 1.0 / 30.0),
        (TensorFormat::Q8_0, 32, 1.0 / 250.0),
        (TensorFormat::Q4K, 256, 1.0 / 12.0),
        (TensorFormat::Q5K, 256, 1.0 / 25.0),
        (TensorFormat::Q6K, 256, 1.0 / 31.0),
    ] {
        let restored = dequantized(format, &quantize(format, &values), NUM_VALUES);
        for (i, (original, restored)) in values.chunks(run).zip(restored.chunks(run)).enumerate() {
            let largest = original.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            for (x, y) in original.iter().zip(restored) {
                assert!(
                    (x - y).abs() <= bound * largest,
                    "{format}, run {i}: {x} became {y}; the largest is {largest}"
                );
            }
        }
    }
}

#[test]
fn quantize_takes_any_float() {
    let extremes = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0];
    for format in TensorFormat::ALL {
        for x in extremes {
            let mut values = vec![0.5; 256];
            values[17] = x;
            values[200] = -x;
            let blocks = quantize(format, &values);
            assert_eq!(dequantized(format, &blocks, 256).len(), 256, "{format} with {x}");
        }
        assert_eq!(dequantized(format, &quantize(format, &[0.0; 256]), 256), [0.0; 256], "{format} of zeros");
    }
}
