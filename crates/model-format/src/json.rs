//! One JSON object, its keys unique and its values still text until somebody asks for them with a type. So nothing is
//! built from a hostile value that no field expects, and what was never asked for can be listed. It knows no keys.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{FormatError, error::shortened, tensor_info::index_by_name};

/// The fields of an object that were not taken yet.
pub(crate) struct Object<'a> {
    /// What a message puts before a key: the file's name, or the path of an object inside it.
    path: String,
    fields: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Splits the text of an object. `path` names the file or field in messages.
    pub(crate) fn parse(path: &str, text: &'a str) -> Result<Self, FormatError> {
        let fields =
            serde_json::from_str(text).map_err(|e| FormatError::corrupt(format_args!("{path} is not valid: {e}")))?;
        Self::new(path.to_owned(), fields)
    }

    fn new(path: String, Fields(fields): Fields<'a>) -> Result<Self, FormatError> {
        index_by_name(&fields, |field| &field.0)
            .map_err(|key| FormatError::corrupt(format_args!("{path} has the key `{}` twice", shortened(key))))?;
        Ok(Self { path, fields })
    }

    /// Takes a field of type `T`. A field that is `null` counts as absent.
    pub(crate) fn take<T: Deserialize<'a>>(&mut self, key: &str) -> Result<Option<T>, FormatError> {
        match self.take_text(key) {
            Some(text) => self.convert(key, text).map(Some),
            None => Ok(None),
        }
    }

    /// Takes a field of type `T` that must be there.
    pub(crate) fn require<T: Deserialize<'a>>(&mut self, key: &str) -> Result<T, FormatError> {
        self.take(key)?.ok_or_else(|| FormatError::missing(key))
    }

    /// Takes a field that is one number or a list of them; absent is an empty list.
    pub(crate) fn take_one_or_many(&mut self, key: &str) -> Result<Vec<u32>, FormatError> {
        match self.take_text(key) {
            Some(text) if text.starts_with('[') => self.convert(key, text),
            Some(text) => Ok(vec![self.convert(key, text)?]),
            None => Ok(Vec::new()),
        }
    }

    /// Takes a field that is an object.
    pub(crate) fn take_object(&mut self, key: &str) -> Result<Option<Self>, FormatError> {
        match self.take(key)? {
            Some(fields) => Self::new(format!("{}: {key}", self.path), fields).map(Some),
            None => Ok(None),
        }
    }

    /// Takes the text of a field that is not `null`.
    pub(crate) fn take_text(&mut self, key: &str) -> Option<&'a str> {
        let found = self.fields.iter().position(|(name, _)| name == key)?;
        let (_, value) = self.fields.remove(found);
        Some(value.get()).filter(|text| *text != "null")
    }

    /// Whether the field is there and not yet taken, `null` or not.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.fields.iter().any(|(name, _)| name == key)
    }

    /// The fields that nobody took and their text; `null` counts as absent.
    pub(crate) fn rest(&self) -> impl Iterator<Item = (&str, &'a str)> {
        let fields = self.fields.iter().map(|(key, value)| (key.as_str(), value.get()));
        fields.filter(|(_, text)| *text != "null")
    }

    /// All remaining fields, as an object whose values share a type.
    pub(crate) fn into_typed<T: Deserialize<'a>>(mut self) -> Result<Vec<(String, T)>, FormatError> {
        let fields = std::mem::take(&mut self.fields);
        fields.into_iter().map(|(key, value)| self.convert(&key, value.get()).map(|value| (key, value))).collect()
    }

    fn convert<T: Deserialize<'a>>(&self, key: &str, text: &'a str) -> Result<T, FormatError> {
        serde_json::from_str(text).map_err(|e| {
            let message = e.to_string();
            // The position is one inside this value, which would mislead.
            let message = message.split(" at line ").next().unwrap_or_default();
            let (key, text) = (shortened(key), shortened(text));
            FormatError::corrupt(format_args!("{}: `{key}` = {text}: {message}", self.path))
        })
    }
}

struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}
