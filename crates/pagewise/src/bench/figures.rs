//! From the times of tokens to the figures of a run. Plain arithmetic.

use std::time::Duration;

use serde_json::{Value, json};

use super::Run;
use crate::report;

/// The figures of one run.
pub(crate) struct Figures {
    seconds: f64,
    num_requests: usize,
    prompt_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    preemptions: u64,
    /// From the start of the run, when all requests are submitted, to each one's first token.
    ttft: Vec<Duration>,
    /// Between two tokens of a request.
    itl: Vec<Duration>,
    steps: u64,
    step_time: Duration,
    executor_time: Duration,
}

impl Figures {
    pub(crate) fn new(run: &Run) -> Self {
        let sum =
            |of: fn(&serving_types::Usage) -> u32| run.answers.iter().map(|answer| u64::from(of(&answer.usage))).sum();
        let (before, after) = (&run.before, &run.after);
        Self {
            seconds: run.elapsed.as_secs_f64(),
            num_requests: run.answers.len(),
            prompt_tokens: sum(|usage| usage.prompt_tokens),
            cached_tokens: sum(|usage| usage.cached_tokens),
            output_tokens: sum(|usage| usage.output_tokens),
            preemptions: sum(|usage| usage.preemptions),
            ttft: run.answers.iter().filter_map(|answer| answer.at.first().copied()).collect(),
            itl: run.answers.iter().flat_map(|answer| answer.at.windows(2).map(|pair| pair[1] - pair[0])).collect(),
            steps: after.steps - before.steps,
            step_time: after.step_time.saturating_sub(before.step_time),
            executor_time: after.executor_time.saturating_sub(before.executor_time),
        }
    }

    /// Times in the unit that each name ends with; means over the run where no percentile is named.
    pub(crate) fn into_json(mut self) -> Value {
        let per_second = |count: f64| if self.seconds > 0.0 { count / self.seconds } else { 0.0 };
        let per_step = |time: Duration| if self.steps > 0 { time.as_secs_f64() / self.steps as f64 } else { 0.0 };
        let host_time = self.step_time.saturating_sub(self.executor_time);
        json!({
            "seconds": self.seconds,
            "num_requests": self.num_requests,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "preemptions": self.preemptions,
            "requests_per_second": per_second(self.num_requests as f64),
            "output_tokens_per_second": per_second(self.output_tokens as f64),
            "total_tokens_per_second": per_second((self.prompt_tokens + self.output_tokens) as f64),
            "steps": self.steps,
            "step_time_ms": per_step(self.step_time) * 1e3,
            "host_time_per_step_us": per_step(host_time) * 1e6,
            "ttft_ms": report::percentiles_ms(&mut self.ttft),
            "itl_ms": report::percentiles_ms(&mut self.itl),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Answered;
    use super::*;
    use engine::EngineStats;
    use serving_types::Usage;

    #[test]
    fn a_run() {
        let ms = Duration::from_millis;
        let usage = Usage { prompt_tokens: 10, cached_tokens: 4, output_tokens: 3, preemptions: 1 };
        let answer = |at: [u64; 3]| Answered { tokens: vec![1, 2, 3], at: at.map(ms).to_vec(), usage };
        let before = EngineStats { steps: 5, step_time: ms(50), executor_time: ms(50), ..EngineStats::default() };
        let after = EngineStats { steps: 9, step_time: ms(90), executor_time: ms(88), ..EngineStats::default() };
        let answers = vec![answer([100, 110, 130]), answer([300, 310, 320])];
        let json = Figures::new(&Run { elapsed: ms(500), answers, before, after }).into_json();
        for (name, expected) in [
            ("/num_requests", 2.0),
            ("/prompt_tokens", 20.0),
            ("/cached_tokens", 8.0),
            ("/preemptions", 2.0),
            ("/requests_per_second", 4.0),
            ("/output_tokens_per_second", 12.0),
            ("/total_tokens_per_second", 52.0),
            ("/steps", 4.0),
            ("/step_time_ms", 10.0),
            ("/host_time_per_step_us", 500.0),
            ("/ttft_ms/mean", 200.0),
            ("/itl_ms/p50", 10.0),
            ("/itl_ms/max", 20.0),
        ] {
            let found = json.pointer(name).and_then(Value::as_f64).expect("a number");
            assert!((found - expected).abs() < 1e-9, "{name} = {found}, expected {expected}");
        }
    }
}
