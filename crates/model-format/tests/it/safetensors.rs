//! Safetensors files and their index: against the `safetensors` crate, and every way for them to lie.

use std::collections::HashMap;

use ::safetensors::{Dtype, tensor::TensorView};
use model_format::{Safetensors, SafetensorsIndex, TensorFormat};

/// A file of two tensors, by the reference writer.
pub(crate) fn sample() -> Vec<u8> {
    let data: Vec<u8> = (0..48).collect();
    let tensors = [
        ("model.norm.weight", Dtype::F32, vec![4], &data[..16]),
        ("lm_head.weight", Dtype::BF16, vec![3, 4], &data[16..40]),
        ("scalar", Dtype::F16, vec![], &data[40..42]),
    ];
    let views = tensors.map(|(name, dtype, shape, data)| (name, TensorView::new(dtype, shape, data).expect("a view")));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    ::safetensors::serialize(views, Some(metadata)).expect("a valid file")
}

/// A file with this header and `data_len` zeros.
fn with_header(header: &str, data_len: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data_len]].concat()
}

#[test]
fn agrees_with_the_reference() {
    let file = sample();
    let parsed = Safetensors::parse(&file).expect("a valid file");
    let reference = ::safetensors::SafeTensors::deserialize(&file).expect("a valid file");
    assert_eq!(parsed.tensors().len(), reference.len());
    for (name, view) in reference.iter() {
        let tensor = parsed.tensor(name).expect("the tensor");
        assert_eq!(tensor.shape, view.shape(), "{name}");
        assert_eq!(&file[tensor.data.clone()], view.data(), "{name}");
        assert_eq!(format!("{:?}", view.dtype()), tensor.format.name(), "{name}");
    }
    assert_eq!(parsed.tensor("scalar").map(|tensor| tensor.format), Some(TensorFormat::F16));
    assert_eq!(parsed.tensor("missing"), None);

    let empty = with_header("{}", 0);
    assert!(Safetensors::parse(&empty).expect("a file without tensors").tensors().is_empty());
}

