//! A whole decode step, counted: the ops that it is made of, and how often each comes. Knows no clock.

use crate::case::{Case, Choice, Op};
use crate::cost::{Cost, Elements};
use crate::model::Model;

/// One op of a step.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) case: Case,
    pub(crate) times: usize,
    /// Of all times together.
    pub(crate) cost: Cost,
}

/// The ops of a decode step of so many rows, each with a context of so many tokens, in their order.
pub(crate) fn decode_step(model: &Model, elements: Elements, rows: usize, context: usize) -> Vec<Part> {
    let layers = model.num_layers;
    let [qkv, output, gate_up, down] = model.layer_products().map(Op::Product);
    let ops = [
        (Op::Embed, 1),
        (Op::Norm, 1),
        (qkv, layers),
        (Op::RopeAppend, layers),
        (Op::DecodeAttention { context }, layers),
        (output, layers),
        (gate_up, layers),
        (down, layers),
        (Op::Gather, 1),
        (Op::Product(model.head()), 1),
        (Op::Sample(Choice::Greedy), 1),
    ];
    let part = |(op, times)| {
        let case = Case { op, rows };
        Part { case, times, cost: case.cost(model, elements) * times }
    };
    ops.map(part).into()
}

#[cfg(test)]
mod tests {
    use std::ops::Add;

    use tensor_backend::Element;

    use super::*;
    use crate::model::MODELS;

    fn total(model: &Model, rows: usize, context: usize) -> Cost {
        let elements = Elements { activation: Element::F32, kv: Element::BF16 };
        decode_step(model, elements, rows, context).iter().map(|part| part.cost).fold(Cost::default(), Add::add)
    }

    /// The demo model's file has 63.3 MiB of layers in Q4_1, and 28.7 MiB of embedding in Q8_0, which is the head too.
    #[test]
    fn a_step_reads_every_weight_once() {
        let weights = 106_168_320 / 32 * 20 + 28_311_552 / 32 * 34;
        let alone = total(&MODELS[0], 1, 1);
        // And one token's keys and values, written and read, in each layer; and its row of the embedding.
        assert_eq!(alone.memory_bytes, weights + 30 * 2 * (2 * 192 * 2) + 576 / 32 * 34);
        // Two operations for each weight, but for little.
        let operations = 2 * (106_168_320 + 28_311_552);
        assert!((operations..operations + operations / 100).contains(&alone.operations), "{}", alone.operations);
    }

    #[test]
    fn rows_share_the_weights_and_contexts_add_their_keys_and_values() {
        let [one, eight] = [1, 8].map(|rows| total(&MODELS[0], rows, 100));
        assert!(eight.memory_bytes < 2 * one.memory_bytes);
        assert_eq!(eight.operations, 8 * one.operations);
        // 30 layers, keys and values, 192 elements of two bytes.
        let longer = total(&MODELS[0], 8, 101);
        assert_eq!(longer.memory_bytes - eight.memory_bytes, 8 * 30 * 2 * 192 * 2);
    }
}
