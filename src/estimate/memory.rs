//! Peak memory, as the sum of everything held at the same time.
//!
//! With `N` elements in the weights and `A` in the adapter, in bytes:
//!
//! | part | full | LoRA |
//! |---|---|---|
//! | weights | `4 N` | `4 N` or `2 N` by dtype, and `4 A` |
//! | gradients | `4 N` | `4 A` |
//! | optimizer | `8 N`: AdamW's two moments in fp32 (arXiv 1711.05101) | `8 A` |
//!
//! Trained weights are fp32 with every dtype (see `pyrust_nn.training.loop`). With `load_in_4bit`, a linear layer of the transformer blocks
//! takes half a byte per element and 4 bytes per 64 elements (nf4, arXiv 2305.14314). Norms and biases are then fp32, other matrices by dtype.
//!
//! On CUDA, if all rows of a step are one micro-batch, the backward pass frees activations while it makes gradients: of activations with logits
//! and gradients only the larger counts. The parts have their full sizes, and `total` is less than their sum.
//!
//! Activations are what autograd saves for the backward pass of one micro-batch. Its tokens are those of a step up to
//! `max_tokens_per_batch`, or the longest row. The table is per token and layer, with `h` hidden features, `i` intermediate features, `q` and
//! `k` features of all query and all key heads, and `H` heads. For fp32 on a CPU the counts follow `pyrust_nn.cpu.fused_ops`, otherwise
//! transformers' Qwen2 with scaled dot product attention, which saves no `tokens * tokens` matrix:
//!
//! | | fp32 on a CPU, elements of 4 bytes | fp32 on CUDA, elements | bf16, bytes |
//! |---|---|---|---|
//! | full | `4 h + 2 q + 2 k + 3 i + H + 2` | `6 h + 2 q + 2 k + 4 i + H + 2` | `26 h + 4 q + 4 k + 8 i + 4 H + 8` |
//! | LoRA | `2 h + 2 q + 2 k + 2 i + H + 2`, plus `2 s + r` per adapted layer | with `3 i` instead, plus `s + s / 4 + r` | `8 h + 4 q + 4 k + 6 i + 4 H + 8`, plus `2 s + 4 d + 2 r` |
//!
//! An adapted layer of `s` inputs saves its inputs after dropout, the dropout mask `d` (`s` fp32 elements on a CPU, `s` bytes on CUDA) and
//! the `r` elements between A and B. Qwen3 also normalizes queries and keys. This adds `q + k` elements for fp32 on a CPU. Otherwise it adds
//! `2 q + 2 k` elements or `6 q + 6 k` bytes in full training and `4 q + 4 k` bytes in LoRA. In each case it adds 4 bytes per head. Outside
//! the layers, a token adds twice the features of a head (plus `3 h`, except for fp32 on a CPU) and a target adds `2 h`. In bf16, full
//! training also holds autocast's copy of every matrix. On CUDA it holds a second gradient of the output matrix, which the loss computes.
//! With `add_tokens` LoRA holds copies of the embedding and the output matrix. Layers with another attention and experts are counted like
//! these layers, so their estimate is rough. The last layer is counted in full, although only target tokens are computed there.
//!
//! Logits: the output matrix is applied only to target tokens, in chunks. Each target token and vocabulary entry takes the logit and its
//! log-softmax: 8 bytes; 10 in bf16; 4 for fp32 on a CPU, or none there if the matrix is frozen.
//!
//! Not counted: Python and its libraries, temporary memory within an operation, and the savings of `gradient_checkpointing` and an 8-bit
//! optimizer.

use serde::{Deserialize, Serialize};

use crate::estimate::estimate_settings::{EstimateSettings, RowCounts, bytes_of};
use crate::estimate::lora::Adapter;
use crate::estimate::model_shape::{ModelShape, in_a_block, linear_layers};

/// Memory in bytes, by use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    pub activations: u64,
    pub logits: u64,
    pub total: u64,
}

/// MiB of fp32 logits per chunk, on a CPU and on CUDA: `CHUNK_BYTES` in `linear_cross_entropy.py`.
pub(crate) const CHUNK_MIB: [u64; 2] = [96, 128];

