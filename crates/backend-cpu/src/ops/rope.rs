//! QK-norm, rotary embedding and the append to the KV pool. Knows heads and positions.

use tensor_backend::RopeAppend;

use crate::CpuBackend;
use crate::kv::{NewToken, TokenPlace};
use crate::pool::{Chunks, Cores};
use crate::simd::{rms_norm_in_place, rotate_heads};

/// Elements that are worth a thread.
const GRAIN: usize = 1 << 14;

pub(crate) fn rope_append(cores: &Cores, op: RopeAppend<'_, CpuBackend>) {
    let step = op.inputs.step();
    assert_eq!(op.rows, step.num_tokens());
    let layout = *op.kv.layout();
    let (head_dim, cols) = (layout.head_dim, op.qkv.cols());
    let (q_cols, kv_cols) = (op.num_heads * head_dim, layout.num_kv_heads * head_dim);
    assert_eq!(cols, q_cols + 2 * kv_cols);
    assert_eq!(op.rope.cols(), head_dim);
    assert!(head_dim.is_multiple_of(2));
    let (rope, qk_norm) = (op.rope, &op.qk_norm);

    cores.pool.run(Chunks::new(op.qkv.rows_mut(0..op.rows), cols), GRAIN / cols, |rows| {
        for (token, row) in rows.into_chunks() {
            let rotation = rope.row(step.positions[token] as usize);
            let heads = &mut row[..q_cols + kv_cols];
            if let Some(norm) = qk_norm {
                for (index, head) in heads.chunks_exact_mut(head_dim).enumerate() {
                    let weight = if index < op.num_heads { norm.q_weight } else { norm.k_weight };
                    rms_norm_in_place(cores.path, head, weight.row(0), norm.eps);
                }
            }
            rotate_heads(cores.path, heads, rotation);
        }
    });

    for token in 0..op.rows {
        let row = op.qkv.row(token);
        let position = step.positions[token] as usize;
        let slot = step.row_slots[step.token_rows[token] as usize];
        let block = op.inputs.table(slot)[position / layout.block_size] as usize;
        let place = TokenPlace { layer: op.layer, block, slot: position % layout.block_size };
        let (keys, values) = row[q_cols..].split_at(kv_cols);
        op.kv.append(cores.path, &NewToken { place, keys, values });
    }
}
