//! What a micro-benchmark measured. Knows neither how it was measured nor what it should be.

/// One benchmark's outcome. Times are of one iteration.
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) median_ns: f64,
    /// The median of the samples' distances from their median.
    pub(super) spread_ns: f64,
    /// Things that an iteration works on, if it is many of one kind.
    pub(super) num_elements: Option<u64>,
}

impl Measured {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_the_unit_of_the_median() {
        let check = |median_ns, spread_ns, expected: &str| {
            let measured = Measured { name: String::new(), median_ns, spread_ns, num_elements: Some(4) };
            assert_eq!(measured.figure(), expected);
            assert_eq!(measured.ns_per_element(), median_ns / 4.0);
        };
        check(9.87, 0.1, "9.87 ± 0.10 ns");
        check(20_113.0, 250.0, "20.11 ± 0.25 us");
        check(61_060_000.0, 1_200_000.0, "61.06 ± 1.20 ms");
    }
}
