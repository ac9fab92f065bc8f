//! The lines that the program prints. Knows their names, not how figures came to be.

use model_format::TensorFormat;
use serde::Serialize;
use tensor_backend::Element;

use crate::case::{Case, Op};
use crate::device::{Kind, Limit, Measured};
use crate::model::Model;
use crate::step::decode_step;
use crate::timing::Times;

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// What everything was measured on.
    Device {
        kind: Kind,
        description: String,
    },
    Limit(Measured),
    Step(StepLine),
    Op(OpLine),
}

/// An op at one size, measured.
#[derive(Serialize)]
pub(crate) struct OpLine {
    name: String,
    model: &'static str,
    op: &'static str,
    format: &'static str,
    shape: String,
    rows: usize,
    median_ns: f64,
    spread_ns: f64,
    samples: usize,
    memory_bytes: u64,
    cache_bytes: u64,
    operations: u64,
    /// Of its operations.
    arithmetic: Limit,
}

impl OpLine {
    pub(crate) fn of(model: &Model, case: &Case, kind: Kind, times: Times) -> Self {
        let elements = kind.elements();
        let cost = case.cost(model, elements);
        Self {
            name: case.name(model, elements),
            model: model.name,
            op: case.op_name(),
            format: case.format_name(model, elements),
            shape: case.shape(model),
            rows: case.rows,
            median_ns: times.median_ns,
            spread_ns: times.spread_ns,
            samples: times.num_samples,
            memory_bytes: cost.memory_bytes,
            cache_bytes: cost.cache_bytes,
            operations: cost.operations,
            arithmetic: arithmetic(case, kind),
        }
    }
}

/// A decode step, counted.
#[derive(Serialize)]
pub(crate) struct StepLine {
    model: &'static str,
    rows: usize,
    /// Tokens of each row.
    context: usize,
    ops: Vec<StepOp>,
}

/// An op of a step, and what all its calls cost together.
#[derive(Serialize)]
struct StepOp {
    op: &'static str,
    times: usize,
    memory_bytes: u64,
    cache_bytes: u64,
    operations: u64,
    arithmetic: Limit,
}

impl StepLine {
    pub(crate) fn of(model: &Model, kind: Kind, rows: usize, context: usize) -> Self {
        let parts = decode_step(model, kind.elements(), rows, context);
        let ops = parts.iter().map(|part| StepOp {
            op: part.case.op_name(),
            times: part.times,
            memory_bytes: part.cost.memory_bytes,
            cache_bytes: part.cost.cache_bytes,
            operations: part.cost.operations,
            arithmetic: arithmetic(&part.case, kind),
        });
        Self { model: model.name, rows, context, ops: ops.collect() }
    }
}

fn arithmetic(case: &Case, kind: Kind) -> Limit {
    kind.arithmetic(match case.op {
        Op::Product(product) => product.format,
        Op::DecodeAttention { .. } | Op::PrefillAttention { .. } => format_of(kind.elements().kv),
        _ => TensorFormat::F32,
    })
}

fn format_of(element: Element) -> TensorFormat {
    match element {
        Element::F32 => TensorFormat::F32,
        Element::F16 => TensorFormat::F16,
        Element::BF16 => TensorFormat::BF16,
    }
}
