//! What a model foretells of known tokens, beside a reference: perplexity, and where other tokens are the most likely. Pure
//! arithmetic.

use serde::{Deserialize, Serialize};

/// How near to a reference something must be.
#[derive(Clone, Copy)]
pub(super) struct Goal {
    /// By how much a perplexity may be off the reference's.
    pub(super) max_percent: f64,
    /// Where the reference's most likely token is ahead of the second by more than this natural-log probability, it must be
    /// the most likely one here too.
    pub(super) sure_gap: Option<f64>,
}

/// What a model foretold: `pagewise bench quality` prints it, and the reference's is in the fixtures.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Foretold {
    /// Of a text.
    pub(super) perplexity: f64,
    /// Of answers that were fed in, at each token of theirs.
    pub(super) answers: Vec<Answer>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) most_likely: Vec<u32>,
    /// By how much the most likely token is ahead of the second, in natural-log probability.
    pub(super) gaps: Vec<f64>,
}

/// A way to compute, with what it foretold and what it should have.
pub(super) struct Outcome {
    /// Of the weights, such as "Q4_0".
    pub(super) weights: String,
    pub(super) kv: String,
    pub(super) rows: &'static str,
    /// Who foretold the reference.
    pub(super) reference: &'static str,
    pub(super) found: Foretold,
    pub(super) expected: Foretold,
    pub(super) goal: Option<Goal>,
}

/// A recorded figure.
#[derive(Serialize)]
pub(super) struct Row {
    name: String,
    value: f64,
    unit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    /// In full, where the value is a difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    largest_gap_of_another_token: Option<f64>,
}

/// How many of the reference's most likely tokens are the most likely ones here.
struct Agreement {
    num_same: usize,
    num_all: usize,
    /// The reference's largest gap where they are not.
    largest_gap: Option<f64>,
}

impl Outcome {
    fn percent_off(&self) -> f64 {
        100.0 * (self.found.perplexity / self.expected.perplexity - 1.0)
    }

    /// # Panics
    /// If not the same answers were fed in.
    fn agreement(&self) -> Agreement {
        assert_eq!(self.found.answers.len(), self.expected.answers.len(), "the same answers");
        let (mut num_same, mut num_all, mut largest_gap) = (0, 0, None);
        for (found, expected) in self.found.answers.iter().zip(&self.expected.answers) {
            assert_eq!(found.most_likely.len(), expected.most_likely.len(), "answers of the same length");
            for ((found, expected), gap) in found.most_likely.iter().zip(&expected.most_likely).zip(&expected.gaps) {
                num_all += 1;
                if found == expected {
                    num_same += 1;
                } else {
                    largest_gap = Some(largest_gap.unwrap_or(0.0_f64).max(*gap));
                }
            }
        }
        Agreement { num_same, num_all, largest_gap }
    }

    fn perplexity_is_met(&self) -> Option<bool> {
        Some(self.percent_off().abs() <= self.goal?.max_percent)
    }

    fn agreement_is_met(&self) -> Option<bool> {
        let sure_gap = self.goal?.sure_gap?;
        Some(self.agreement().largest_gap.is_none_or(|gap| gap <= sure_gap))
    }

    pub(super) fn is_missed(&self) -> bool {
        [self.perplexity_is_met(), self.agreement_is_met()].contains(&Some(false))
    }

    /// A line of the table.
    pub(super) fn line(&self) -> String {
        let Agreement { num_same, num_all, largest_gap } = self.agreement();
        format!(
            "| {:<18} | {:<8} | {:<7} | {:>10.4} | {:>10.4} | {:>+7.3} % | {num_same:>4} of {num_all:<4} | {:>7} | {:<6} |",
            self.weights,
            self.kv,
            self.rows,
            self.found.perplexity,
            self.expected.perplexity,
            self.percent_off(),
            largest_gap.map_or_else(|| "-".to_string(), |gap| format!("{gap:.3}")),
            match self.goal {
                Some(_) if self.is_missed() => "MISSED",
                Some(_) => "met",
                None => "",
            },
        )
    }

