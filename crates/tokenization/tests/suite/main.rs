//! Tests of the crate's surface, against fixtures that the Python reference made (`tests/fixtures/make.py`).

mod chat_templates;
mod corpus;
mod decode;
mod demo_model;
mod fixtures;
mod stop_strings;
mod vocabularies;
