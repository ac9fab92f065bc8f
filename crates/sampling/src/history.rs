//! Which tokens a request has seen and how often it produced them: all that penalties need. Knows no logits.

use serving_types::TokenId;

/// One distinct token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeenToken {
    pub(crate) token: TokenId,
    pub(crate) num_in_output: u32,
}

/// The distinct tokens of a request, ascending, with how often each is in the output so far.
///
/// Its memory is proportional to the context and not to the vocabulary.
#[derive(Debug, Default)]
pub struct TokenHistory {
    seen: Vec<SeenToken>,
}

impl TokenHistory {
    /// Starts over with the tokens of a new owner, the first `num_prompt_tokens` of them prompt. Keeps the memory, and
    /// reserves what `max_more` further tokens may need, so that [`push`](Self::push) does not allocate.
    pub fn reset(&mut self, tokens: &[TokenId], num_prompt_tokens: usize, max_more: usize) {
        let num_prompt_tokens = num_prompt_tokens.min(tokens.len());
        self.seen.clear();
        self.seen.reserve(tokens.len() + max_more);
        let (prompt, output) = tokens.split_at(num_prompt_tokens);
        self.seen.extend(prompt.iter().map(|&token| SeenToken { token, num_in_output: 0 }));
        self.seen.extend(output.iter().map(|&token| SeenToken { token, num_in_output: 1 }));
        self.seen.sort_unstable_by_key(|seen| seen.token);
        self.seen.dedup_by(|next, first| {
            let same = next.token == first.token;
            if same {
                first.num_in_output += next.num_in_output;
            }
            same
        });
    }

    /// Adds a token of the output.
    pub fn push(&mut self, token: TokenId) {
        match self.seen.binary_search_by_key(&token, |seen| seen.token) {
            Ok(at) => self.seen[at].num_in_output += 1,
            Err(at) => self.seen.insert(at, SeenToken { token, num_in_output: 1 }),
        }
    }

    pub(crate) fn seen(&self) -> &[SeenToken] {
        &self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::TokenHistory;

    fn counts(history: &TokenHistory) -> Vec<(u32, u32)> {
        history.seen().iter().map(|seen| (seen.token, seen.num_in_output)).collect()
    }

    #[test]
    fn counts_output_and_remembers_prompt() {
        let mut history = TokenHistory::default();
        history.reset(&[5, 1, 5, 9, 5, 9], 3, 2);
        assert_eq!(counts(&history), [(1, 0), (5, 1), (9, 2)]);
        let capacity = history.seen.capacity();
        history.push(5);
        history.push(0);
        assert_eq!(counts(&history), [(0, 1), (1, 0), (5, 2), (9, 2)]);
        assert_eq!(history.seen.capacity(), capacity);
        history.reset(&[], 0, 0);
        assert_eq!(counts(&history), []);
    }
}
