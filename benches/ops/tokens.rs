//! Inputs of made-up steps, and a KV pool as such steps would have filled it. Knows positions and block tables, not ops' times.

use anyhow::Result;
use benches::random::Random;
use serving_types::RowSlot;
use tensor_backend::{
    AttentionLayout, Backend, Element, InputLimits, KvElement, KvLayout, LogitChoice, LogitJob, RopeAppend,
    RotaryFrequencies, StepInputs, TableUpdate,
};

use crate::bench::Bench;
use crate::cost::AttentionRow;
use crate::model::Model;

/// Tokens of a block.
const BLOCK_SIZE: usize = 16;

/// Tokens of a step that fills the pool.
const FILL_TOKENS: usize = 512;

/// Rows of the largest decode step that is of interest.
const MAX_DECODE_ROWS: usize = 256;

/// The inputs of one step on a device.
pub(crate) struct Tokens<B: Backend> {
    pub(crate) inputs: B::Inputs,
    /// Angles of all positions.
    pub(crate) rope: B::Buffer,
    pub(crate) num_slots: usize,
}

impl<B: Backend> Tokens<B> {
    /// Numbers of rows for which the backend replays decode steps.
    pub(crate) fn recorded_rows(backend: &mut B) -> Result<Vec<usize>> {
        let attention = AttentionLayout {
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: 64,
            block_size: BLOCK_SIZE,
            sliding_window: None,
        };
        let inputs = backend.new_inputs(&InputLimits {
            max_tokens: MAX_DECODE_ROWS,
            max_slots: MAX_DECODE_ROWS,
            max_blocks_per_slot: 1,
            max_jobs: MAX_DECODE_ROWS,
            attention,
        })?;
        Ok(backend.graph_rows(&inputs))
    }

    /// Inputs of a step of these rows, each token of which wants a token sampled, as far as there are as many slots.
    pub(crate) fn upload(backend: &mut B, model: &Model, rows: &[AttentionRow], random: &mut Random) -> Result<Self> {
        let num_tokens: usize = rows.iter().map(|row| row.new).sum();
        let limits = limits(model, rows, num_tokens);
        let mut inputs = backend.new_inputs(&limits)?;
        let mut step = step_of(rows, &tables(rows), model, random);
        if num_tokens == rows.len() {
            step.jobs = (0..rows.len() as u32)
                .map(|row| LogitJob {
                    token_index: row,
                    slot: RowSlot(row),
                    choice: LogitChoice::Sample { output_position: 0 },
                })
                .collect();
        }
        backend.upload(&mut inputs, &step)?;
        assert_eq!(backend.padded_rows(&inputs, &step), num_tokens, "cases have sizes that are not padded");
        Ok(Self { inputs, rope: rope(backend, model, &limits)?, num_slots: limits.max_slots })
    }

    /// A pool with random keys and values in all places that these rows see.
    pub(crate) fn fill(
        bench: &mut Bench<'_, B>,
        model: &Model,
        rows: &[AttentionRow],
        num_layers: usize,
    ) -> Result<B::Kv> {
        let tables = tables(rows);
        let mut kv = bench.backend.alloc_kv(&KvLayout {
            num_layers,
            num_blocks: tables.iter().map(Vec::len).sum(),
            block_size: BLOCK_SIZE,
            num_kv_heads: model.heads.num_kv_heads,
            head_dim: model.heads.head_dim,
            element: KvElement::Float(bench.settings.elements.kv),
        })?;
        let limits = limits(model, rows, FILL_TOKENS);
        let mut inputs = bench.backend.new_inputs(&limits)?;
        let rope = rope(bench.backend, model, &limits)?;
        let mut qkv = bench.activations(FILL_TOKENS, model.heads.qkv_width())?;
        for (slot, row) in rows.iter().enumerate() {
            let len = row.before + row.new;
            for before in (0..len).step_by(FILL_TOKENS) {
                let piece = AttentionRow { before, new: FILL_TOKENS.min(len - before) };
                let step = step_of(&[piece], &tables[slot..=slot], model, &mut bench.random);
                bench.backend.upload(&mut inputs, &step)?;
                let rows = bench.backend.padded_rows(&inputs, &step);
                for layer in 0..num_layers {
                    bench.backend.rope_append(RopeAppend {
                        inputs: &inputs,
                        qkv: &mut qkv,
                        rope: &rope,
                        qk_norm: None,
                        kv: &mut kv,
                        layer,
                        num_heads: model.heads.num_heads,
                        rows,
                    })?;
                }
            }
        }
        bench.wait()?;
        Ok(kv)
    }
}

