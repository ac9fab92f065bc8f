//! What is measured, as data: ops of a model at some size, each with its name and its cost. Knows no backend.

use model_format::TensorFormat;
use tensor_backend::Element;

use crate::cost::{self, AttentionRow, Cost, Elements, Multiplied};
use crate::model::{End, Model, Product};

/// Rows of a large decode step.
const DECODES: usize = 64;

/// Rows of the products of decode steps.
const DECODE_ROWS: [usize; 3] = [1, 8, DECODES];

/// Tokens that a row holds before its keys and values are appended.
pub(crate) const APPENDED_AT: usize = 512;

/// An op at one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) op: Op,
    /// Rows of activations.
    pub(crate) rows: usize,
}

/// Which op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Embed,
    Norm,
    AddedNorm,
    Product(Product),
    /// Of a decode step, or of one row's prompt if there are more rows than that.
    RopeAppend,
    /// Each row with a context of so many tokens.
    DecodeAttention {
        context: usize,
    },
    /// Prompts of as many new tokens each, after others.
    PrefillAttention {
        before: usize,
        new: usize,
    },
    Gather,
    Sample(Choice),
}

/// How tokens are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Choice {
    Greedy,
    /// With temperature, top-k and top-p.
    Drawn,
}

/// All cases of a model, for a device that multiplies these formats. Those of one weight follow each other.
pub(crate) fn cases(model: &Model, formats: &[TensorFormat]) -> Vec<Case> {
    let all_rows = DECODE_ROWS.into_iter().chain([model.many_rows]);
    let mut cases = Vec::new();
    let mut of_rows = |op: Op, rows: &mut dyn Iterator<Item = usize>| cases.extend(rows.map(|rows| Case { op, rows }));
    of_rows(Op::Embed, &mut [DECODES, model.many_rows].into_iter());
    for op in [Op::Norm, Op::AddedNorm, Op::RopeAppend] {
        of_rows(op, &mut [1, DECODES, model.many_rows].into_iter());
    }
    for product in model.layer_products() {
        of_rows(Op::Product(product), &mut all_rows.clone());
    }
    for format in formats.iter().filter(|format| **format != model.layer_format) {
        of_rows(Op::Product(model.down(*format)), &mut all_rows.clone());
    }
    of_rows(Op::Product(model.head()), &mut DECODE_ROWS.into_iter());
    for &(rows, context) in model.decode_attention {
        of_rows(Op::DecodeAttention { context }, &mut [rows].into_iter());
    }
    for &(rows, before, new) in model.prefill_attention {
        of_rows(Op::PrefillAttention { before, new }, &mut [rows * new].into_iter());
    }
    of_rows(Op::Gather, &mut [DECODES].into_iter());
    for choice in [Choice::Greedy, Choice::Drawn] {
        of_rows(Op::Sample(choice), &mut [1, DECODES].into_iter());
    }
    cases
}

