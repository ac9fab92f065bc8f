//! A minimal client: sends one chat message and prints the answer as it streams. Knows only the wire protocol.
//!
//! ```sh
//! cargo run -p inference-proto --example generate -- "Why is the sky blue?" [http://127.0.0.1:50051]
//! ```

use std::error::Error;
use std::io::Write;

use inference_proto::v1::{
    Chat, ChatMessage, GenerateRequest, SamplingParams, generate_request::Input, generate_response::Event,
    inference_client::InferenceClient,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let prompt = arguments.next().unwrap_or_else(|| "Why is the sky blue?".to_owned());
    let address = arguments.next().unwrap_or_else(|| "http://127.0.0.1:50051".to_owned());

    let message = ChatMessage { role: "user".to_owned(), content: prompt };
    let request = GenerateRequest {
        input: Some(Input::Chat(Chat { messages: vec![message] })),
        sampling: Some(SamplingParams { temperature: Some(0.7), max_tokens: Some(256), ..SamplingParams::default() }),
        ..GenerateRequest::default()
    };
    let mut client = InferenceClient::connect(address).await?;
    // Dropping `responses` before its end would cancel the request.
    let mut responses = client.generate(request).await?.into_inner();
    while let Some(response) = responses.message().await? {
        match response.event {
            Some(Event::Delta(delta)) => {
                print!("{}", delta.text);
                std::io::stdout().flush()?;
            }
            Some(Event::Finished(finished)) => {
                let usage = finished.usage.unwrap_or_default();
                println!(
                    "\n[{:?}: {} prompt tokens, {} of them cached, {} output tokens]",
                    finished.finish_reason(),
                    usage.prompt_tokens,
                    usage.cached_tokens,
                    usage.output_tokens
                );
            }
            Some(Event::PromptLogprobs(_)) | None => {}
        }
    }
    Ok(())
}