fn limits(model: &Model, rows: &[AttentionRow], max_tokens: usize) -> InputLimits {
    let longest = rows.iter().map(|row| row.before + row.new).max().unwrap_or(1);
    InputLimits {
        max_tokens,
        max_slots: rows.len(),
        max_blocks_per_slot: longest.div_ceil(BLOCK_SIZE),
        max_jobs: rows.len(),
        attention: AttentionLayout {
            num_heads: model.heads.num_heads,
            num_kv_heads: model.heads.num_kv_heads,
            head_dim: model.heads.head_dim,
            block_size: BLOCK_SIZE,
            sliding_window: None,
        },
    }
}

fn rope<B: Backend>(backend: &mut B, model: &Model, limits: &InputLimits) -> Result<B::Buffer> {
    let (head_dim, positions) = (model.heads.head_dim, limits.max_blocks_per_slot * BLOCK_SIZE);
    let inverse = (0..head_dim / 2).map(|i| 1e4_f64.powf(-2.0 * i as f64 / head_dim as f64)).collect();
    let table = RotaryFrequencies { inverse, amplitude: 1.0 }.table(positions);
    let mut rope = backend.alloc(positions, head_dim, Element::F32)?;
    backend.write(&mut rope, &table)?;
    Ok(rope)
}

/// The blocks of each row. They lie apart, as those of requests that came and went do.
fn tables(rows: &[AttentionRow]) -> Vec<Vec<u32>> {
    let lens: Vec<usize> = rows.iter().map(|row| (row.before + row.new).div_ceil(BLOCK_SIZE)).collect();
    let num_blocks = lens.iter().sum::<usize>() as u32;
    let mut order: Vec<u32> = (0..num_blocks).collect();
    let mut random = Random::new(7);
    for i in (1..num_blocks).rev() {
        order.swap(i as usize, random.below(i + 1) as usize);
    }
    let mut order = order.into_iter();
    lens.into_iter().map(|len| order.by_ref().take(len).collect()).collect()
}

/// A step of rows in the slots of the same numbers, of random tokens.
fn step_of(rows: &[AttentionRow], tables: &[Vec<u32>], model: &Model, random: &mut Random) -> StepInputs {
    let mut step = StepInputs { row_starts: vec![0], ..StepInputs::default() };
    for (slot, (row, table)) in (0_u32..).zip(rows.iter().zip(tables)) {
        for position in row.before..row.before + row.new {
            step.token_ids.push(random.below(model.vocab as u32));
            step.positions.push(position as u32);
            step.token_rows.push(slot);
        }
        step.row_starts.push(step.token_ids.len() as u32);
        step.row_slots.push(RowSlot(slot));
        step.context_lens.push((row.before + row.new) as u32);
        let updates = (0_u32..).zip(table).map(|(index, &block)| TableUpdate { slot: RowSlot(slot), index, block });
        step.table_updates.extend(updates);
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MODELS;

    #[test]
    fn no_block_belongs_to_two_rows() {
        let rows = [AttentionRow { before: 31, new: 1 }, AttentionRow { before: 32, new: 1 }];
        let tables = tables(&rows);
        assert_eq!(tables.iter().map(Vec::len).collect::<Vec<_>>(), [2, 3]);
        let mut blocks = tables.concat();
        blocks.sort_unstable();
        assert_eq!(blocks, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_step_has_the_positions_of_its_rows() {
        let rows = [AttentionRow { before: 5, new: 2 }, AttentionRow { before: 0, new: 1 }];
        let step = step_of(&rows, &tables(&rows), &MODELS[0], &mut Random::new(1));
        assert_eq!(step.positions, [5, 6, 0]);
        assert_eq!(step.token_rows, [0, 0, 1]);
        assert_eq!(step.row_starts, [0, 2, 3]);
        assert_eq!(step.context_lens, [7, 1]);
        assert_eq!(step.table_updates.len(), 2);
    }
}
