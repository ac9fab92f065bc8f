//! GGUF files: what the writer writes is read back, and every way for a file to lie is an error that says so.

use model_format::{
    Gguf, TensorFormat,
    gguf::{Array, Value, Writer},
    quantize,
};

/// A file with every value type and three tensors, one of them quantised.
pub(crate) fn sample() -> Writer {
    let mut writer = Writer::new();
    for (key, value) in sample_entries() {
        writer.metadata(key, value);
    }
    let ramp: Vec<f32> = (0..64).map(|i| i as f32 / 8.0 - 3.0).collect();
    writer.tensor("norm", TensorFormat::F32, &[3], &quantize(TensorFormat::F32, &ramp[..3]));
    writer.tensor("matrix", TensorFormat::Q4_1, &[2, 32], &quantize(TensorFormat::Q4_1, &ramp));
    writer.tensor("cube", TensorFormat::BF16, &[2, 4, 8], &quantize(TensorFormat::BF16, &ramp));
    writer
}

fn sample_entries() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", "llama".into()),
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", 4_000_000_000_u32.into()),
        ("i32", (-2_000_000_000).into()),
        ("f32", 0.25_f32.into()),
        ("bool", true.into()),
        ("string", "ünïcode".into()),
        ("u64", (1_u64 << 40).into()),
        ("i64", Value::I64(-(1 << 40))),
        ("f64", Value::F64(0.1)),
        ("u8s", Array::U8(vec![1, 2]).into()),
        ("i8s", Array::I8(vec![-1, 2]).into()),
        ("u16s", Array::U16(vec![1, 60_000]).into()),
        ("i16s", Array::I16(vec![-1, 2]).into()),
        ("u32s", vec![1_u32, 4_000_000_000].into()),
        ("i32s", vec![-1, 2].into()),
        ("f32s", vec![0.5_f32, -1.5].into()),
        ("bools", Array::Bool(vec![true, false]).into()),
        ("strings", vec!["a", "", "ü"].into()),
        ("u64s", Array::U64(vec![1, 1 << 40]).into()),
        ("i64s", Array::I64(vec![-1, 2]).into()),
        ("f64s", Array::F64(vec![0.5]).into()),
        ("empty", Array::String(Vec::new()).into()),
    ]
}

#[test]
fn round_trip() {
    for (version, alignment) in [(2, None), (3, None), (3, Some(64)), (3, Some(1))] {
        let mut writer = sample();
        writer.version(version);
        if let Some(alignment) = alignment {
            writer.alignment(alignment);
        }
        let file = writer.finish();
        let gguf = Gguf::parse(&file).expect("a valid file");
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.alignment(), alignment.unwrap_or(32) as usize);

        let entries: Vec<_> = gguf.metadata().iter().take(sample_entries().len()).collect();
        let expected = sample_entries();
        assert_eq!(entries, expected.iter().map(|(key, value)| (*key, value)).collect::<Vec<_>>());

        let described: Vec<_> =
            gguf.tensors().iter().map(|t| (t.name.as_str(), t.format, t.shape.as_slice())).collect();
        let expected: [(&str, TensorFormat, &[usize]); 3] = [
            ("norm", TensorFormat::F32, &[3]),
            ("matrix", TensorFormat::Q4_1, &[2, 32]),
            ("cube", TensorFormat::BF16, &[2, 4, 8]),
        ];
        assert_eq!(described, expected);
        let norm = gguf.tensor("norm").expect("the tensor");
        assert_eq!(file[norm.data.clone()], quantize(TensorFormat::F32, &[-3.0, -2.875, -2.75]));
        assert_eq!(norm.data.start % gguf.alignment(), 0);
        assert_eq!(gguf.tensor("missing"), None);
    }
}

