//! Chat templates: messages to the prompt that the model was trained on. Knows no token ids.
//!
//! Templates are Jinja, written for Python's jinja2 as transformers sets it up (`apply_chat_template`); minijinja runs
//! them here with the same whitespace rules, Python's string methods, and transformers' functions. They come with model
//! files, which anyone may have made, so they run on a budget.

use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior};
use model_format::Gguf;
use serde::Serialize;

use crate::calendar::strftime;
use crate::error::TemplateError;
use crate::python_json::to_python_json;
use crate::tokenizer::Tokenizer;

/// The longest template, in bytes of source.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// The budget of one rendering: one unit for an instruction or for 64 bytes of text, final or not. So a rendering takes
/// about a second and 128 MB at most.
pub const MAX_TEMPLATE_FUEL: u64 = 2_000_000;
/// How deep macros may call each other; a level takes some kilobytes of stack.
const MAX_TEMPLATE_DEPTH: usize = 100;

const NAME: &str = "chat_template";

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who says it; "system", "user" and "assistant" in most templates.
    pub role: String,
    /// What is said. Most templates print it as it is, so special tokens written out in it take part in the prompt's form.
    pub content: String,
}

/// What a rendering depends on besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End the prompt with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// The time for templates that print the date, in seconds since 1970-01-01 00:00 UTC. Without it, they fail.
    pub now_unix_s: Option<i64>,
    /// Further variables for the template, such as `enable_thinking` or `tools`. They do not replace `messages` and
    /// `add_generation_prompt`.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The texts of the special tokens, by name.
    special_tokens: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// Compiles the source of a template (the whole of chat_template.jinja). The tokenizer gives `bos_token` and its like.
    ///
    /// # Errors
    /// [`TemplateError::Invalid`], with the line.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(invalid(format!("{} bytes; at most {MAX_TEMPLATE_BYTES} are allowed", source.len())));
        }
        let mut environment = environment()?;
        environment
            .add_template_owned(NAME, without_generation_blocks(source))
            .map_err(|error| invalid(describe(&error)))?;
        let special_tokens = tokenizer.named.texts.iter().map(|(name, text)| (*name, text.clone())).collect();
        Ok(Self { environment, special_tokens })
    }

    /// The template of a GGUF file, if it has one.
    ///
    /// # Errors
    /// [`TemplateError::Invalid`].
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        let source = gguf.metadata().string("tokenizer.chat_template").map_err(|e| invalid(e.to_string()))?;
        source.map(|source| Self::new(source, tokenizer)).transpose()
    }

    /// The template in a tokenizer_config.json, if it has one; of several named ones, that with the name "default".
    ///
    /// # Errors
    /// [`TemplateError::Invalid`].
    pub fn from_tokenizer_config(json: &str, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        use serde_json::Value as Json;
        let config: Json = serde_json::from_str(json).map_err(|e| invalid(format!("tokenizer_config.json: {e}")))?;
        let source = match &config["chat_template"] {
            Json::Null => return Ok(None),
            Json::String(source) => source,
            Json::Array(named) => named
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str())
                .ok_or_else(|| invalid("tokenizer_config.json: no chat template has the name \"default\""))?,
            _ => return Err(invalid("tokenizer_config.json: `chat_template` is neither a string nor a list")),
        };
        Self::new(source, tokenizer).map(Some)
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// The template's own refusal of the messages, a failure of the template, or a rendering beyond
    /// [`MAX_TEMPLATE_FUEL`].
    pub fn render(&self, messages: &[ChatMessage], options: RenderOptions) -> Result<String, TemplateError> {
        let RenderOptions { add_generation_prompt, now_unix_s, variables } = options;
        let strftime_now = move |format: &str| match now_unix_s {
            Some(now) => strftime(now, format).map_err(|what| operation_error(format!("{what} is not supported"))),
            None => Err(operation_error("the template prints the date, and no time was given")),
        };
        // transformers passes `tools` and `documents` always, as None if there are none.
        let defaults = [("tools", Value::from(())), ("documents", Value::from(()))];
        let special = self.special_tokens.iter().map(|(name, text)| (*name, Value::from(text.as_str())));
        let given = variables.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        let fixed = [
            ("strftime_now", Value::from_function(strftime_now)),
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        let context = Value::from_pairs(defaults.into_iter().chain(special).chain(given).chain(fixed));
        let template = self.environment.get_template(NAME).map_err(|error| failed(&error))?;
        template.render(context).map_err(|error| failed(&error))
    }
}

/// The environment of transformers' `_compile_jinja_template`.
fn environment() -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| invalid(describe(&error)))?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(MAX_TEMPLATE_FUEL));
    environment.set_recursion_limit(MAX_TEMPLATE_DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", |state: &State, value: &Value, indent: Option<usize>, options: Kwargs| {
        tojson(state, value, indent, &options)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(operation_error("raised by the template").with_source(Raised(message)))
    });
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None => Ok(out.write_str("None")?),
        ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        _ => minijinja::escape_formatter(out, state, value),
    });
    Ok(environment)
}

/// The message of `raise_exception`, told from other errors by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// transformers' `tojson`: `json.dumps` without escapes for HTML or non-ASCII characters.
fn tojson(state: &State, value: &Value, indent: Option<usize>, options: &Kwargs) -> Result<Value, minijinja::Error> {
    let indent = indent.or(options.get("indent")?);
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(operation_error("tojson(ensure_ascii=true) is not supported"));
    }
    options.assert_all_used()?;
    let json = to_python_json(value, indent)
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    state.consume_fuel(json.len() as u64 / 64)?;
    Ok(Value::from(json))
}

/// Replaces the block that transformers adds to Jinja to mark the assistant's words in training data,
/// `{% generation %}`, by one that means nothing. Whitespace control signs stay.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((inner, after)) = tag.split_once("%}") else { break };
        let inner = match inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            name @ "generation" => inner.replace(name, "if true"),
            name @ "endgeneration" => inner.replace(name, "endif"),
            _ => inner.to_owned(),
        };
        out.extend([before, "{%", &inner, "%}"]);
        rest = after;
    }
    out.push_str(rest);
    out
}

fn operation_error(what: impl Into<String>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, what.into())
}

fn invalid(what: impl Into<String>) -> TemplateError {
    TemplateError::Invalid { what: what.into() }
}

fn failed(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return TemplateError::Refused { message: message.clone() };
        }
        if error.downcast_ref().is_some_and(|error: &minijinja::Error| error.kind() == ErrorKind::OutOfFuel) {
            return TemplateError::OutOfFuel { max_fuel: MAX_TEMPLATE_FUEL };
        }
        cause = error.source();
    }
    TemplateError::Failed { what: describe(error) }
}

/// "undefined value: … (line 3)".
fn describe(error: &minijinja::Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}
