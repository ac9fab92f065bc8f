//! What the micro-benchmarks are to reach: the promises that the project makes of its own overhead. Knows no way to measure.

use std::collections::BTreeMap;

use super::measured::Measured;

/// The figure that a benchmark must reach.
enum Goal {
    /// Nanoseconds an iteration.
    MaxNs(f64),
    /// Nanoseconds an element.
    MaxNsEach(f64),
    /// Elements a second.
    MinEachSecond(f64),
    /// So many times what another benchmark takes.
    MaxTimes(f64, &'static str),
}

const GOALS: [(&str, Goal); 11] = [
    ("kv-paging/take+give of a block", Goal::MaxNs(20.0)),
    ("kv-paging/admit+release 4,096 tokens, cold", Goal::MaxNs(20_000.0)),
    ("kv-paging/admit+promise+release 4,096 tokens, cold, evicting", Goal::MaxNs(20_000.0)),
    ("kv-paging/admit+release 4,096 tokens, full hit", Goal::MaxNs(15_000.0)),
    ("kv-paging/hash 4,096 tokens in blocks of 16", Goal::MaxNsEach(3.0)),
    ("scheduler/plan 1024 decodes, 0 waiting", Goal::MaxNs(50_000.0)),
    ("scheduler/plan 1024 decodes, 10000 waiting", Goal::MaxTimes(1.2, "scheduler/plan 1024 decodes, 0 waiting")),
    ("engine/step of 256 decodes", Goal::MaxNs(100_000.0)),
    ("engine/step of 1024 decodes", Goal::MaxNs(400_000.0)),
    ("engine/300 tokens to each of 256 readers", Goal::MinEachSecond(1e6)),
    ("engine/300 tokens to each of 1024 readers", Goal::MinEachSecond(1e6)),
];

/// The goals, and the medians that some of them refer to.
pub(super) struct Goals<'a> {
    medians_ns: BTreeMap<&'a str, f64>,
}

impl<'a> Goals<'a> {
    /// The goals of a run that measured this.
    pub(super) fn of(measured: &'a [Measured]) -> Self {
        Self { medians_ns: measured.iter().map(|measured| (measured.name.as_str(), measured.median_ns)).collect() }
    }

    /// The goal of a benchmark, to be read.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        Some(match goal_of(name)? {
            Goal::MaxNs(ns) => format!("at most {ns} ns"),
            Goal::MaxNsEach(ns) => format!("at most {ns} ns an element"),
            Goal::MinEachSecond(num) => format!("at least {num} elements a second"),
            Goal::MaxTimes(times, other) => format!("at most {times} times {other}"),
        })
    }

    /// Whether a benchmark reached its goal; `None` if it has none, or what it is compared with was not measured.
    pub(super) fn is_met(&self, measured: &Measured) -> Option<bool> {
        Some(match goal_of(&measured.name)? {
            Goal::MaxNs(ns) => measured.median_ns <= *ns,
            Goal::MaxNsEach(ns) => measured.ns_per_element() <= *ns,
            Goal::MinEachSecond(num) => 1e9 / measured.ns_per_element() >= *num,
            Goal::MaxTimes(times, other) => measured.median_ns <= times * self.medians_ns.get(other)?,
        })
    }

    /// Benchmarks that have a goal and were not measured.
    pub(super) fn unmeasured(&self) -> Vec<&'static str> {
        GOALS.iter().map(|(name, _)| *name).filter(|name| !self.medians_ns.contains_key(name)).collect()
    }

    /// Goal and outcome, and what the goal counts in.
    pub(super) fn verdict(&self, measured: &Measured) -> String {
        let Some(goal) = self.text(&measured.name) else { return String::new() };
        let figure = match goal_of(&measured.name) {
            Some(Goal::MaxNsEach(_)) => format!("{:.2} ns, ", measured.ns_per_element()),
            Some(Goal::MinEachSecond(_)) => format!("{:.2} M/s, ", 1e3 / measured.ns_per_element()),
            _ => String::new(),
        };
        match self.is_met(measured) {
            Some(true) => format!("{figure}{goal}"),
            Some(false) => format!("{figure}MISSED: {goal}"),
            None => format!("{goal}, which was not measured"),
        }
    }
}

fn goal_of(name: &str) -> Option<&'static Goal> {
    GOALS.iter().find(|(of, _)| *of == name).map(|(_, goal)| goal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_compared_in_their_own_unit() {
        let row = |name: &str, median_ns, num_elements| Measured {
            name: name.to_string(),
            median_ns,
            spread_ns: 0.0,
            num_elements,
            op: None,
        };
        let check = |row: Measured, expected: Option<bool>| {
            let of_run = [row, base_row()];
            assert_eq!(Goals::of(&of_run).is_met(&of_run[0]), expected, "{}", of_run[0].name);
        };
        check(row("kv-paging/take+give of a block", 20.0, None), Some(true));
        check(row("kv-paging/take+give of a block", 20.1, None), Some(false));
        check(row("kv-paging/hash 4,096 tokens in blocks of 16", 4096.0 * 2.9, Some(4096)), Some(true));
        check(row("kv-paging/hash 4,096 tokens in blocks of 16", 4096.0 * 3.1, Some(4096)), Some(false));
        check(row("engine/300 tokens to each of 256 readers", 76.0e6, Some(76_800)), Some(true));
        check(row("engine/300 tokens to each of 256 readers", 77.0e6, Some(76_800)), Some(false));
        check(row("scheduler/plan 1024 decodes, 10000 waiting", 47_000.0, None), Some(true));
        check(row("scheduler/plan 1024 decodes, 10000 waiting", 49_000.0, None), Some(false));
        check(row("something else", 1.0, None), None);
        let alone = row("scheduler/plan 1024 decodes, 10000 waiting", 1.0, None);
        assert_eq!(Goals::of(&[]).is_met(&alone), None);
    }

    #[test]
    fn a_goal_without_its_benchmark_is_named() {
        let mut of_run: Vec<Measured> = Goals::of(&[]).unmeasured().into_iter().map(measured_once).collect();
        assert_eq!(of_run.len(), GOALS.len());
        assert!(Goals::of(&of_run).unmeasured().is_empty());
        let renamed = std::mem::replace(&mut of_run[3], measured_once("new"));
        assert_eq!(Goals::of(&of_run).unmeasured(), [renamed.name.as_str()]);
    }

    fn measured_once(name: &str) -> Measured {
        Measured { name: name.to_string(), median_ns: 1.0, spread_ns: 0.0, num_elements: None, op: None }
    }

    fn base_row() -> Measured {
        let name = "scheduler/plan 1024 decodes, 0 waiting".to_string();
        Measured { name, median_ns: 40_000.0, spread_ns: 0.0, num_elements: None, op: None }
    }
}
