//! The `pagewise.v1.Inference` service: each call is a translation to a [`Generator`] and back.

use std::pin::Pin;
use std::time::Instant;

use futures_util::Stream;
use generation::{Generator, SpecialText};
use inference_proto::v1;
use inference_proto::v1::inference_server::Inference;
use tonic::{Request, Response, Status};

use crate::deadline::{before_response, timeout};
use crate::responses::responses;
use crate::{messages, status};

/// The response header that names a Generate call's request.
const REQUEST_ID_HEADER: &str = "x-request-id";

pub(crate) struct InferenceService {
    pub(crate) generator: Generator,
    pub(crate) device: String,
    pub(crate) version: String,
    pub(crate) started: Instant,
}

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let timeout = timeout(request.metadata())?;
        let request = messages::generate_request(request.into_inner(), timeout)?;
        let events = before_response(timeout, async {
            self.generator.generate(request).await.map_err(|error| status::of_error(&error))
        })
        .await?;
        tracing::debug!(request_id = events.request_id(), prompt_tokens = events.num_prompt_tokens(), "generate");
        let request_id = events.request_id().parse();
        let mut response: Response<Self::GenerateStream> =
            Response::new(Box::pin(responses(events, self.generator.clone())));
        // An id that no header can hold was chosen by the client, who knows it.
        if let Ok(request_id) = request_id {
            response.metadata_mut().insert(REQUEST_ID_HEADER, request_id);
        }
        Ok(response)
    }

    async fn tokenize(&self, request: Request<v1::TokenizeRequest>) -> Result<Response<v1::TokenizeResponse>, Status> {
        let timeout = timeout(request.metadata())?;
        let input = messages::tokenize_input(request.into_inner())?;
        let token_ids = before_response(timeout, async {
            self.generator.tokenize(input).await.map_err(|error| status::of_error(&error))
        })
        .await?;
        Ok(Response::new(v1::TokenizeResponse { token_ids }))
    }

    async fn detokenize(
        &self,
        request: Request<v1::DetokenizeRequest>,
    ) -> Result<Response<v1::DetokenizeResponse>, Status> {
        let timeout = timeout(request.metadata())?;
        let request = request.into_inner();
        let skip = request.skip_special_tokens.unwrap_or(false);
        let special = if skip { SpecialText::Skip } else { SpecialText::Keep };
        let text = before_response(timeout, async {
            self.generator.detokenize(request.token_ids, special).await.map_err(|error| status::of_error(&error))
        })
        .await?;
        Ok(Response::new(v1::DetokenizeResponse { text }))
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Result<Response<v1::AbortResponse>, Status> {
        let request_id = request.into_inner().request_id;
        if request_id.is_empty() {
            return Err(Status::invalid_argument("request_id is missing"));
        }
        Ok(Response::new(v1::AbortResponse { found: self.generator.abort(&request_id) }))
    }

    async fn get_model_info(
        &self,
        _: Request<v1::GetModelInfoRequest>,
    ) -> Result<Response<v1::GetModelInfoResponse>, Status> {
        let model = self.generator.model();
        let limits = self.generator.limits();
        Ok(Response::new(v1::GetModelInfoResponse {
            name: model.name.clone(),
            architecture: model.architecture.clone(),
            vocab_size: limits.vocab_size,
            max_model_len: limits.max_model_len,
            bos_token_id: model.bos_token_id,
            eos_token_ids: model.eos_token_ids.clone(),
            has_chat_template: self.generator.has_chat_template(),
            defaults: Some(messages::defaults(self.generator.defaults())),
        }))
    }

    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let limits = self.generator.limits();
        let memory = self.generator.memory().into_iter();
        Ok(Response::new(v1::GetServerInfoResponse {
            version: self.version.clone(),
            device: self.device.clone(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            block_size: limits.block_size,
            num_blocks: limits.num_blocks,
            max_num_seqs: limits.max_batch_rows,
            max_num_batched_tokens: limits.max_batch_tokens,
            max_logprobs: limits.max_top_logprobs,
            memory: memory.map(|entry| v1::MemoryEntry { name: entry.name.into_owned(), bytes: entry.bytes }).collect(),
        }))
    }

    async fn get_loads(&self, _: Request<v1::GetLoadsRequest>) -> Result<Response<v1::GetLoadsResponse>, Status> {
        let stats = self.generator.stats();
        Ok(Response::new(v1::GetLoadsResponse {
            num_waiting: stats.num_waiting,
            num_running: stats.num_running,
            kv_blocks_free: stats.blocks_free,
            kv_blocks_cached: stats.blocks_cached,
            kv_blocks_active: stats.blocks_active + stats.blocks_in_transit,
            kv_blocks_total: stats.blocks_total,
            prefix_query_tokens: stats.prefix_query_tokens,
            prefix_hit_tokens: stats.prefix_hit_tokens,
            output_tokens: stats.output_tokens,
            preemptions: stats.preemptions,
            steps: stats.steps,
        }))
    }
}
