//! Stop strings against a naive search of the whole text.

use proptest::prelude::*;
use tokenization::{MAX_STOP_BYTES, MAX_STOP_STRINGS, StopMatcher, StopStringsError};

use crate::fixtures::fixed_seed;

/// The text before the stop, and which stop string it was.
type Outcome = (String, Option<usize>);

/// The first end of any stop string in `text`; of those that end there, the longest.
fn naive(stops: &[String], text: &str) -> Outcome {
    let ends = (1..=text.len()).filter(|&end| text.is_char_boundary(end));
    for end in ends {
        let complete = stops.iter().enumerate().filter(|(_, stop)| text[..end].ends_with(stop.as_str()));
        // `max_by_key` gives the last of equals.
        if let Some((index, stop)) = complete.rev().max_by_key(|(_, stop)| stop.len()) {
            return (text[..end - stop.len()].to_owned(), Some(index));
        }
    }
    (text.to_owned(), None)
}

/// Pushes `text` in pieces; also checks that everything that can be emitted is.
fn matched(stops: &[String], pieces: &[&str]) -> Outcome {
    let mut matcher = StopMatcher::new(stops.to_vec()).expect("valid stop strings");
    let (mut pushed, mut emitted) = (String::new(), String::new());
    for piece in pieces {
        pushed.push_str(piece);
        let scan = matcher.push(piece);
        emitted.push_str(&scan.emit);
        if scan.stopped.is_some() {
            let again = matcher.push("more");
            assert_eq!((again.emit.as_str(), again.stopped), ("", scan.stopped));
            assert_eq!(matcher.flush(), "");
            return (emitted, scan.stopped);
        }
        let held = &pushed[emitted.len()..];
        assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)), "{held:?} was held back");
    }
    emitted.push_str(&matcher.flush());
    (emitted, None)
}

/// `text` in pieces that begin at the given fractions of its characters.
fn cut<'a>(text: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a str> {
    let mut borders: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    borders.push(text.len());
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&borders)).chain([0, text.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

#[test]
fn stop_strings_are_found_wherever_the_text_is_cut() {
    // Two letters and two characters with common bytes make overlaps and false starts frequent.
    let stops = prop::collection::vec("[ab你佡]{1,5}", 0..4);
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..12);
    proptest!(fixed_seed(2000), |(stops in stops, text in "[ab你佡]{0,24}", cuts in cuts)| {
        let expected = naive(&stops, &text);
        prop_assert_eq!(matched(&stops, &cut(&text, &cuts)), expected.clone());
        let characters: Vec<String> = text.chars().map(String::from).collect();
        prop_assert_eq!(matched(&stops, &characters.iter().map(String::as_str).collect::<Vec<_>>()), expected);
    });
}

#[test]
fn examples() {
    for (stops, pieces, text, stopped) in [
        (&[][..], &["a", "b"][..], "ab", None),
        (&["\n\n"], &["one\n", "two\n", "\nthree"], "one\ntwo", Some(0)),
        (&["<|im_end|>"], &["hi<|im", "_start|><|im_", "end|>x"], "hi<|im_start|>", Some(0)),
        (&["aab"], &["aa", "ab"], "a", Some(0)),
        (&["abab", "b"], &["aba"], "a", Some(1)),
        (&["bc", "abc"], &["xab", "c"], "x", Some(1)),
        (&["abcd", "bc"], &["abc", "d"], "a", Some(1)),
        (&["x", "x"], &["yx"], "y", Some(0)),
        (&["。"], &["你好", "。再见"], "你好", Some(0)),
        (&["stop"], &["sto"], "sto", None),
    ] {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        assert_eq!(matched(&stops, pieces), (text.to_owned(), stopped), "{stops:?} {pieces:?}");
    }
}

#[test]
fn unusable_lists_are_refused() {
    for (stops, error) in [
        (vec!["a".to_owned(), String::new()], StopStringsError::Empty { index: 1 }),
        (vec!["a".repeat(MAX_STOP_BYTES + 1)], StopStringsError::TooLong { index: 0, bytes: MAX_STOP_BYTES + 1 }),
        (vec!["a".to_owned(); MAX_STOP_STRINGS + 1], StopStringsError::TooMany { count: MAX_STOP_STRINGS + 1 }),
    ] {
        assert_eq!(StopMatcher::new(stops).err(), Some(error));
    }
    assert!(StopMatcher::new(vec!["a".repeat(MAX_STOP_BYTES); MAX_STOP_STRINGS]).is_ok());
}
