//! Chat templates against transformers, and hostile ones.

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenization::{ChatMessage, ChatTemplate, MAX_TEMPLATE_BYTES, RenderOptions, TemplateError, Tokenizer};

use crate::fixtures::{self, ByteLevel, parse};

#[derive(Deserialize)]
struct Fixture {
    now_unix_s: i64,
    templates: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<Map<String, Value>>,
    variables: Map<String, Value>,
    add_generation_prompt: bool,
    prompt: Option<String>,
    refused: Option<String>,
}

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: content.to_owned() }
}

/// A tokenizer whose BOS and EOS are those of the fixture.
fn tokenizer() -> Tokenizer {
    let json = ByteLevel::load().tokenizer_json("gpt-2").to_string();
    let config = r#"{"bos_token": "<bos>", "eos_token": {"content": "<eos>"}}"#;
    Tokenizer::from_json(json.as_bytes(), Some(config)).expect("a valid tokenizer.json")
}

#[test]
fn prompts_are_those_of_transformers() {
    let fixture: Fixture = fixtures::json("chat_templates.json");
    let tokenizer = tokenizer();
    for case in &fixture.cases {
        let source = fixture.templates[&case.template].as_str().expect("a template");
        let template = ChatTemplate::new(source, &tokenizer).expect("a valid template");
        let text = |message: &Map<String, Value>, key: &str| message[key].as_str().expect("a text").to_owned();
        let messages: Vec<ChatMessage> =
            case.messages.iter().map(|m| ChatMessage { role: text(m, "role"), content: text(m, "content") }).collect();
        let options = RenderOptions {
            add_generation_prompt: case.add_generation_prompt,
            now_unix_s: Some(fixture.now_unix_s),
            variables: case.variables.clone(),
        };
        let expected = match (&case.prompt, &case.refused) {
            (Some(prompt), None) => Ok(prompt.clone()),
            (None, Some(message)) => Err(TemplateError::Refused { message: message.clone() }),
            _ => panic!("a case has either a prompt or a refusal"),
        };
        assert_eq!(template.render(&messages, options), expected, "{} {:?}", case.template, case.messages);
    }
}