#[test]
fn getters() {
    let gguf = Gguf::parse(&sample().finish()).expect("a valid file");
    let metadata = gguf.metadata();
    assert_eq!(metadata.string("string"), Ok(Some("ünïcode")));
    assert_eq!(metadata.bool("bool"), Ok(Some(true)));
    assert_eq!(metadata.u32("u8"), Ok(Some(200)));
    assert_eq!(metadata.u32("u32"), Ok(Some(4_000_000_000)));
    assert_eq!(metadata.u64("u64"), Ok(Some(1 << 40)));
    assert_eq!(metadata.f32("f32"), Ok(Some(0.25)));
    assert_eq!(metadata.f32("f64"), Ok(Some(0.1)));
    assert_eq!(metadata.strings("strings").map(|texts| texts.map(<[_]>::len)), Ok(Some(3)));
    assert_eq!(metadata.strings("empty").map(|texts| texts.map(<[_]>::len)), Ok(Some(0)));
    assert_eq!(metadata.f32s("f32s"), Ok(Some([0.5, -1.5].as_slice())));
    assert_eq!(metadata.i32s("i8s"), Ok(Some(vec![-1, 2])));
    assert_eq!(metadata.i32s("i64s"), Ok(Some(vec![-1, 2])));
    assert_eq!(metadata.u32s("u32s"), Ok(Some(vec![1, 4_000_000_000])));

    assert_eq!(metadata.get("missing"), None);
    assert_eq!(metadata.string("missing"), Ok(None));
    assert_eq!(metadata.u32s("missing"), Ok(None));

    let mistyped = [
        metadata.string("u32").err(),
        metadata.bool("u8").err(),
        metadata.u32("i32").err(),
        metadata.u32("u64").err(),
        metadata.u32("f32").err(),
        metadata.u64("i64").err(),
        metadata.f32("u32").err(),
        metadata.strings("string").err(),
        metadata.f32s("f64s").err(),
        metadata.i32s("u64s").err(),
        metadata.i32s("f32s").err(),
        metadata.u32s("i32s").err(),
    ];
    for (i, error) in mistyped.iter().enumerate() {
        let message = error.as_ref().unwrap_or_else(|| panic!("case {i} was accepted")).to_string();
        assert!(message.contains("is expected"), "case {i}: {message}");
    }
}

/// The bytes of a header and whatever follows it.
fn raw(version: u32, num_tensors: u64, num_entries: u64, body: &[&[u8]]) -> Vec<u8> {
    let header = [b"GGUF".as_slice(), &version.to_le_bytes(), &num_tensors.to_le_bytes(), &num_entries.to_le_bytes()];
    [header.concat(), body.concat()].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// One metadata entry: value type and value as given.
fn entry(key: &[u8], value_type: u32, value: &[u8]) -> Vec<u8> {
    [&string(key), value_type.to_le_bytes().as_slice(), value].concat()
}

/// One tensor header, dimensions innermost first as in the file.
fn tensor(name: &[u8], dims: &[u64], type_number: u32, offset: u64) -> Vec<u8> {
    let mut header = string(name);
    header.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| header.extend(dim.to_le_bytes()));
    header.extend(type_number.to_le_bytes());
    header.extend(offset.to_le_bytes());
    header
}

/// A file without metadata: the tensor headers, then plenty of data.
fn with_tensors(headers: &[Vec<u8>]) -> Vec<u8> {
    let headers_of: Vec<&[u8]> = headers.iter().map(Vec::as_slice).collect();
    let mut file = raw(3, headers.len() as u64, 0, &headers_of);
    file.resize(file.len().next_multiple_of(32) + 4096, 0);
    file
}

fn with_alignment(value_type: u32, value: &[u8]) -> Vec<u8> {
    raw(3, 1, 1, &[&entry(b"general.alignment", value_type, value), &tensor(b"t", &[1], 0, 0), &[0; 256]])
}

fn array(element_type: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    raw(
        3,
        0,
        1,
        &[&entry(b"list", 9, &[&element_type.to_le_bytes(), count.to_le_bytes().as_slice(), elements].concat())],
    )
}

