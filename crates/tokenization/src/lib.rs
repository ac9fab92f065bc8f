//! Text to tokens and back: vocabularies, chat templates, incremental decoding, stop strings.
