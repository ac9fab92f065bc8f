//! What a run measured, in figures. Pure arithmetic on answers; knows no server.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::answer::{Answer, Outcome};
use super::histogram::Percentiles;

/// What a client is content with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slo {
    /// Longest time to the first token, in milliseconds.
    pub ttft_ms: f64,
    /// Longest mean time of an output token after the first, in milliseconds.
    pub tpot_ms: f64,
}

/// The figures of a run. Latencies are counted from when a request was to be sent.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// From the start to the end of the last answer.
    pub seconds: f64,
    /// How the requests ended.
    pub requests: Requests,
    /// Failures of each kind, and what was said of the first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, Errors>,
    /// Tokens of prompts, as the server counts them.
    pub prompt_tokens: u64,
    /// Of these, tokens that it had in a cache.
    pub cached_tokens: u64,
    /// Tokens that came, those of unfinished answers too.
    pub output_tokens: u64,
    /// Answers that came whole.
    pub requests_per_second: f64,
    /// Output tokens of the whole run.
    pub output_tokens_per_second: f64,
    /// With the prompts' tokens.
    pub total_tokens_per_second: f64,
    /// How many output tokens a message brought in the mean.
    pub tokens_per_message: f64,
    /// To the first token.
    pub ttft_ms: Option<Percentiles>,
    /// Between messages of an answer, of all answers.
    pub itl_ms: Option<Percentiles>,
    /// Each answer's mean time of an output token after the first.
    pub tpot_ms: Option<Percentiles>,
    /// To the end of whole answers.
    pub e2e_ms: Option<Percentiles>,
    /// How late requests were sent: the load generator's own fault, and part of the latencies.
    pub late_ms: Option<Percentiles>,
    /// What an SLO leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goodput: Option<Goodput>,
    /// The same for each tenant, where there are several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, TenantFigures>,
}

/// Requests by their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// All.
    pub sent: usize,
    /// Answered whole.
    pub complete: usize,
    /// Hung up, as the workload wanted.
    pub hung_up: usize,
    /// Not answered whole in time.
    pub deadline_missed: usize,
    /// Anything else.
    pub failed: usize,
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// How many.
    pub num: usize,
    /// What was said of the first.
    pub first: String,
}

/// Requests that were answered within an SLO.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goodput {
    /// The SLO.
    pub slo: Slo,
    /// Such requests a second.
    pub requests_per_second: f64,
    /// Of all requests that were to be answered whole.
    pub share: f64,
}

/// One tenant's figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantFigures {
    /// How its requests ended.
    pub requests: Requests,
    /// To the first token.
    pub ttft_ms: Option<Percentiles>,
    /// Each answer's mean time of an output token after the first.
    pub tpot_ms: Option<Percentiles>,
}

impl Requests {
    fn of<'a>(answers: impl Iterator<Item = &'a Answer>) -> Self {
        let mut requests = Self::default();
        for answer in answers {
            requests.sent += 1;
            match answer.outcome {
                Outcome::Complete => requests.complete += 1,
                Outcome::HungUp => requests.hung_up += 1,
                Outcome::DeadlineMissed => requests.deadline_missed += 1,
                Outcome::Failed(_) => requests.failed += 1,
            }
        }
        requests
    }
}

impl Figures {
    /// Of these answers, whose tenants have these names.
    #[must_use]
    pub fn of(answers: &[Answer], tenants: &[String], slo: Option<Slo>) -> Self {
        let seconds = answers.iter().map(|answer| answer.ended_at).max().unwrap_or_default().as_secs_f64();
        let a_second = |num: f64| if seconds > 0.0 { num / seconds } else { 0.0 };
        let requests = Requests::of(answers.iter());
        let total = |of: fn(&Answer) -> u64| answers.iter().map(of).sum::<u64>();
        let prompt_tokens = total(|answer| answer.received.prompt_tokens.into());
        let output_tokens = total(|answer| answer.received.num_tokens.into());
        let num_messages = total(|answer| answer.received.at.len() as u64);
        let complete = || answers.iter().filter(|answer| answer.outcome == Outcome::Complete);
        Self {
            seconds,
            requests,
            errors: errors(answers),
            prompt_tokens,
            cached_tokens: total(|answer| answer.received.cached_tokens.into()),
            output_tokens,
            requests_per_second: a_second(requests.complete as f64),
            output_tokens_per_second: a_second(output_tokens as f64),
            total_tokens_per_second: a_second((prompt_tokens + output_tokens) as f64),
            tokens_per_message: if num_messages > 0 { output_tokens as f64 / num_messages as f64 } else { 0.0 },
            ttft_ms: Percentiles::of(answers.iter().filter_map(Answer::ttft)),
            itl_ms: Percentiles::of(answers.iter().flat_map(Answer::gaps)),
            tpot_ms: Percentiles::of(answers.iter().filter_map(Answer::time_per_output_token)),
            e2e_ms: Percentiles::of(complete().map(Answer::end_to_end)),
            late_ms: Percentiles::of(answers.iter().map(Answer::lateness)),
            goodput: slo.map(|slo| goodput(answers, slo, seconds)),
            tenants: if tenants.len() > 1 { of_tenants(answers, tenants) } else { BTreeMap::new() },
        }
    }
}

fn errors(answers: &[Answer]) -> BTreeMap<String, Errors> {
    let mut errors = BTreeMap::<String, Errors>::new();
    for answer in answers {
        let Outcome::Failed(failure) = &answer.outcome else { continue };
        let first = || Errors { num: 0, first: failure.detail.clone() };
        errors.entry(failure.kind.clone()).or_insert_with(first).num += 1;
    }
    errors
}

