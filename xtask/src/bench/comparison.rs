//! Pagewise beside a peer in one figure, pair by pair: ratios, their spread, and what they should be. Pure arithmetic.

use serde::Serialize;

use super::contender::Contender;
use super::metric::Metric;

/// What the median ratio is to be, ours over theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// One figure of both, measured in turns.
pub(super) struct Comparison<'a> {
    /// The workload's name; none for what a process does by itself.
    pub(super) workload: Option<String>,
    pub(super) metric: Metric,
    pub(super) pagewise: &'a Contender,
    pub(super) peer: &'a Contender,
    /// Pair by pair.
    pub(super) ours: Vec<f64>,
    pub(super) theirs: Vec<f64>,
    pub(super) goal: Option<Goal>,
    /// What was asked, pair by pair.
    pub(super) requests_sha256: Vec<String>,
}

/// A median, and the median distance from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) spread: f64,
}

/// A recorded comparison.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    name: String,
    /// Of the ratios.
    median: f64,
    spread: f64,
    unit: &'static str,
    /// Ours over theirs, pair by pair.
    pairs: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    pagewise: Side<'a>,
    peer: Side<'a>,
    requests_sha256: &'a [String],
}

/// One server's part of a row.
#[derive(Serialize)]
struct Side<'a> {
    name: &'a str,
    version: &'a str,
    flags: String,
    median: f64,
    spread: f64,
    unit: &'static str,
}

impl<'a> Side<'a> {
    fn of(contender: &'a Contender, values: &[f64], metric: Metric) -> Self {
        let Summary { median, spread } = Summary::of(values);
        Self {
            name: &contender.name,
            version: &contender.version,
            flags: contender.command_line(),
            median: rounded(median),
            spread: rounded(spread),
            unit: metric.unit(),
        }
    }
}

impl Summary {
    /// Of at least one value.
    pub(super) fn of(values: &[f64]) -> Self {
        let median = median(values.to_vec());
        Self { median, spread: self::median(values.iter().map(|value| (value - median).abs()).collect()) }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] }
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(goal) => ratio >= goal,
            Self::AtMost(goal) => ratio <= goal,
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::AtLeast(goal) => format!("at least {goal}"),
            Self::AtMost(goal) => format!("at most {goal}"),
        }
    }
}

impl Comparison<'_> {
    fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs).collect()
    }

    fn what(&self) -> String {
        match &self.workload {
            Some(workload) => format!("{workload} {}", self.metric.name()),
            None => self.metric.name().to_string(),
        }
    }

    pub(super) fn is_met(&self) -> Option<bool> {
        Some(self.goal?.is_met(Summary::of(&self.ratios()).median))
    }

    /// A line of the table.
    pub(super) fn line(&self) -> String {
        let (ours, theirs, ratio) = (Summary::of(&self.ours), Summary::of(&self.theirs), Summary::of(&self.ratios()));
        let verdict = match (self.goal, self.is_met()) {
            (Some(goal), Some(true)) => goal.text(),
            (Some(goal), _) => format!("MISSED: {}", goal.text()),
            (None, _) => String::new(),
        };
        format!(
            "| {:<22} | {:>9.2} {:<8} | {:<14} | {:>9.2} {:<8} | {:>6.3} ± {:<5.3} | {verdict:<21} |",
            self.what(),
            ours.median,
            self.metric.unit(),
            self.peer.name,
            theirs.median,
            self.metric.unit(),
            ratio.median,
            ratio.spread,
        )
    }

    /// The row for the record.
    ///
    /// # Panics
    /// If nothing is known of what was asked: two servers can only be compared by their answers to the same.
    pub(super) fn row(&self, table: &str) -> Row<'_> {
        assert!(!self.requests_sha256.is_empty(), "{}: nothing was asked", self.what());
        let ratios = self.ratios();
        let Summary { median, spread } = Summary::of(&ratios);
        Row {
            name: format!("{table}/{} against {}", self.what(), self.peer.name),
            median: rounded(median),
            spread: rounded(spread),
            unit: "times the peer's",
            pairs: ratios.into_iter().map(rounded).collect(),
            goal: self.goal.map(Goal::text),
            met: self.is_met(),
            pagewise: Side::of(self.pagewise, &self.ours, self.metric),
            peer: Side::of(self.peer, &self.theirs, self.metric),
            requests_sha256: &self.requests_sha256,
        }
    }
}

/// The head of the table.
pub(super) fn head() -> String {
    let titles = format!(
        "| {:<22} | {:>18} | {:<14} | {:>18} | {:>14} | {:<21} |\n",
        "", "pagewise", "peer", "peer's", "ratio ± spread", "goal"
    );
    let rule: String = titles.chars().map(|c| if matches!(c, '|' | '\n') { c } else { '-' }).collect();
    titles + rule.trim_end()
}

/// To four places.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::contender::running_at;

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let [pagewise, peer] = ["http://a", "http://b"].map(|url| running_at(url, "openai").expect("an address"));
        let comparison = |goal| Comparison {
            workload: Some("w1".into()),
            metric: Metric::DecodeRate,
            pagewise: &pagewise,
            peer: &peer,
            // The machine grew twice as slow in between: the ratios do not care.
            ours: vec![30.0, 36.0, 15.0],
            theirs: vec![20.0, 20.0, 10.0],
            goal: Some(goal),
            requests_sha256: vec!["ab".into()],
        };
        let met = comparison(Goal::AtLeast(1.5));
        assert_eq!(met.is_met(), Some(true));
        assert_eq!(comparison(Goal::AtMost(1.4)).is_met(), Some(false));
        assert!(comparison(Goal::AtMost(1.4)).line().contains("1.500 ± 0.000 | MISSED: at most 1.4"), "{}", met.line());
        let row = serde_json::to_value(met.row("cpu")).expect("a row can be written");
        assert_eq!(row["name"], "cpu/w1 decode against http://b");
        assert_eq!((&row["median"], &row["met"]), (&1.5.into(), &true.into()));
        assert_eq!(row["requests_sha256"], serde_json::json!(["ab"]));
        assert_eq!(row["pairs"], serde_json::json!([1.5, 1.8, 1.5]));
        assert_eq!((&row["pagewise"]["median"], &row["peer"]["median"]), (&30.0.into(), &20.0.into()));
    }

    #[test]
    fn medians_of_any_number() {
        let check = |values: &[f64], median, spread| assert_eq!(Summary::of(values), Summary { median, spread });
        check(&[3.0], 3.0, 0.0);
        check(&[4.0, 2.0], 3.0, 1.0);
        check(&[1.0, 9.0, 2.0], 2.0, 1.0);
        check(&[1.0, 2.0, 3.0, 10.0], 2.5, 1.0);
    }

    #[test]
    fn the_table_has_straight_columns() {
        let head = head();
        let widths: Vec<usize> = head.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths[0], widths[1]);
    }
}