#[test]
fn templates_are_found_in_every_kind_of_file() {
    let tokenizer = tokenizer();
    let rendered = |template: Result<Option<ChatTemplate>, TemplateError>| {
        template.map(|template| template.map(|t| t.render(&[message("user", "hi")], RenderOptions::default())))
    };
    let expected = Ok(Some(Ok("<bos>hi".to_owned())));
    let source = "{{ bos_token }}{{ messages[0].content }}";
    let named = |name: &str| format!(r#"{{"chat_template": [{{"name": "{name}", "template": "{source}"}}]}}"#);
    for json in [format!(r#"{{"chat_template": "{source}"}}"#), named("default")] {
        assert_eq!(rendered(ChatTemplate::from_tokenizer_config(&json, &tokenizer)), expected, "{json}");
    }
    assert_eq!(rendered(ChatTemplate::from_tokenizer_config("{}", &tokenizer)), Ok(None));
    for json in [named("tool_use"), r#"{"chat_template": 7}"#.to_owned(), "{".to_owned()] {
        let error = ChatTemplate::from_tokenizer_config(&json, &tokenizer).err();
        assert!(matches!(error, Some(TemplateError::Invalid { .. })), "{json} {error:?}");
    }

    let fixture = ByteLevel::load();
    let mut gguf = fixture.gguf("gpt-2");
    let without = parse(&gguf);
    let tokenizer = Tokenizer::from_gguf(&without).expect("a valid vocabulary");
    assert_eq!(rendered(ChatTemplate::from_gguf(&without, &tokenizer)), Ok(None));
    let with = parse(gguf.metadata("tokenizer.chat_template", source));
    assert_eq!(rendered(ChatTemplate::from_gguf(&with, &tokenizer)), Ok(Some(Ok("<|begin|>hi".to_owned()))));
}

#[test]
fn variables_do_not_replace_the_conversation() {
    let template = ChatTemplate::new("{{ messages | length }}{{ add_generation_prompt }}{{ x }}", &tokenizer());
    let Value::Object(variables) = serde_json::json!({"messages": [], "add_generation_prompt": 7, "x": "y"}) else {
        panic!("an object");
    };
    let options = RenderOptions { variables, ..RenderOptions::default() };
    assert_eq!(template.expect("a valid template").render(&[message("a", "b")], options).as_deref(), Ok("1Falsey"));
}

#[test]
fn templates_that_do_not_compile_are_refused_with_the_line() {
    let too_long = "x".repeat(MAX_TEMPLATE_BYTES + 1);
    let too_deep = "{% if x %}".repeat(10_000) + &"{% endif %}".repeat(10_000);
    let nested_expression = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    for (source, reason) in [
        ("one\n{% if %}", "line 2"),
        ("{% for m in messages %}", "syntax error"),
        ("{% include 'other' %}", "syntax error"),
        (too_long.as_str(), "at most"),
        (too_deep.as_str(), "syntax error"),
        (nested_expression.as_str(), "syntax error"),
    ] {
        let message = ChatTemplate::new(source, &tokenizer()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(reason), "expected {reason:?}, got {message:?}");
    }
}

#[test]
fn templates_that_fail_or_do_not_end_give_errors() {
    const LOOP: &str = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    const DOUBLING: &str = "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}";
    const FLOOD: &str = "{% for a in range(10000) %}{{ messages[0].content }}{% endfor %}";
    const RECURSION: &str = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    const JSON: &str = "{% set ns = namespace(x=messages) %}{% for i in range(100) %}{% set ns.x = ns.x | tojson(indent=16) %}{% endfor %}";
    let content = "x".repeat(100_000);
    for (source, reason) in [
        (LOOP, "did not finish within"),
        (DOUBLING, "did not finish within"),
        ("{{ 'x' * 1000000000000 }}", "did not finish within"),
        (FLOOD, "did not finish within"),
        (JSON, "did not finish within"),
        (RECURSION, "recursion"),
        ("{{ raise_exception('no ' ~ messages[0].role ~ ' please') }}", "refused the messages: no user please"),
        ("\n{{ nothing.at.all }}", "line 2"),
        ("{{ undefined_function() }}", "unknown function"),
        ("{{ 1 + 'a' }}", "failed"),
        ("{{ messages | no_such_filter }}", "no_such_filter"),
        ("{{ strftime_now('%Y') }}", "no time was given"),
        ("{{ messages | tojson(ensure_ascii=true) }}", "ensure_ascii"),
        ("{{ messages | tojson(sort_keys=true) }}", "sort_keys"),
    ] {
        let result = ChatTemplate::new(source, &tokenizer())
            .and_then(|template| template.render(&[message("user", &content)], RenderOptions::default()));
        let error = result.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(reason), "{source}: expected {reason:?}, got {error:?}");
    }
}

#[test]
fn a_long_conversation_is_within_the_budget() {
    let fixture: Fixture = fixtures::json("chat_templates.json");
    let tokenizer = tokenizer();
    let turns: Vec<ChatMessage> = (0..2000)
        .map(|i| message(if i % 2 == 0 { "user" } else { "assistant" }, &"some words in a turn ".repeat(100)))
        .collect();
    for (name, source) in fixture.templates.iter().filter(|(name, _)| *name != "pythonisms") {
        let template = ChatTemplate::new(source.as_str().expect("a template"), &tokenizer).expect("a valid template");
        let options = RenderOptions { now_unix_s: Some(0), ..RenderOptions::default() };
        let prompt = template.render(&turns, options);
        assert!(prompt.as_ref().is_ok_and(|prompt| prompt.len() > 4_000_000), "{name}: {:?}", prompt.err());
    }
}