/// Maximum tokens of a micro-batch, on a CPU and on CUDA: `MAX_TOKENS` in `batches.py`.
pub(crate) const MAX_TOKENS: [u64; 2] = [768, 16_384];

/// Estimates the peak memory. `place`: device and dtype. The error names the key that the configuration lacks.
pub(crate) fn memory(
    model: &ModelShape,
    adapter: Option<&Adapter>,
    settings: &EstimateSettings,
    rows: RowCounts,
    place: (&str, &str),
) -> Result<Memory, String> {
    let (device, dtype) = place;
    let elements = model.parameters();
    let trained = adapter.map_or(elements, Adapter::parameters);
    let weights = match adapter {
        None => 4 * elements,
        Some(_) if model.quantized => model.stored_bytes() + 4 * trained,
        Some(_) if settings.load_in_4bit => {
            let packed: u64 = linear_layers(model).map(|(_, inputs, outputs)| inputs * outputs).sum();
            let vectors = one_dimensional(model);
            packed / 2 + packed.div_ceil(64) * 4 + bytes_of(dtype) * (elements - packed - vectors) + 4 * (vectors + trained)
        }
        Some(_) => bytes_of(dtype) * elements + 4 * trained,
    };
    let (gradients, optimizer) = (4 * trained, 8 * trained);
    let cuda = device == "cuda";
    let sizes = LayerSizes::of(model)?;
    let (tokens, targets) = micro_batch(settings, rows, cuda);
    let half_precision = dtype != "fp32";
    let fused = !half_precision && !cuda;
    let per_token = match adapter {
        None => sizes.layers * if half_precision { sizes.full_half() } else { 4 * sizes.full(fused) },
        Some(adapter) => sizes.adapted(adapter, half_precision, cuda),
    };
    let copies = match adapter {
        None if half_precision => 2 * (elements - one_dimensional(model)),
        // The embedding and the output matrix with the new rows, and their gradients.
        Some(_) if settings.add_tokens.is_some() => 2 * (bytes_of(dtype) + 4) * sizes.vocabulary * sizes.hidden,
        _ => 0,
    };
    // The loss computes the gradient of the output matrix; on a CPU it is added in place.
    let head_gradient = if adapter.is_none() && cuda { 4 * sizes.vocabulary * sizes.hidden } else { 0 };
    let outside = 4 * ((if fused { 0 } else { 3 }) * sizes.hidden + 2 * sizes.head);
    let activations = tokens
        .saturating_mul(per_token + outside)
        .saturating_add(targets.saturating_mul(8 * sizes.hidden))
        .saturating_add(copies + head_gradient);
    let chunk = (CHUNK_MIB[usize::from(cuda)] << 20) / (4 * sizes.vocabulary).max(1);
    let each = match adapter {
        _ if half_precision => 10,
        None if fused => 4,
        Some(adapter) if fused && !adapter.head => 0, // the kernel computes the vocabulary in blocks
        _ => 8,
    };
    let logits = chunk.max(16).min(targets) * sizes.vocabulary * each;
    let in_forward = activations.saturating_add(logits);
    let at_once = if cuda && is_one_micro_batch(settings, rows) { gradients.max(in_forward) } else { gradients.saturating_add(in_forward) };
    let total = [weights, optimizer, at_once].into_iter().fold(0, u64::saturating_add);
    Ok(Memory { weights, gradients, optimizer, activations, logits, total })
}

/// Upper bounds of the tokens and target tokens of a micro-batch. Rows of a step are combined up to the budget; a longer row is alone.
fn micro_batch(settings: &EstimateSettings, rows: RowCounts, cuda: bool) -> (u64, u64) {
    let tokens = budget(settings, cuda).min(step_tokens(settings, rows)).min(rows.tokens).max(rows.longest);
    let targets = tokens.saturating_mul(rows.targets).div_ceil(rows.tokens.max(1));
    (tokens, targets.max(rows.longest_targets).min(tokens))
}

