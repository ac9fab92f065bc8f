//! Algorithms that were measured to be the fastest on a kind of card, as committed. Knows text, not cards.
//!
//! The file's first line is `cublaslt VERSION sm MAJOR MINOR multiprocessors COUNT`; each other line is a shape and the
//! algorithm's words in hexadecimal: `rows n k element out_element words`. Lines that begin with `#` say where it is from.

use std::collections::HashMap;

use cudarc::cublaslt::sys;
use tensor_backend::Element;

use super::ProductShape;
use super::plan::Algorithm;

/// What the bits of algorithms depend on, and their times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Card {
    /// Of cuBLASLt, as it counts.
    pub(crate) library_version: usize,
    /// Compute capability.
    pub(crate) capability: (i32, i32),
    /// Streaming multiprocessors.
    pub(crate) num_multiprocessors: i32,
}

/// The measured algorithms for a card.
#[derive(Debug, Default)]
pub(crate) struct Table(HashMap<ProductShape, Algorithm>);

impl Table {
    /// The committed table, or an empty one for a card or a library that nobody has measured.
    pub(crate) fn of_card(card: &Card) -> Self {
        Self::parse(include_str!("h100.txt"), card)
    }

    /// Lines that mean nothing count as a table that is not there: the heuristic is always right enough.
    fn parse(text: &str, card: &Card) -> Self {
        let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        if lines.next() != Some(&*head(card)) {
            return Self::default();
        }
        Self(lines.map_while(parse_line).collect())
    }

    pub(crate) fn get(&self, shape: &ProductShape) -> Option<&Algorithm> {
        self.0.get(shape)
    }
}

/// The first line of a card's table.
pub(crate) fn head(card: &Card) -> String {
    let Card { library_version, capability: (major, minor), num_multiprocessors } = card;
    format!("cublaslt {library_version} sm {major} {minor} multiprocessors {num_multiprocessors}")
}

/// A line of the table.
pub(crate) fn line(shape: &ProductShape, algorithm: &Algorithm) -> String {
    let &ProductShape { rows, n, k, element, out_element, .. } = shape;
    let words: Vec<String> = algorithm.0.data.iter().map(|word| format!("{word:x}")).collect();
    format!("{rows} {n} {k} {} {} {}", element_name(element), element_name(out_element), words.join(" "))
}

fn parse_line(line: &str) -> Option<(ProductShape, Algorithm)> {
    let mut words = line.split(' ');
    let mut number = || words.next()?.parse().ok();
    let (rows, n, k) = (number()?, number()?, number()?);
    let (element, out_element) = (element_of(words.next()?)?, element_of(words.next()?)?);
    let mut data = [0; 8];
    for word in &mut data {
        *word = u64::from_str_radix(words.next()?, 16).ok()?;
    }
    let shape = ProductShape { rows, n, k, out_stride: n, element, out_element };
    Some((shape, Algorithm(sys::cublasLtMatmulAlgo_t { data })))
}

fn element_name(element: Element) -> &'static str {
    match element {
        Element::F32 => "f32",
        Element::F16 => "f16",
        Element::BF16 => "bf16",
    }
}

fn element_of(name: &str) -> Option<Element> {
    [Element::F32, Element::F16, Element::BF16].into_iter().find(|element| element_name(*element) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: Card = Card { library_version: 130_100, capability: (9, 0), num_multiprocessors: 132 };

    #[test]
    fn what_is_written_is_read_on_the_same_card_alone() {
        let shape = ProductShape {
            rows: 64,
            n: 6144,
            k: 4096,
            out_stride: 6144,
            element: Element::BF16,
            out_element: Element::F32,
        };
        let algorithm = Algorithm(sys::cublasLtMatmulAlgo_t { data: [0x42, 0, 3, u64::MAX, 5, 6, 7, 8] });
        let text = format!("# from a test\n{}\n{}\n", head(&CARD), line(&shape, &algorithm));
        assert_eq!(Table::parse(&text, &CARD).get(&shape), Some(&algorithm));
        for other in [
            Card { library_version: 130_200, ..CARD },
            Card { capability: (8, 0), ..CARD },
            Card { num_multiprocessors: 114, ..CARD },
        ] {
            assert!(Table::parse(&text, &other).get(&shape).is_none(), "{other:?}");
        }
        assert!(Table::parse("junk", &CARD).get(&shape).is_none());
        assert!(Table::parse(&format!("{}\n64 6144 junk", head(&CARD)), &CARD).get(&shape).is_none());
    }

    #[test]
    fn the_committed_table_is_whole() {
        let text = include_str!("h100.txt");
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        assert!(lines.next().is_some_and(|head| head.starts_with("cublaslt ")));
        assert!(lines.all(|line| parse_line(line).is_some()));
    }
}
