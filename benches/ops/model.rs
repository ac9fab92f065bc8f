//! The models whose ops are measured, as shapes, and the products that a layer is made of. Knows no weights and no backend.

use model_format::TensorFormat;

use crate::cost::Heads;

/// Shapes of a model, and the sizes of steps that are of interest for it.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: Heads,
    pub(crate) vocab: usize,
    pub(crate) num_layers: usize,
    /// Of a layer's weights.
    pub(crate) layer_format: TensorFormat,
    /// Of the output head.
    pub(crate) head_format: TensorFormat,
    /// Tokens of a step that is full of prompts.
    pub(crate) many_rows: usize,
    /// Decode steps: rows, and tokens of each row's context.
    pub(crate) decode_attention: &'static [(usize, usize)],
    /// Prefill steps: rows, tokens of each that were there before, and new ones.
    pub(crate) prefill_attention: &'static [(usize, usize, usize)],
    /// Rows of decode steps whose cost is counted as a whole.
    pub(crate) step_rows: &'static [usize],
}

/// Every model, smallest first.
pub(crate) static MODELS: [Model; 2] = [
    // The demo model, in the formats of its file.
    Model {
        name: "smollm2-135m",
        hidden: 576,
        intermediate: 1536,
        heads: Heads { num_heads: 9, num_kv_heads: 3, head_dim: 64 },
        vocab: 49_152,
        num_layers: 30,
        layer_format: TensorFormat::Q4_1,
        head_format: TensorFormat::Q8_0,
        many_rows: 512,
        decode_attention: &[(1, 512), (1, 4096), (8, 512), (64, 512)],
        prefill_attention: &[(1, 0, 512), (1, 3584, 512), (8, 0, 64)],
        step_rows: &[1, 8, 64],
    },
    Model {
        name: "llama-3.1-8b",
        hidden: 4096,
        intermediate: 14_336,
        heads: Heads { num_heads: 32, num_kv_heads: 8, head_dim: 128 },
        vocab: 128_256,
        num_layers: 32,
        layer_format: TensorFormat::BF16,
        head_format: TensorFormat::BF16,
        many_rows: 2048,
        decode_attention: &[(1, 1024), (1, 8192), (8, 1024), (64, 1024), (256, 1024)],
        prefill_attention: &[(1, 0, 2048), (1, 6144, 2048), (4, 0, 512)],
        step_rows: &[1, 8, 64, 256],
    },
];

/// A product of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Product {
    pub(crate) name: &'static str,
    pub(crate) end: End,
    /// Inputs.
    pub(crate) k: usize,
    /// Rows of the weight; of gate and up together.
    pub(crate) n: usize,
    pub(crate) format: TensorFormat,
}

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Activations.
    Plain,
    /// Logits, in f32.
    Logits,
    /// It is added to the residual stream, which is normed.
    Added,
    /// Its first half gates its second.
    Gated,
}

impl Model {
    /// The products of a layer.
    pub(crate) fn layer_products(&self) -> [Product; 4] {
        let &Self { hidden, intermediate, heads, layer_format: format, .. } = self;
        [
            Product { name: "qkv", end: End::Plain, k: hidden, n: heads.qkv_width(), format },
            Product { name: "attention output", end: End::Added, k: heads.q_width(), n: hidden, format },
            Product { name: "gate and up", end: End::Gated, k: hidden, n: 2 * intermediate, format },
            self.down(format),
        ]
    }

    /// The product that ends a layer, in any format: its inputs are whole blocks of all.
    pub(crate) fn down(&self, format: TensorFormat) -> Product {
        Product { name: "down", end: End::Added, k: self.intermediate, n: self.hidden, format }
    }

    /// The output head.
    pub(crate) fn head(&self) -> Product {
        Product { name: "head", end: End::Logits, k: self.hidden, n: self.vocab, format: self.head_format }
    }
}
