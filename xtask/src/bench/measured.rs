//! What a micro-benchmark measured. Knows not how it was measured.

use serde::Serialize;

use super::goals::Goals;
use super::ops::Op;

/// One benchmark's outcome. Times are of one iteration.
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) median_ns: f64,
    /// The median of the samples' distances from their median.
    pub(super) spread_ns: f64,
    /// Things that an iteration works on, if it is many of one kind.
    pub(super) num_elements: Option<u64>,
    /// If it is an op of a step.
    pub(super) op: Option<Op>,
}

/// A recorded outcome.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    name: &'a str,
    median: f64,
    spread: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    elements: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'a Op>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

impl Measured {
    /// The row for the record.
    pub(super) fn row(&self, goals: &Goals<'_>) -> Row<'_> {
        Row {
            name: &self.name,
            median: rounded(self.median_ns),
            spread: rounded(self.spread_ns),
            unit: "ns",
            elements: self.num_elements,
            op: self.op.as_ref(),
            goal: goals.text(&self.name),
            met: goals.is_met(self),
        }
    }

    pub(super) fn ns_per_element(&self) -> f64 {
        self.median_ns / self.num_elements.unwrap_or(1) as f64
    }

    /// The median and the spread, to be read.
    pub(super) fn figure(&self) -> String {
        let (unit, unit_ns) = match self.median_ns {
            ns if ns < 1e3 => ("ns", 1.0),
            ns if ns < 1e6 => ("us", 1e3),
            _ => ("ms", 1e6),
        };
        format!("{:.2} ± {:.2} {unit}", self.median_ns / unit_ns, self.spread_ns / unit_ns)
    }
}

/// To three places: no clock here is better.
fn rounded(ns: f64) -> f64 {
    (ns * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_was_measured_and_what_it_should_be() {
        let check = |name: &str, median_ns, num_elements, expected: &str| {
            let measured = [Measured { name: name.into(), median_ns, spread_ns: 0.5, num_elements, op: None }];
            let row = measured[0].row(&Goals::of(&measured));
            assert_eq!(serde_json::to_string(&row).expect("a row can be written"), expected);
        };
        check(
            "kv-paging/take+give of a block",
            8.81049,
            None,
            r#"{"name":"kv-paging/take+give of a block","median":8.81,"spread":0.5,"unit":"ns","goal":"at most 20 ns","met":true}"#,
        );
        let expected = r#"{"name":"sampling/greedy","median":2000.0,"spread":0.5,"unit":"ns","elements":4}"#;
        check("sampling/greedy", 2000.0, Some(4), expected);
    }

    #[test]
    fn figures_are_in_the_unit_of_the_median() {
        let check = |median_ns, spread_ns, expected: &str| {
            let measured = Measured { name: String::new(), median_ns, spread_ns, num_elements: Some(4), op: None };
            assert_eq!(measured.figure(), expected);
            assert_eq!(measured.ns_per_element(), median_ns / 4.0);
        };
        check(9.87, 0.1, "9.87 ± 0.10 ns");
        check(20_113.0, 250.0, "20.11 ± 0.25 us");
        check(61_060_000.0, 1_200_000.0, "61.06 ± 1.20 ms");
    }
}