/// Whether an answer came whole and in the time that the SLO gives.
fn is_good(answer: &Answer, slo: Slo) -> bool {
    let within = |duration: Option<Duration>, ms| duration.is_none_or(|duration| duration.as_secs_f64() * 1e3 <= ms);
    answer.outcome == Outcome::Complete
        && within(answer.ttft(), slo.ttft_ms)
        && within(answer.time_per_output_token(), slo.tpot_ms)
}

fn goodput(answers: &[Answer], slo: Slo, seconds: f64) -> Goodput {
    let num_good = answers.iter().filter(|answer| is_good(answer, slo)).count() as f64;
    // Whoever hangs up is neither content nor the server's fault.
    let num_wanted = answers.iter().filter(|answer| answer.outcome != Outcome::HungUp).count() as f64;
    Goodput {
        slo,
        requests_per_second: if seconds > 0.0 { num_good / seconds } else { 0.0 },
        share: if num_wanted > 0.0 { num_good / num_wanted } else { 0.0 },
    }
}

fn of_tenants(answers: &[Answer], tenants: &[String]) -> BTreeMap<String, TenantFigures> {
    let figures_of = |index: usize| {
        let own = || answers.iter().filter(move |answer| answer.tenant == index);
        TenantFigures {
            requests: Requests::of(own()),
            ttft_ms: Percentiles::of(own().filter_map(Answer::ttft)),
            tpot_ms: Percentiles::of(own().filter_map(Answer::time_per_output_token)),
        }
    };
    tenants.iter().enumerate().map(|(index, name)| (name.clone(), figures_of(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::answer::{Failure, Received};

    /// An answer to a request that was to be sent at a time, with messages of one token at others.
    fn answer(tenant: usize, outcome: Outcome, intended_ms: u64, at_ms: &[u64]) -> Answer {
        let ms = Duration::from_millis;
        let received = Received {
            at: at_ms.iter().copied().map(ms).collect(),
            num_tokens: at_ms.len() as u32,
            prompt_tokens: 10,
            cached_tokens: 4,
        };
        let ended_at = ms(*at_ms.last().unwrap_or(&intended_ms));
        Answer { tenant, intended_at: ms(intended_ms), sent_at: ms(intended_ms + 1), ended_at, outcome, received }
    }

    fn answers() -> Vec<Answer> {
        let failed = |detail| Outcome::Failed(Failure::new("HTTP 503", detail));
        vec![
            answer(0, Outcome::Complete, 0, &[100, 110, 120, 130]),
            answer(1, Outcome::Complete, 0, &[500, 510]),
            answer(0, Outcome::Complete, 1000, &[1050, 1500, 2000]),
            answer(0, Outcome::HungUp, 1000, &[1100]),
            answer(1, Outcome::DeadlineMissed, 1000, &[]),
            answer(1, failed("first"), 1000, &[]),
            answer(1, failed("second"), 1000, &[]),
        ]
    }

    #[test]
    fn figures_count_and_divide() {
        let figures = Figures::of(&answers(), &["a".into(), "b".into()], None);
        let requests = Requests { sent: 7, complete: 3, hung_up: 1, deadline_missed: 1, failed: 2 };
        assert_eq!((figures.seconds, figures.requests), (2.0, requests));
        assert_eq!(figures.errors["HTTP 503"], Errors { num: 2, first: "first".into() });
        assert_eq!((figures.prompt_tokens, figures.cached_tokens, figures.output_tokens), (70, 28, 10));
        assert_eq!((figures.requests_per_second, figures.output_tokens_per_second), (1.5, 5.0));
        assert_eq!((figures.total_tokens_per_second, figures.tokens_per_message), (40.0, 1.0));
        let max = |percentiles: &Option<Percentiles>| percentiles.as_ref().expect("there are some").max.round();
        assert_eq!([max(&figures.ttft_ms), max(&figures.itl_ms), max(&figures.tpot_ms)], [500.0, 500.0, 475.0]);
        assert_eq!([max(&figures.e2e_ms), max(&figures.late_ms)], [1000.0, 1.0]);
        assert_eq!(figures.tenants["b"].requests.failed, 2);
        assert_eq!(max(&figures.tenants["a"].ttft_ms), 100.0);
    }

    #[test]
    fn goodput_is_what_an_slo_leaves() {
        let check = |ttft_ms, tpot_ms, expected_a_second: f64, expected_share: f64| {
            let slo = Slo { ttft_ms, tpot_ms };
            let goodput = Figures::of(&answers(), &[String::new()], Some(slo)).goodput.expect("an SLO was given");
            assert_eq!((goodput.requests_per_second, goodput.share), (expected_a_second, expected_share), "{slo:?}");
        };
        check(1000.0, 1000.0, 1.5, 0.5);
        check(499.0, 1000.0, 1.0, 2.0 / 6.0);
        check(100.0, 10.0, 0.5, 1.0 / 6.0);
        check(99.0, 10.0, 0.0, 0.0);
    }

    #[test]
    fn nothing_gives_nothing() {
        let figures = Figures::of(&[], &[String::new()], Some(Slo { ttft_ms: 1.0, tpot_ms: 1.0 }));
        assert_eq!((figures.seconds, figures.output_tokens_per_second, figures.tokens_per_message), (0.0, 0.0, 0.0));
        assert!(figures.ttft_ms.is_none());
        assert_eq!(figures.goodput.expect("an SLO was given").share, 0.0);
    }
}
