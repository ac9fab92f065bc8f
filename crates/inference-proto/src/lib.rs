//! The wire protocol of Pagewise: messages, client and server of the `pagewise.v1` package.
//!
//! Generated from `proto/pagewise/v1/inference.proto` by `cargo xtask codegen` and committed; the documentation of every
//! field is there and here. Knows nothing of what the messages mean to a server.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use inference_proto::v1::{GenerateRequest, generate_request::Input, inference_client::InferenceClient};
//!
//! let mut client = InferenceClient::connect("http://127.0.0.1:50051").await?;
//! let request = GenerateRequest { input: Some(Input::Text("Once upon a time".into())), ..Default::default() };
//! let mut events = client.generate(request).await?.into_inner();
//! while let Some(response) = events.message().await? {
//!     println!("{response:?}");
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

/// Version 1 of the protocol.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::too_many_lines)]
pub mod v1 {
    include!("generated/pagewise.v1.rs");
}

/// The encoded `google.protobuf.FileDescriptorSet` of the protocol, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptor_set.bin");
