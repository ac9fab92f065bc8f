//! Text, chat messages or token ids in; a stream of text events out: the in-process API.