impl Case {
    /// The op, without its size.
    pub(crate) fn op_name(&self) -> &'static str {
        match self.op {
            Op::Embed => "embed",
            Op::Norm => "norm",
            Op::AddedNorm => "added norm",
            Op::Product(product) => product.name,
            Op::RopeAppend => "rope and append",
            Op::DecodeAttention { .. } => "decode attention",
            Op::PrefillAttention { .. } => "prefill attention",
            Op::Gather => "gather",
            Op::Sample(Choice::Greedy) => "greedy sampling",
            Op::Sample(Choice::Drawn) => "drawn sampling",
        }
    }

    /// Under which it is recorded: the same forever, or its history breaks.
    pub(crate) fn name(&self, model: &Model, elements: Elements) -> String {
        let size = match self.op {
            Op::DecodeAttention { context } => format!("{} x {context} tokens", self.rows),
            Op::PrefillAttention { before: 0, new } => format!("{} x {new} tokens", self.rows / new),
            Op::PrefillAttention { before, new } => format!("{} x {new} tokens after {before}", self.rows / new),
            _ if self.rows == 1 => "1 row".to_owned(),
            _ => format!("{} rows", self.rows),
        };
        format!("ops/{}/{}, {}, {size}", model.name, self.op_name(), self.format_name(model, elements))
    }

    /// How what it reads most of is stored.
    pub(crate) fn format_name(&self, model: &Model, elements: Elements) -> &'static str {
        match self.op {
            Op::Embed => model.head_format.name(),
            Op::Product(product) => product.format.name(),
            Op::DecodeAttention { .. } | Op::PrefillAttention { .. } => element_name(elements.kv),
            Op::Norm | Op::AddedNorm | Op::RopeAppend | Op::Gather => element_name(elements.activation),
            Op::Sample(_) => element_name(Element::F32),
        }
    }

    /// Rows, inputs and outputs, or heads.
    pub(crate) fn shape(&self, model: &Model) -> String {
        let (rows, heads) = (self.rows, model.heads);
        match self.op {
            Op::Embed | Op::Norm | Op::AddedNorm | Op::Gather => format!("{rows} x {}", model.hidden),
            Op::Product(Product { end: End::Gated, k, n, .. }) => format!("{rows} x {k} -> 2 x {}", n / 2),
            Op::Product(Product { k, n, .. }) => format!("{rows} x {k} -> {n}"),
            Op::RopeAppend | Op::DecodeAttention { .. } | Op::PrefillAttention { .. } => {
                format!("{rows} x {}/{} heads of {}", heads.num_heads, heads.num_kv_heads, heads.head_dim)
            }
            Op::Sample(_) => format!("{rows} x {}", model.vocab),
        }
    }

    /// What it must move and compute.
    pub(crate) fn cost(&self, model: &Model, elements: Elements) -> Cost {
        let (rows, element) = (self.rows, elements.activation);
        match self.op {
            Op::Embed => cost::embed(rows, model.hidden, model.head_format, element),
            Op::Norm => cost::norm(rows, model.hidden, element),
            Op::AddedNorm => cost::added_norm(rows, model.hidden, element),
            Op::Product(Product { end, k, n, format, .. }) => {
                let multiplied = Multiplied { rows, k, n, format };
                match end {
                    End::Plain => cost::product(multiplied, element, element),
                    End::Logits => cost::product(multiplied, element, Element::F32),
                    End::Added => cost::added_product(multiplied, element),
                    End::Gated => cost::gated_product(multiplied, element),
                }
            }
            Op::RopeAppend => cost::rope_append(rows, model.heads, elements),
            Op::DecodeAttention { .. } | Op::PrefillAttention { .. } => {
                cost::attention(&self.attention_rows(), model.heads, elements)
            }
            Op::Gather => cost::gather(rows, model.hidden, element),
            Op::Sample(_) => cost::sample(rows, model.vocab),
        }
    }

    /// The rows of a step in which the op reads or writes keys and values.
    pub(crate) fn attention_rows(&self) -> Vec<AttentionRow> {
        match self.op {
            Op::DecodeAttention { context } => vec![AttentionRow { before: context - 1, new: 1 }; self.rows],
            Op::PrefillAttention { before, new } => vec![AttentionRow { before, new }; self.rows / new],
            Op::RopeAppend if self.rows > DECODES => vec![AttentionRow { before: APPENDED_AT, new: self.rows }],
            _ => vec![AttentionRow { before: APPENDED_AT, new: 1 }; self.rows],
        }
    }
}

fn element_name(element: Element) -> &'static str {
    match element {
        Element::F32 => "F32",
        Element::F16 => "F16",
        Element::BF16 => "BF16",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::MODELS;

    const ON_CPU: Elements = Elements { activation: Element::F32, kv: Element::BF16 };

    #[test]
    fn every_case_has_a_name_of_its_own_and_a_cost() {
        for model in &MODELS {
            let cases = cases(model, &TensorFormat::ALL);
            let names: BTreeSet<String> = cases.iter().map(|case| case.name(model, ON_CPU)).collect();
            assert_eq!(names.len(), cases.len(), "{names:#?}");
            assert!(cases.iter().all(|case| case.cost(model, ON_CPU).cache_bytes > 0));
        }
    }

    #[test]
    fn names_say_op_format_and_size() {
        let model = &MODELS[0];
        let names: Vec<String> = cases(model, &TensorFormat::ALL).iter().map(|case| case.name(model, ON_CPU)).collect();
        for expected in [
            "ops/smollm2-135m/norm, F32, 1 row",
            "ops/smollm2-135m/gate and up, Q4_1, 512 rows",
            "ops/smollm2-135m/down, Q6_K, 8 rows",
            "ops/smollm2-135m/head, Q8_0, 64 rows",
            "ops/smollm2-135m/decode attention, BF16, 8 x 512 tokens",
            "ops/smollm2-135m/prefill attention, BF16, 1 x 512 tokens after 3584",
            "ops/smollm2-135m/greedy sampling, F32, 64 rows",
        ] {
            assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:#?}");
        }
    }

    #[test]
    fn each_format_is_multiplied_at_each_number_of_rows() {
        for model in &MODELS {
            for format in TensorFormat::ALL {
                let rows: Vec<usize> = cases(model, &TensorFormat::ALL)
                    .iter()
                    .filter(|case| case.op == Op::Product(model.down(format)))
                    .map(|case| case.rows)
                    .collect();
                assert_eq!(rows, [1, 8, 64, model.many_rows], "{format}");
            }
        }
    }
}
