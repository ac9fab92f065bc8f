//! Server-sent events as bytes come: the data of each event. Knows no protocol above it. Follows "Server-sent events" of
//! WHATWG's HTML standard as far as events of one kind need it.

/// No event is longer.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// What came and is not yet taken.
#[derive(Default)]
pub(super) struct Events {
    pending: Vec<u8>,
}

/// An event has more bytes than any that is expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Events {
    /// More bytes came.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        // With or without carriage returns, a line ends in a line feed; data are JSON, which has none of both inside.
        self.pending.extend(bytes.iter().filter(|byte| **byte != b'\r'));
        if self.pending.len() > MAX_EVENT_BYTES + bytes.len() { Err(TooLong) } else { Ok(()) }
    }

    /// The data of the next event that is complete and has any.
    pub(super) fn next(&mut self) -> Option<String> {
        loop {
            let end = self.pending.windows(2).position(|pair| pair == b"\n\n")?;
            let event: Vec<u8> = self.pending.drain(..end + 2).collect();
            let data: Vec<&[u8]> = event.split(|byte| *byte == b'\n').filter_map(data_of).collect();
            if !data.is_empty() {
                return Some(String::from_utf8_lossy(&data.join(&b'\n')).into_owned());
            }
        }
    }
}

fn data_of(line: &[u8]) -> Option<&[u8]> {
    let data = line.strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All events of a stream that comes in pieces of this size.
    fn events(stream: &str, piece: usize) -> Vec<String> {
        let mut events = Events::default();
        let mut all = Vec::new();
        for bytes in stream.as_bytes().chunks(piece) {
            events.push(bytes).expect("the case is short");
            all.extend(std::iter::from_fn(|| events.next()));
        }
        all
    }

    #[test]
    fn events_are_the_same_however_they_come() {
        let check = |stream: &str, expected: &[&str]| {
            for piece in [1, 2, 3, 7, 1000] {
                assert_eq!(events(stream, piece), expected, "{stream:?} in pieces of {piece}");
            }
        };
        check("data: {\"a\":1}\n\ndata: [DONE]\n\n", &["{\"a\":1}", "[DONE]"]);
        check("data:{}\r\n\r\ndata: x\r\n\r\n", &["{}", "x"]);
        check(": a comment\n\nevent: b\nid: 3\ndata: c\n\n", &["c"]);
        check("data: two\ndata: lines\n\n", &["two\nlines"]);
        check("data: é\n\n\n\ndata: not yet complete\n", &["é"]);
        check("", &[]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        let piece = [b'x'; 1 << 16];
        let taken = std::iter::repeat_with(|| events.push(&piece)).take_while(Result::is_ok).take(100).count();
        assert_eq!(taken, MAX_EVENT_BYTES / piece.len() + 1);
    }
}