#[test]
fn lies_are_refused() {
    const U8: u32 = 0;
    const U32: u32 = 4;
    const BOOL: u32 = 7;
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;
    const F64: u32 = 12;
    let nested: Vec<u8> = [ARRAY.to_le_bytes().as_slice(), &1_u64.to_le_bytes()].concat().repeat(10_000);

    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("ends too early: the magic number", Vec::new()),
        ("starts with \"GGML\"", b"GGML\x03\0\0\0".to_vec()),
        ("version 1 is not supported", raw(1, 0, 0, &[])),
        ("version 4 is not supported", raw(4, 0, 0, &[])),
        ("big endian", raw(3_u32.swap_bytes(), 0, 0, &[])),
        ("number of tensors", raw(3, u64::MAX, 0, &[&[0; 64]])),
        ("the tensor headers", raw(3, 1 << 16, 0, &[&[0; 64]])),
        ("number of metadata entries", raw(3, 0, u64::MAX, &[&[0; 64]])),
        ("the metadata", raw(3, 0, 1 << 16, &[&[0; 64]])),
        ("the key of metadata entry 0", raw(3, 0, 1, &[&u64::MAX.to_le_bytes(), &[0; 64]])),
        ("not UTF-8", raw(3, 0, 1, &[&entry(b"\xFF\xFE", U8, &[1])])),
        ("`key` occurs twice", raw(3, 0, 2, &[&entry(b"key", U8, &[1]), &entry(b"key", U8, &[2])])),
        ("unknown value type 99", raw(3, 0, 1, &[&entry(b"key", 99, &[0; 64])])),
        ("a bool of value 2", raw(3, 0, 1, &[&entry(b"key", BOOL, &[2])])),
        ("the value of `key`", raw(3, 0, 1, &[&entry(b"key", STRING, &(1_u64 << 40).to_le_bytes())])),
        ("not UTF-8", raw(3, 0, 1, &[&entry(b"key", STRING, &string(b"\xC3"))])),
        ("the value of `list`", array(U8, u64::MAX, &[0; 64])),
        ("the value of `list`", array(F64, 1 << 61, &[0; 64])),
        ("the value of `list`", array(STRING, 1 << 40, &[0; 64])),
        ("element 1 of `list`", array(STRING, 2, &[string(b"ab"), vec![0xFF; 8]].concat())),
        ("a bool of value 9", array(BOOL, 3, &[0, 1, 9])),
        ("unknown value type 13", array(13, 1, &[0; 64])),
        ("an array of arrays", array(ARRAY, 1, &nested)),
        ("`general.alignment` = 0", with_alignment(U32, &0_u32.to_le_bytes())),
        ("`general.alignment` = 3", with_alignment(U32, &3_u32.to_le_bytes())),
        ("the data of tensor `t`", with_alignment(U32, &(1_u32 << 31).to_le_bytes())),
        ("`general.alignment` holds \"32\"", with_alignment(STRING, &string(b"32"))),
        ("has 5 dimensions", with_tensors(&[tensor(b"t", &[1; 5], 0, 0)])),
        ("has no elements", with_tensors(&[tensor(b"t", &[4, 0], 0, 0)])),
        ("must fit the address space", with_tensors(&[tensor(b"t", &[1 << 32, 1 << 32], 0, 0)])),
        ("must fit the address space", with_tensors(&[tensor(b"t", &[u64::MAX], 0, 0)])),
        ("whole blocks of 32", with_tensors(&[tensor(b"t", &[33], 8, 0)])),
        ("whole blocks of 256", with_tensors(&[tensor(b"t", &[32], 12, 0)])),
        ("`t` is stored as Q2_K", with_tensors(&[tensor(b"t", &[256], 10, 0)])),
        ("unknown ggml type 1000", with_tensors(&[tensor(b"t", &[256], 1000, 0)])),
        ("not UTF-8", with_tensors(&[tensor(b"\x80", &[1], 0, 0)])),
        ("offset 31", with_tensors(&[tensor(b"t", &[1], 0, 31)])),
        ("the data of tensor `t`", with_tensors(&[tensor(b"t", &[1], 0, 4096)])),
        ("the data of tensor `t`", with_tensors(&[tensor(b"t", &[1], 0, u64::MAX - 31)])),
        ("the data of tensor `t`", with_tensors(&[tensor(b"t", &[1025], 0, 0)])),
        ("two tensors are named `t`", with_tensors(&[tensor(b"t", &[1], 0, 0), tensor(b"t", &[1], 0, 32)])),
        ("overlap", with_tensors(&[tensor(b"a", &[9], 0, 0), tensor(b"b", &[1], 0, 32)])),
        ("overlap", with_tensors(&[tensor(b"a", &[1], 0, 32), tensor(b"b", &[16], 0, 0)])),
    ];
    for (expected, file) in cases {
        match Gguf::parse(&file) {
            Ok(_) => panic!("accepted: {expected}"),
            Err(error) => assert!(error.to_string().contains(expected), "expected `{expected}`, got `{error}`"),
        }
    }
    let good = with_tensors(&[tensor(b"a", &[8], 0, 32), tensor(b"b", &[8], 0, 0)]);
    assert!(Gguf::parse(&good).is_ok(), "the case builder makes valid files");
}
