//! The gRPC Inference service: map messages, stream, cancel, map errors.
