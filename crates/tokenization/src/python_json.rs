//! JSON with the whitespace of Python's `json.dumps`, which models saw in training. Knows no templates.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
pub(crate) fn to_python_json(value: &impl Serialize, indent: Option<usize>) -> serde_json::Result<String> {
    let mut out = Vec::new();
    match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(MAX_INDENT));
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, OneLine))?,
    }
    Ok(String::from_utf8(out).expect("serde_json writes UTF-8"))
}

/// No template asks for more, and it bounds what one value can grow to.
const MAX_INDENT: usize = 16;

/// A space after every comma and colon.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
