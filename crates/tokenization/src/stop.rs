//! Stop strings, found wherever the text is cut into pieces. Knows no tokens.

/// The most stop strings that one request may have.
pub const MAX_STOP_STRINGS: usize = 64;
/// The longest stop string.
pub const MAX_STOP_BYTES: usize = 1024;

/// A list of stop strings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopStringsError {
    /// There are too many.
    #[error("there are {count} stop strings; at most {MAX_STOP_STRINGS} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// One is empty, and would stop before the first character.
    #[error("stop string {index} is empty")]
    Empty {
        /// Its place in the list, from 0.
        index: usize,
    },
    /// One is too long.
    #[error("stop string {index} has {bytes} bytes; at most {MAX_STOP_BYTES} are allowed")]
    TooLong {
        /// Its place in the list, from 0.
        index: usize,
        /// Its length.
        bytes: usize,
    },
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopScan {
    /// Text that is certainly before any stop string, in order.
    pub emit: String,
    /// The stop string that was completed, by its place in the list.
    pub stopped: Option<usize>,
}

/// Looks for stop strings in a growing text, holding back what may still turn out to be the start of one.
///
/// The first stop string to be complete ends the text, right before its first character; of several that are complete at
/// the same character, the longest. The result does not depend on how the text is cut into pieces.
///
/// Each stop string is a Knuth–Morris–Pratt automaton, so a byte of text costs amortised constant time for each.
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text not yet emitted: as long as the longest partial match.
    held: String,
    stopped: Option<usize>,
}

impl StopMatcher {
    /// A matcher at the beginning of a text. Without stop strings it holds nothing back.
    ///
    /// # Errors
    /// An empty or overlong string, or too many.
    pub fn new(stop_strings: Vec<String>) -> Result<Self, StopStringsError> {
        if stop_strings.len() > MAX_STOP_STRINGS {
            return Err(StopStringsError::TooMany { count: stop_strings.len() });
        }
        for (index, stop) in stop_strings.iter().enumerate() {
            if stop.is_empty() {
                return Err(StopStringsError::Empty { index });
            }
            if stop.len() > MAX_STOP_BYTES {
                return Err(StopStringsError::TooLong { index, bytes: stop.len() });
            }
        }
        let patterns = stop_strings.into_iter().map(|stop| Pattern::new(stop.into_bytes())).collect();
        Ok(Self { patterns, held: String::new(), stopped: None })
    }

    /// Takes the next piece of text. After a stop, further text is dropped and the same stop is reported again.
    pub fn push(&mut self, text: &str) -> StopScan {
        if self.stopped.is_some() {
            return StopScan { emit: String::new(), stopped: self.stopped };
        }
        let num_held = self.held.len();
        self.held.push_str(text);
        for (offset, byte) in text.bytes().enumerate() {
            if let Some((index, len)) = self.advance(byte) {
                self.stopped = Some(index);
                self.held.truncate(num_held + offset + 1 - len);
                return StopScan { emit: std::mem::take(&mut self.held), stopped: self.stopped };
            }
        }
        let num_partial = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - num_partial);
        StopScan { emit: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// Ends the text: whatever was held back, since nothing can complete it any more.
    pub fn flush(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }

    /// Steps every automaton; the index and length of the longest stop string that `byte` completes.
    fn advance(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut longest: Option<(usize, usize)> = None;
        for (index, pattern) in self.patterns.iter_mut().enumerate() {
            pattern.advance(byte);
            let len = pattern.bytes.len();
            if pattern.matched == len && longest.is_none_or(|(_, longest_len)| len > longest_len) {
                longest = Some((index, len));
            }
        }
        longest
    }
}

/// The automaton of one stop string. A complete match is never advanced: the matcher has stopped.
struct Pattern {
    bytes: Vec<u8>,
    /// `borders[n]`: the length of the longest proper prefix of `bytes[..n + 1]` that is also its suffix.
    borders: Vec<usize>,
    /// How many bytes of the pattern the text ends with: the most possible, less than all.
    matched: usize,
}

impl Pattern {
    fn new(bytes: Vec<u8>) -> Self {
        let mut borders = vec![0; bytes.len()];
        let mut len = 0;
        for end in 1..bytes.len() {
            while len > 0 && bytes[len] != bytes[end] {
                len = borders[len - 1];
            }
            len += usize::from(bytes[len] == bytes[end]);
            borders[end] = len;
        }
        Self { bytes, borders, matched: 0 }
    }

    fn advance(&mut self, byte: u8) {
        assert!(self.matched < self.bytes.len(), "a stop string was completed and the text went on");
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
    }
}
