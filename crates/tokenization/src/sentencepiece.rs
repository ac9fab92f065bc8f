//! SentencePiece's BPE: characters are joined to the pieces with the best scores. Knows neither files nor decoding.
//!
//! The algorithm is that of `bpe_model.cc` in SentencePiece: start from characters, and again and again join the two
//! neighbours whose concatenation is the piece with the highest score, the leftmost of equals, until no concatenation is
//! a piece. What is no piece then becomes byte tokens or, in a vocabulary without them, the unknown token.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serving_types::TokenId;

use crate::error::TokenizerError;
use crate::vocabulary::{SPACE_MARK, TokenKind, Vocabulary, byte_token, corrupt};

/// What text without a piece becomes.
enum Fallback {
    /// The UTF-8 bytes, one token each.
    Bytes(Box<[TokenId; 256]>),
    /// One token for a whole run.
    Unknown(TokenId),
}

/// An encoder for texts of at most 4 GiB.
pub(crate) struct SentencePieceEncoder {
    pieces: HashMap<Box<str>, (TokenId, f32)>,
    fallback: Fallback,
    /// Finds the tokens that are recognised verbatim: pattern `i` is `verbatim_ids[i]`.
    verbatim: AhoCorasick,
    verbatim_ids: Vec<TokenId>,
    space_prefix: bool,
}

impl SentencePieceEncoder {
    /// `is_piece(id)` says which ordinary tokens text may become; `scores` has one score a token. With `space_prefix`, text
    /// that begins the input or follows a verbatim token gets a space in front, as the model saw in training.
    pub(crate) fn new(
        vocabulary: &Vocabulary,
        is_piece: impl Fn(TokenId) -> bool,
        scores: &[f32],
        unknown: Option<TokenId>,
        space_prefix: bool,
    ) -> Result<Self, TokenizerError> {
        let mut pieces = HashMap::new();
        let mut verbatim = Vec::new();
        let mut verbatim_ids = Vec::new();
        for (id, token) in vocabulary.iter().filter(|(_, token)| !token.text.is_empty()) {
            if token.kind != TokenKind::Ordinary {
                verbatim.push(&token.bytes);
                verbatim_ids.push(id);
            } else if is_piece(id) {
                let score = scores[id as usize];
                if score.is_nan() {
                    return Err(corrupt(format!("the score of token {id} is not a number")));
                }
                pieces.insert(token.text.clone(), (id, score));
            }
        }
        let verbatim = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(verbatim)
            .map_err(|e| corrupt(format!("the special tokens cannot be searched for: {e}")))?;
        let fallback = match (byte_tokens(vocabulary), unknown) {
            (Some(bytes), _) => Fallback::Bytes(bytes),
            (None, Some(unknown)) => Fallback::Unknown(unknown),
            (None, None) => return Err(corrupt("there are neither 256 byte tokens nor an unknown token")),
        };
        Ok(Self { pieces, fallback, verbatim, verbatim_ids, space_prefix })
    }

    /// Appends the tokens of `text` to `ids`.
    pub(crate) fn encode(&self, text: &str, ids: &mut Vec<TokenId>) {
        let mut start = 0;
        for found in self.verbatim.find_iter(text) {
            self.encode_ordinary(&text[start..found.start()], ids);
            ids.push(self.verbatim_ids[found.pattern().as_usize()]);
            start = found.end();
        }
        self.encode_ordinary(&text[start..], ids);
    }

    fn encode_ordinary(&self, text: &str, ids: &mut Vec<TokenId>) {
        if text.is_empty() {
            return;
        }
        let mut marked = String::with_capacity(text.len() + 16);
        if self.space_prefix {
            marked.push(SPACE_MARK);
        }
        marked.extend(text.chars().map(|c| if c == ' ' { SPACE_MARK } else { c }));

        let symbols = self.merged(&marked);
        let mut after_unknown = false;
        for symbol in symbols.into_iter().filter(|symbol| symbol.start < symbol.end) {
            let text = &marked[symbol.range()];
            if let Some(&(id, _)) = self.pieces.get(text) {
                ids.push(id);
                after_unknown = false;
                continue;
            }
            match &self.fallback {
                Fallback::Bytes(tokens) => ids.extend(text.bytes().map(|byte| tokens[usize::from(byte)])),
                Fallback::Unknown(unknown) if !after_unknown => ids.push(*unknown),
                Fallback::Unknown(_) => {}
            }
            after_unknown = true;
        }
    }

    /// The symbols of `marked` after all joins, in order; those that were joined to their left neighbour are empty.
    fn merged(&self, marked: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = marked
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start: start as u32,
                end: (start + c.len_utf8()) as u32,
                left: i.checked_sub(1),
                right: Some(i + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.right = None;
        }
        let mut joins = BinaryHeap::new();
        for left in 1..symbols.len() {
            joins.extend(self.join(marked, &symbols, left - 1, left));
        }
        while let Some(join) = joins.pop() {
            let (left, right) = (&symbols[join.left], &symbols[join.right]);
            // One side has grown or gone since this join was found.
            if left.is_empty() || right.is_empty() || (left.start, right.end) != (join.start, join.end) {
                continue;
            }
            let after = right.right;
            symbols[join.right].end = symbols[join.right].start;
            symbols[join.left].end = join.end;
            symbols[join.left].right = after;
            if let Some(after) = after {
                symbols[after].left = Some(join.left);
                joins.extend(self.join(marked, &symbols, join.left, after));
            }
            if let Some(before) = symbols[join.left].left {
                joins.extend(self.join(marked, &symbols, before, join.left));
            }
        }
        symbols
    }

    /// The join of two neighbours, if it makes a piece.
    fn join(&self, marked: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Join> {
        let (start, end) = (symbols[left].start, symbols[right].end);
        let &(_, score) = self.pieces.get(&marked[start as usize..end as usize])?;
        Some(Join { score, left, right, start, end })
    }
}

/// The tokens `<0x00>` to `<0xFF>`, if the vocabulary has them all.
fn byte_tokens(vocabulary: &Vocabulary) -> Option<Box<[TokenId; 256]>> {
    let mut ids = Box::new([TokenId::MAX; 256]);
    for (id, token) in vocabulary.iter() {
        if let Some(byte) = byte_token(&token.text) {
            ids[usize::from(byte)] = id;
        }
    }
    ids.iter().all(|&id| id != TokenId::MAX).then_some(ids)
}

/// A part of the text, `start..end` in bytes, and its neighbours that are not empty.
struct Symbol {
    start: u32,
    end: u32,
    left: Option<usize>,
    right: Option<usize>,
}

impl Symbol {
    fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// A possible join of the symbols `left` and `right` to the piece `start..end`.
struct Join {
    score: f32,
    left: usize,
    right: usize,
    start: u32,
    end: u32,
}

impl Ord for Join {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Join {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Join {}