#[test]
fn lies_are_refused() {
    fn one(dtype: &str, shape: &str, offsets: &str) -> String {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    }
    let two = |a: &str, b: &str, name: &str| {
        let entry = |name: &str, at: &str| format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":{at}}}"#);
        format!("{{{},{}}}", entry("a", a), entry(name, b))
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("the header's length", vec![1, 2, 3]),
        ("the header at byte 8 takes 100 bytes", [100_u64.to_le_bytes().as_slice(), b"{}"].concat()),
        ("may not be a safetensors file", vec![0xFF; 64]),
        ("not UTF-8", [1_u64.to_le_bytes().as_slice(), b"\xFF"].concat()),
        ("expected a JSON object", with_header("[]", 0)),
        ("EOF", with_header(r#"{"t":{"#, 0)),
        ("EOF", with_header(&format!(r#"{{"t":{}"#, "[".repeat(100_000)), 0)),
        ("missing field `shape`", with_header(r#"{"t":{"dtype":"F32"}}"#, 0)),
        ("unknown field `extra`", with_header(r#"{"t":{"extra":1}}"#, 0)),
        ("`t` is stored as I64", with_header(&one("I64", "[1]", "[0,8]"), 8)),
        ("`t` is stored as F8_E4M3", with_header(&one("F8_E4M3", "[1]", "[0,1]"), 1)),
        ("does not take bytes 0..5", with_header(&one("F32", "[1]", "[0,5]"), 5)),
        ("does not take bytes 4..0", with_header(&two("[0,4]", "[4,0]", "b"), 4)),
        ("does not take bytes", with_header(&one("F32", "[4294967296,4294967296]", "[0,0]"), 0)),
        ("has 9 dimensions", with_header(&one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4)),
        ("invalid value: integer `-1`", with_header(&one("F32", "[-1]", "[0,4]"), 4)),
        ("starts at data offset 4", with_header(&one("F32", "[1]", "[4,8]"), 8)),
        ("starts at data offset 2", with_header(&two("[0,4]", "[2,6]", "b"), 6)),
        ("starts at data offset 8", with_header(&two("[0,4]", "[8,12]", "b"), 12)),
        ("key `a` twice", with_header(&two("[0,4]", "[4,8]", "a"), 8)),
        ("the tensors' data", with_header(&one("F32", "[2]", "[0,8]"), 7)),
        ("1 bytes after the last tensor", with_header(&one("F32", "[2]", "[0,8]"), 9)),
    ];
    for (expected, file) in cases {
        match Safetensors::parse(&file) {
            Ok(_) => panic!("accepted: {expected}"),
            Err(error) => assert!(error.to_string().contains(expected), "expected `{expected}`, got `{error}`"),
        }
    }
}

/// An index that spreads the sample's tensors over two shards.
pub(crate) const INDEX: &str = r#"{"metadata": {"total_size": 42}, "weight_map": {
    "scalar": "model-00001-of-00002.safetensors",
    "lm_head.weight": "model-00002-of-00002.safetensors",
    "model.norm.weight": "model-00001-of-00002.safetensors"}}"#;

#[test]
fn index() {
    let index = SafetensorsIndex::parse(INDEX).expect("a valid index");
    assert_eq!(index.shards(), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    assert_eq!(index.shard_of("lm_head.weight"), Some("model-00002-of-00002.safetensors"));
    assert_eq!(index.shard_of("missing"), None);
    assert_eq!(index.tensors().next(), Some(("lm_head.weight", "model-00002-of-00002.safetensors")));

    let whole = Safetensors::parse(&sample()).expect("a valid file");
    let misplaced = index.check_shard("model-00001-of-00002.safetensors", &whole);
    assert!(misplaced.is_err_and(|e| e.to_string().contains("holds the tensor `lm_head.weight`")));
    let empty = Safetensors::parse(&with_header("{}", 0)).expect("a valid file");
    let missing = index.check_shard("model-00002-of-00002.safetensors", &empty);
    assert!(missing.is_err_and(|e| e.to_string().contains("lm_head.weight in model-00002")));
    let one = SafetensorsIndex::parse(&INDEX.replace("00002-of", "00001-of")).expect("a valid index");
    assert_eq!(one.check_shard("model-00001-of-00002.safetensors", &whole), Ok(()));

    let with_shard = |shard: &str| format!(r#"{{"weight_map": {{"t": "{shard}"}}}}"#);
    let cases = [
        ("`weight_map` is missing", "{}".to_owned()),
        ("`weight_map` is missing", r#"{"weight_map": null}"#.to_owned()),
        ("expected a JSON object", r#"{"weight_map": []}"#.to_owned()),
        ("expected a string", r#"{"weight_map": {"t": 1}}"#.to_owned()),
        ("key `t` twice", r#"{"weight_map": {"t": "a.safetensors", "t": "b.safetensors"}}"#.to_owned()),
        ("key `weight_map` twice", r#"{"weight_map": {}, "weight_map": {}}"#.to_owned()),
        // Out of the folder, absolute, or on another drive.
        ("names the shard `../a.safetensors`", with_shard("../a.safetensors")),
        ("names the shard `/a.safetensors`", with_shard("/a.safetensors")),
        ("names the shard `c:a.safetensors`", with_shard("c:a.safetensors")),
        (r"names the shard `..\a.safetensors`", with_shard(r"..\\a.safetensors")),
        ("names the shard `a .safetensors`", with_shard(r"a\u0000.safetensors")),
        ("names the shard `.safetensors`", with_shard(".safetensors")),
        ("names the shard ``", with_shard("")),
        // A cycle: the index itself, or another index, as a shard.
        ("names the shard `model.safetensors.index.json`", with_shard("model.safetensors.index.json")),
    ];
    for (expected, json) in cases {
        match SafetensorsIndex::parse(&json) {
            Ok(_) => panic!("accepted: {expected}"),
            Err(error) => assert!(error.to_string().contains(expected), "expected `{expected}`, got `{error}`"),
        }
    }
}
