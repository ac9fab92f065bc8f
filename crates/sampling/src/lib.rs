//! Pure functions from logits to tokens.