    /// The rows for the record: perplexity, and agreement.
    pub(super) fn rows(&self) -> [Row; 2] {
        let Self { weights, kv, rows, reference, .. } = self;
        let name = |what: &str| format!("quality/{what}, {weights} weights, {kv} KV, {rows} rows");
        let Agreement { num_same, num_all, largest_gap } = self.agreement();
        let perplexity = Row {
            name: name("perplexity"),
            value: rounded(self.percent_off()),
            unit: format!("% above {reference}"),
            goal: self.goal.map(|goal| format!("within {} %", goal.max_percent)),
            met: self.perplexity_is_met(),
            perplexity: Some(rounded(self.found.perplexity)),
            largest_gap_of_another_token: None,
        };
        let agreement = Row {
            name: name("most likely tokens"),
            value: rounded(100.0 * num_same as f64 / num_all as f64),
            unit: format!("% as {reference}"),
            goal: self.goal.and_then(|goal| goal.sure_gap).map(|gap| format!("all where its gap is above {gap}")),
            met: self.agreement_is_met(),
            perplexity: None,
            largest_gap_of_another_token: largest_gap.map(rounded),
        };
        [perplexity, agreement]
    }
}

/// The head of the table.
pub(super) fn head() -> String {
    let titles = format!(
        "| {:<18} | {:<8} | {:<7} | {:>10} | {:>10} | {:>9} | {:<12} | {:>7} | {:<6} |\n",
        "weights", "KV", "rows", "perplexity", "reference", "off by", "same token", "at most", "goal"
    );
    let rule: String = titles.chars().map(|c| if matches!(c, '|' | '\n') { c } else { '-' }).collect();
    titles + rule.trim_end()
}

/// To five places.
fn rounded(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foretold(perplexity: f64, most_likely: &[u32], gaps: &[f64]) -> Foretold {
        let answer = Answer { most_likely: most_likely.to_vec(), gaps: gaps.to_vec() };
        Foretold { perplexity, answers: vec![answer] }
    }

    fn outcome(perplexity: f64, most_likely: &[u32]) -> Outcome {
        Outcome {
            weights: "Q4_0".into(),
            kv: "int8".into(),
            rows: "decode",
            reference: "float32",
            found: foretold(perplexity, most_likely, &[0.0; 4]),
            expected: foretold(20.0, &[1, 2, 3, 4], &[0.1, 0.5, 0.15, 3.0]),
            goal: Some(Goal { max_percent: 1.0, sure_gap: Some(0.2) }),
        }
    }

    #[test]
    fn a_perplexity_may_be_off_by_a_percent() {
        for (perplexity, met) in [(20.19, true), (19.81, true), (20.21, false), (19.79, false), (f64::NAN, false)] {
            assert_eq!(outcome(perplexity, &[1, 2, 3, 4]).is_missed(), !met, "{perplexity}");
        }
    }

    #[test]
    fn other_tokens_may_be_likely_where_the_reference_is_unsure() {
        for (most_likely, largest_gap, met) in [
            ([1, 2, 3, 4], None, true),
            ([9, 2, 3, 4], Some(0.1), true),
            ([9, 2, 9, 4], Some(0.15), true),
            ([9, 9, 3, 4], Some(0.5), false),
        ] {
            let outcome = outcome(20.0, &most_likely);
            assert_eq!((outcome.agreement().largest_gap, outcome.is_missed()), (largest_gap, !met), "{most_likely:?}");
        }
        let without_goal = Outcome { goal: None, ..outcome(30.0, &[9; 4]) };
        assert!(!without_goal.is_missed() && !serde_json::to_string(&without_goal.rows()).unwrap().contains("goal"));
    }

    #[test]
    fn rows_say_what_was_compared() {
        let [perplexity, agreement] =
            outcome(20.1, &[9, 2, 3, 4]).rows().map(|row| serde_json::to_string(&row).unwrap());
        assert_eq!(
            perplexity,
            r#"{"name":"quality/perplexity, Q4_0 weights, int8 KV, decode rows","value":0.5,"unit":"% above float32","goal":"within 1 %","met":true,"perplexity":20.1}"#
        );
        assert_eq!(
            agreement,
            r#"{"name":"quality/most likely tokens, Q4_0 weights, int8 KV, decode rows","value":75.0,"unit":"% as float32","goal":"all where its gap is above 0.2","met":true,"largest_gap_of_another_token":0.1}"#
        );
    }
}