/// Whether each step on CUDA is a single micro-batch.
fn is_one_micro_batch(settings: &EstimateSettings, rows: RowCounts) -> bool {
    step_tokens(settings, rows) <= budget(settings, true).max(rows.longest)
}

/// Maximum tokens of a micro-batch of several rows.
fn budget(settings: &EstimateSettings, cuda: bool) -> u64 {
    settings.max_tokens_per_batch.unwrap_or(MAX_TOKENS[usize::from(cuda)])
}

/// Upper bound of the tokens of a step.
fn step_tokens(settings: &EstimateSettings, rows: RowCounts) -> u64 {
    settings.batch_size.saturating_mul(settings.gradient_accumulation_steps).saturating_mul(rows.longest)
}

/// Elements of biases and norms, of which autocast makes no copies.
fn one_dimensional(model: &ModelShape) -> u64 {
    model.tensors.values().filter(|tensor| tensor.shape.len() == 1).map(super::model_shape::element_count).sum()
}

/// Sizes of a layer that activations depend on.
struct LayerSizes {
    layers: u64,
    hidden: u64,
    intermediate: u64,
    vocabulary: u64,
    heads: u64,
    head: u64,
    /// Features of all query heads.
    queries: u64,
    /// Features of all key heads.
    keys: u64,
    /// Whether queries and keys are normalized.
    normalized: bool,
}

impl LayerSizes {
    fn of(model: &ModelShape) -> Result<LayerSizes, String> {
        let integer = |name: &str| model.integer(name).ok_or_else(|| format!("config.json has no {name}"));
        let (hidden, heads) = (integer("hidden_size")?, integer("num_attention_heads")?.max(1));
        let head = model.integer("head_dim").unwrap_or(hidden / heads).max(1);
        let experts = model.integer("num_experts_per_tok").zip(model.integer("moe_intermediate_size"));
        let intermediate = match experts {
            Some((chosen, each)) => chosen * each + model.integer("shared_expert_intermediate_size").unwrap_or(0),
            None => integer("intermediate_size")?,
        };
        Ok(LayerSizes {
            layers: integer("num_hidden_layers")?,
            hidden,
            intermediate,
            vocabulary: integer("vocab_size")?,
            heads,
            head,
            queries: heads * head,
            keys: model.integer("num_key_value_heads").unwrap_or(heads) * head,
            normalized: model.tensors.keys().any(|name| in_a_block(name) && name.ends_with("q_norm.weight")),
        })
    }

    /// Saved elements per token and layer, in full training.
    fn full(&self, fused: bool) -> u64 {
        let both = self.queries + self.keys;
        let normalized = if self.normalized { (if fused { 1 } else { 2 }) * both + self.heads + self.keys / self.head } else { 0 };
        let (hidden, intermediate) = if fused { (4, 3) } else { (6, 4) };
        hidden * self.hidden + 2 * both + intermediate * self.intermediate + self.heads + 2 + normalized
    }

    /// Saved bytes per token and layer, in full training in half precision.
    fn full_half(&self) -> u64 {
        let normalized = if self.normalized { 6 * (self.queries + self.keys) + 4 * (self.heads + self.keys / self.head) } else { 0 };
        26 * self.hidden + 4 * (self.queries + self.keys) + 8 * self.intermediate + 4 * self.heads + 8 + normalized
    }

    /// Saved bytes per token in all layers, in LoRA.
    fn adapted(&self, adapter: &Adapter, half: bool, cuda: bool) -> u64 {
        let bytes = if half { 2 } else { 4 };
        let inputs: u64 = adapter.layers.iter().map(|(inputs, _)| inputs).sum();
        let adapters = inputs * (bytes + if cuda { 1 } else { 4 }) + bytes * adapter.rank * adapter.layers.len() as u64;
        let normalized = if self.normalized { 4 * (self.queries + self.keys + self.heads + self.keys / self.head) } else { 0 };
        let kept = 2 * (self.queries + self.keys) + (if half || cuda { 3 } else { 2 }) * self.intermediate;
        self.layers * (8 * self.hidden + bytes * kept + 4 * self.heads + 8 + normalized) + adapters
    }
}
