//! Whole decode steps: what the limits allow, and how long one took. Knows the flags of `pagewise bench latency` and what it
//! prints.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::bench::contender::Launch;
use crate::bench::ops::Step;
use crate::bench::roof::Roof;
use crate::bench::{pagewise, recorded};
use crate::process;

/// How `ops` names the shapes of the demo model.
pub(super) const DEMO_SHAPES: &str = "smollm2-135m";

/// Output tokens of a batch: the contexts of its steps lie so far apart, the one that is counted in their middle.
const OUTPUT_LEN: u32 = 129;

/// Batches that are measured.
const NUM_ITERS: &str = "3";

/// The time between two tokens of each request of a batch.
#[derive(Debug, PartialEq)]
pub(super) struct Latency {
    rows: u32,
    /// Tokens of a request's context in the middle of its output.
    context: u32,
    ms: f64,
}

impl Latency {
    /// What a file holds of the output of `pagewise bench latency`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let figures: Value = serde_json::from_str(text).context("this is not what `pagewise bench latency` prints")?;
        let figure = |pointer: &str| {
            figures.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("there is no {pointer}"))
        };
        let rows = figure("/last_batch/num_requests")?;
        ensure!(rows >= 1.0, "a batch of no requests");
        let tokens = |pointer: &str| Ok::<_, anyhow::Error>((figure(pointer)? / rows) as u32);
        let context = tokens("/last_batch/prompt_tokens")? + tokens("/last_batch/output_tokens")? / 2;
        Ok(Self { rows: rows as u32, context, ms: figure("/last_batch/itl_ms/p50")? })
    }
}

/// Runs the demo model for each of these steps.
pub(super) fn measure(steps: &[&Step]) -> Result<Vec<Latency>> {
    let (contender, model) = pagewise::demo()?;
    let Launch::Program { program, .. } = contender.launch else { unreachable!("Pagewise is a program") };
    let measure = |step: &&Step| {
        let input_len = step.context.checked_sub(OUTPUT_LEN / 2).context("a context is longer than half an output")?;
        let [rows, input_len, output_len] = [step.rows, input_len, OUTPUT_LEN].map(|number| number.to_string());
        let mut command = Command::new(&program);
        command.args(["bench", "latency", "--device", "cpu", "--num-iters", NUM_ITERS, "--model"]).arg(&model);
        command.args(["--batch-size", &rows, "--input-len", &input_len, "--output-len", &output_len]);
        Latency::parse(&process::read_output(command.stdin(Stdio::null()))?)
    };
    steps.iter().map(measure).collect()
}

/// A decode step beside its bound, as it is recorded.
#[derive(Serialize)]
pub(super) struct StepRow {
    name: String,
    /// Measured; absent if it was only counted.
    value: Option<f64>,
    unit: &'static str,
    step: Counted,
}

#[derive(Serialize)]
struct Counted {
    memory_bytes: u64,
    operations: u64,
    /// The least time of each op, one after the other.
    bound_ms: f64,
    share: Option<f64>,
}

impl StepRow {
    pub(super) fn of(step: &Step, roof: &Roof, latencies: &[Latency]) -> Result<Self> {
        let bounds = step.ops.iter().map(|op| {
            let bound = roof.bound(&op.cost);
            Ok(bound.with_context(|| format!("the limit of {} was not measured", op.cost.arithmetic))?.ns)
        });
        let bound_ms = bounds.sum::<Result<f64>>()? / 1e6;
        let measured = latencies.iter().find(|latency| (latency.rows, latency.context) == (step.rows, step.context));
        let ms = measured.map(|latency| latency.ms);
        let plural = if step.rows == 1 { "" } else { "s" };
        Ok(Self {
            name: format!("step/{}, {} row{plural} of {} tokens", step.model, step.rows, step.context),
            value: ms,
            unit: "ms",
            step: Counted {
                memory_bytes: step.ops.iter().map(|op| op.cost.memory_bytes).sum(),
                operations: step.ops.iter().map(|op| op.cost.operations).sum(),
                bound_ms: rounded(bound_ms),
                share: ms.map(|ms| rounded(bound_ms / ms)),
            },
        })
    }

    pub(super) fn is_measured(&self) -> bool {
        self.value.is_some()
    }

    /// A line of the table.
    pub(super) fn line(&self) -> String {
        let Counted { memory_bytes, operations, bound_ms, share } = &self.step;
        let figure = recorded::figure;
        let measured = match (self.value, share) {
            (Some(ms), Some(share)) => {
                format!("{} ms measured, {:.0} % of what the limits allow", figure(ms), 100.0 * share)
            }
            _ => "not measured".to_string(),
        };
        let (mb, gop) = (figure(*memory_bytes as f64 / 1e6), figure(*operations as f64 / 1e9));
        format!("{:<46} {mb:>9} MB {gop:>9} Gop   at least {} ms, {measured}", self.name, figure(*bound_ms))
    }
}

/// To four places.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ops::Counted as Op;
    use crate::bench::roof::Cost;

    const PRINTED: &str = r#"{"batch_ms": {"p50": 900.0}, "last_batch": {"num_requests": 8, "prompt_tokens": 1024,
        "output_tokens": 1032, "itl_ms": {"p50": 4.0, "max": 9.0}}}"#;

    #[test]
    fn a_latency_says_of_which_step_it_is() {
        assert_eq!(Latency::parse(PRINTED).expect("it is whole"), Latency { rows: 8, context: 192, ms: 4.0 });
        let error = Latency::parse("{}").expect_err("there is nothing in it").to_string();
        assert!(error.contains("/last_batch/num_requests"), "{error}");
    }

    #[test]
    fn the_bound_of_a_step_is_the_sum_of_its_ops() {
        let roof = Roof::of([("memory".into(), 1e9), ("int8_dot".into(), 10e9)]);
        let cost =
            |memory_bytes, operations| Cost { memory_bytes, cache_bytes: 0, operations, arithmetic: "int8_dot".into() };
        let op = |memory_bytes, operations| Op { cost: cost(memory_bytes, operations) };
        // 1 ms of bytes, 1 ms of operations.
        let ops = vec![op(1_000_000, 0), op(1, 10_000_000)];
        let step = Step { model: "m".into(), rows: 8, context: 192, ops };
        let latency = Latency::parse(PRINTED).expect("it is whole");
        let row = StepRow::of(&step, &roof, &[latency]).expect("both limits are there");
        assert_eq!((row.step.bound_ms, row.step.share), (2.0, Some(0.5)));
        assert!(row.line().contains("at least 2.00 ms, 4.00 ms measured, 50 % of"), "{}", row.line());
        let unmeasured = StepRow::of(&Step { context: 191, ..step }, &roof, &[]).expect("both limits are there");
        assert!(!unmeasured.is_measured() && unmeasured.line().ends_with("not measured"));
    }
}
