//! generation_config.json: what is read, what is reported as ignored, and what is refused.

use model_format::GenerationDefaults;

#[test]
fn reads_what_files_contain() {
    let defaults = GenerationDefaults::from_json(
        r#"{"bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643], "pad_token_id": 151643,
            "repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0, "max_length": 4096,
            "max_new_tokens": 2048, "num_beams": 4, "assistant": null, "transformers_version": "4.37.0"}"#,
    );
    let expected = GenerationDefaults {
        eos_token_ids: vec![151_645, 151_643],
        bos_token_id: Some(151_643),
        pad_token_id: Some(151_643),
        do_sample: Some(true),
        temperature: Some(0.7),
        top_p: Some(0.8),
        top_k: Some(20),
        min_p: Some(0.0),
        repetition_penalty: Some(1.05),
        max_new_tokens: Some(2048),
        max_length: Some(4096),
        ignored: vec!["num_beams".to_owned()],
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
