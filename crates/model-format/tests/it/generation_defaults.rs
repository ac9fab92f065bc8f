//! Recommended sampling values: what is read, what is reported as ignored, and what is refused.

use model_format::{
    FormatError, GenerationDefaults, Gguf,
    gguf::{Value, Writer},
};

#[test]
fn reads_what_files_contain() {
    let defaults = GenerationDefaults::from_json(
        r#"{"bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643], "pad_token_id": 151643,
            "repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0, "max_length": 4096,
            "max_new_tokens": 2048, "num_beams": 4, "assistant": null, "transformers_version": "4.37.0"}"#,
    );
    let expected = GenerationDefaults {
        eos_token_ids: vec![151_645, 151_643],
        do_sample: Some(true),
        temperature: Some(0.7),
        top_p: Some(0.8),
        top_k: Some(20),
        min_p: Some(0.0),
        repetition_penalty: Some(1.05),
        max_new_tokens: Some(2048),
        ignored: vec!["max_length".to_owned(), "num_beams".to_owned()],
    };
    assert_eq!(defaults, Ok(expected));

    let single = GenerationDefaults::from_json(r#"{"_from_model_config": true, "eos_token_id": 2, "top_p": null}"#);
    assert_eq!(single, Ok(GenerationDefaults { eos_token_ids: vec![2], ..GenerationDefaults::default() }));
}

#[test]
fn refuses_what_makes_no_sense() {
    for (json, expected) in [
        ("", "EOF"),
        ("[]", "expected a JSON object"),
        (r#"{"temperature": -0.1}"#, "`temperature` = -0.1 is out of range"),
        (r#"{"temperature": 1e99}"#, "`temperature`"),
        (r#"{"temperature": "hot"}"#, "`temperature`"),
        (r#"{"top_p": 0}"#, "`top_p` = 0 is out of range"),
        (r#"{"top_p": 1.5}"#, "`top_p` = 1.5 is out of range"),
        (r#"{"top_k": -1}"#, "`top_k`"),
        (r#"{"min_p": 2}"#, "`min_p` = 2 is out of range"),
        (r#"{"repetition_penalty": 0.0}"#, "`repetition_penalty` = 0 is out of range"),
        (r#"{"eos_token_id": [1, -2]}"#, "`eos_token_id`"),
        (r#"{"top_k": 1, "top_k": 2}"#, "`top_k` twice"),
    ] {
        match GenerationDefaults::from_json(json) {
            Ok(_) => panic!("accepted: {json}"),
            Err(error) => assert!(error.to_string().contains(expected), "{json}: {error}"),
        }
    }
}

#[test]
fn reads_what_converters_put_into_gguf_files() {
    let from_gguf = |entries: Vec<(&str, Value)>| -> Result<GenerationDefaults, FormatError> {
        let mut writer = Writer::new();
        for (key, value) in entries {
            writer.metadata(key, value);
        }
        GenerationDefaults::from_gguf(&Gguf::parse(&writer.finish())?)
    };
    let expected = GenerationDefaults {
        temperature: Some(0.6),
        top_p: Some(0.95),
        top_k: Some(20),
        min_p: Some(0.0),
        repetition_penalty: Some(1.05),
        ignored: vec!["general.sampling.mirostat".to_owned()],
        ..GenerationDefaults::default()
    };
    let entries = vec![
        ("general.sampling.top_k", 20_i32.into()),
        ("general.sampling.top_p", 0.95_f32.into()),
        ("general.sampling.min_p", 0.0_f32.into()),
        ("general.sampling.temp", 0.6_f32.into()),
        ("general.sampling.penalty_repeat", 1.05_f32.into()),
        ("general.sampling.mirostat", 1_i32.into()),
        ("general.name", "Tiny".into()),
    ];
    assert_eq!(from_gguf(entries), Ok(expected));
    assert_eq!(from_gguf(vec![]), Ok(GenerationDefaults::default()));
    for (key, value, expected) in [
        ("general.sampling.top_k", Value::from(-1_i32), "`general.sampling.top_k` holds -1"),
        ("general.sampling.top_p", 0.0_f32.into(), "`top_p` = 0 is out of range"),
        ("general.sampling.temp", f32::INFINITY.into(), "`temperature` = inf is out of range"),
        ("general.sampling.penalty_repeat", f32::NAN.into(), "`repetition_penalty` = NaN is out of range"),
    ] {
        let message = from_gguf(vec![(key, value)]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(expected), "{key}: {message}");
    }
}
