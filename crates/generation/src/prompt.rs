//! From a request's input to prompt tokens. Work for a blocking thread: rendering and tokenizing take milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

use serving_types::TokenId;
use tokenization::{ChatMessage, ChatTemplate, RenderOptions, SpecialTokens, TemplateError, Tokenizer, TokenizerError};

use crate::{GenerateError, Input};

/// Text and chat messages to tokens, in the way of one model.
pub(crate) struct PromptReader<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) template: Option<&'a ChatTemplate>,
    /// Longer texts, those of conversations included, are refused before they are encoded.
    pub(crate) max_text_bytes: usize,
}

impl PromptReader<'_> {
    /// The prompt's tokens; at least one.
    pub(crate) fn read(&self, input: Input) -> Result<Vec<TokenId>, GenerateError> {
        let field = input.field();
        let tokens = match input {
            Input::Text(text) if text.is_empty() => {
                return Err(GenerateError::invalid(field, "is empty; a prompt holds at least one token"));
            }
            Input::Text(text) => self.text(field, &text, SpecialTokens::Add)?,
            Input::Chat(messages) => self.chat(&messages)?,
            Input::Tokens(tokens) => tokens,
        };
        if tokens.is_empty() {
            return Err(GenerateError::invalid(field, "holds no tokens; a prompt holds at least one"));
        }
        Ok(tokens)
    }

    /// The tokens of a text, which may be none.
    pub(crate) fn text(
        &self,
        field: &'static str,
        text: &str,
        special: SpecialTokens,
    ) -> Result<Vec<TokenId>, GenerateError> {
        let (bytes, max_bytes) = (text.len(), self.max_text_bytes);
        if bytes > max_bytes {
            let message = format!("has {bytes} bytes; the context has room for at most {max_bytes}");
            return Err(GenerateError::invalid(field, message));
        }
        self.tokenizer.encode(text, special).map_err(|error| match error {
            TokenizerError::TextTooLong { .. } => GenerateError::invalid(field, format!("is too long: {error}")),
            _ => GenerateError::Internal(error.to_string()),
        })
    }

    /// The tokens of a conversation, up to where the assistant's answer begins.
    pub(crate) fn chat(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>, GenerateError> {
        const FIELD: &str = "chat";
        let Some(template) = self.template else {
            return Err(GenerateError::invalid(FIELD, "needs a chat template, and the model has none; send text"));
        };
        if messages.is_empty() {
            return Err(GenerateError::invalid(FIELD, "has no messages"));
        }
        if let Some(place) = messages.iter().position(|message| message.role.is_empty()) {
            return Err(GenerateError::invalid(FIELD, format!("has no role in message {place}")));
        }
        let now_unix_s =
            SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|t| i64::try_from(t.as_secs()).ok());
        let options = RenderOptions { add_generation_prompt: true, now_unix_s, ..RenderOptions::default() };
        let text = template.render(messages, options).map_err(|error| match error {
            TemplateError::Invalid { .. } => GenerateError::Internal(error.to_string()),
            _ => GenerateError::invalid(FIELD, format!("cannot be rendered: {error}")),
        })?;
        // The template writes the model's special tokens itself.
        self.text(FIELD, &text, SpecialTokens::Omit)
    }
}
