//! Implements Executor: model architectures, input preparation and KV memory over any Backend.
