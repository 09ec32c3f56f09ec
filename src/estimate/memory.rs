//! Memory at its highest, as the sum of what is held at once.
//!
//! With `N` numbers in the weights and `A` in the adapter:
//!
//! | part | full | LoRA |
//! |---|---|---|
//! | weights | `4 N` | `4 N` or `2 N` by dtype, and `4 A` |
//! | gradients | `4 N` | `4 A` |
//! | optimizer | `8 N`: AdamW's two moments in fp32 (arXiv 1711.05101) | `8 A` |
//!
//! What learns is fp32 in every dtype (see `pyrust_nn.training.loop`). With `load_in_4bit` a linear layer of the blocks takes half a byte a
//! number and 4 bytes for each 64 of them (nf4, arXiv 2305.14314), and what is not linear is fp32.
//!
//! Activations are what autograd keeps for the backward pass of one micro-batch: as many tokens of a step as `max_tokens_per_batch` lets
//! through, or the longest row. For a token and a layer with `h` hidden, `i` intermediate features, `q` and `k` features of all query and
//! all key heads and `H` heads, counted after `pyrust_nn.cpu.fused_ops` for fp32 on a CPU, and elsewhere after transformers' Qwen2 with scaled dot
//! product attention (which keeps no `tokens * tokens` matrix):
//!
//! | | fp32 on a CPU, numbers of 4 bytes | fp32 on CUDA, numbers | bf16, bytes |
//! |---|---|---|---|
//! | full | `4 h + 2 q + 2 k + 3 i + H + 2` | `6 h + 2 q + 2 k + 4 i + H + 2` | `26 h + 4 q + 4 k + 8 i + 4 H + 8` |
//! | LoRA | `2 h + 2 q + 2 k + 2 i + H + 2`, and `2 s + r` of each adapted layer | `3 i` instead, and `s + s / 4 + r` | `8 h + 4 q + 4 k + 6 i + 4 H + 8`, and `2 s + 4 d + 2 r` |
//!
//! where an adapted layer of `s` inputs keeps them after dropout, the dropout's mask `d` (`s` fp32 numbers on a CPU, `s` bytes on CUDA), and
//! `r` numbers between A and B. Qwen3 normalizes queries and keys too: `q + k` numbers more for fp32 on a CPU; elsewhere in full `2 q + 2 k`
//! numbers, or `6 q + 6 k` bytes, in LoRA `4 q + 4 k` bytes; and 4 bytes a head. Outside the layers: twice the head's features a token
//! (and `3 h` but for fp32 on a CPU), `2 h` a target. In bf16, full training also holds a copy of every
//! matrix from autocast. Layers with other attention, and experts, are counted as if they were this, so their figure is rough. The last
//! layer, of which only target tokens are computed, is counted whole.
//!
//! Logits: the output matrix is applied at target tokens alone, some at a time; for each and each word of the vocabulary the
//! logit and its logarithm of the softmax are there (8 bytes; 10 in bf16; 4 for fp32 on a CPU, and none at all where the matrix is frozen).
//!
//! Not counted: Python and its libraries, what one operation takes for itself, and what `gradient_checkpointing` and an optimizer in 8 bit
//! save.

use serde::{Deserialize, Serialize};

use crate::estimate::lora::Adapter;
use crate::estimate::model::{Model, in_a_block, linear_layers};
use crate::estimate::settings::{Rows, Settings, bytes_of};

/// Bytes, by what holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    pub activations: u64,
    pub logits: u64,
    pub total: u64,
}

/// MiB of fp32 logits that are computed at a time, on a CPU and on CUDA: `CHUNK_BYTES` of `cross_entropy.py`.
pub(crate) const CHUNK_MIB: [u64; 2] = [96, 512];

/// Tokens of a micro-batch, on a CPU and on CUDA: `MAX_TOKENS` of `batches.py`.
pub(crate) const MAX_TOKENS: [u64; 2] = [768, 16_384];

/// `place`: device and dtype. The error says what the configuration lacks.
pub(crate) fn memory(
    model: &Model,
    adapter: Option<&Adapter>,
    settings: &Settings,
    rows: Rows,
    place: (&str, &str),
) -> Result<Memory, String> {
    let (device, dtype) = place;
    let numbers = model.parameters();
    let trained = adapter.map_or(numbers, Adapter::parameters);
    let weights = match adapter {
        None => 4 * numbers,
        Some(_) if model.quantized => model.stored_bytes() + 4 * trained,
        Some(_) if settings.load_in_4bit => {
            let packed: u64 = linear_layers(model).map(|(_, inputs, outputs)| inputs * outputs).sum();
            packed / 2 + packed.div_ceil(64) * 4 + 4 * (numbers - packed) + 4 * trained
        }
        Some(_) => bytes_of(dtype) * numbers + 4 * trained,
    };
    let (gradients, optimizer) = (4 * trained, 8 * trained);
    let cuda = device == "cuda";
    let shape = Shape::of(model)?;
    let (tokens, targets) = micro_batch(settings, rows, cuda);
    let half = dtype != "fp32";
    let fused = !half && !cuda;
    let per_token = match adapter {
        None => shape.layers * if half { shape.full_half() } else { 4 * shape.full(fused) },
        Some(adapter) => shape.adapted(adapter, half, cuda),
    };
    let copies = if adapter.is_none() && half { 2 * (numbers - one_dimensional(model)) } else { 0 };
    let outside = 4 * ((if fused { 0 } else { 3 }) * shape.hidden + 2 * shape.head);
    let activations =
        tokens.saturating_mul(per_token + outside).saturating_add(targets.saturating_mul(8 * shape.hidden)).saturating_add(copies);
    let chunk = (CHUNK_MIB[usize::from(cuda)] << 20) / (4 * shape.words).max(1);
    let each = match adapter {
        _ if half => 10,
        None if fused => 4,
        Some(adapter) if fused && !adapter.head => 0, // the vocabulary is gone through in blocks
        _ => 8,
    };
    let logits = chunk.max(16).min(targets) * shape.words * each;
    let parts = [weights, gradients, optimizer, activations, logits];
    let total = parts.into_iter().fold(0, u64::saturating_add);
    Ok(Memory { weights, gradients, optimizer, activations, logits, total })
}

/// Tokens and target tokens of a micro-batch, from above: rows of a step are put together up to the budget, and a longer one goes alone.
fn micro_batch(settings: &Settings, rows: Rows, cuda: bool) -> (u64, u64) {
    let budget = settings.max_tokens_per_batch.unwrap_or(MAX_TOKENS[usize::from(cuda)]);
    let step = settings.batch_size.saturating_mul(settings.gradient_accumulation_steps).saturating_mul(rows.longest);
    let tokens = budget.min(step).min(rows.tokens).max(rows.longest);
    let targets = tokens.saturating_mul(rows.targets).div_ceil(rows.tokens.max(1));
    (tokens, targets.max(rows.longest_targets).min(tokens))
}

/// Biases and norms, which autocast leaves alone.
fn one_dimensional(model: &Model) -> u64 {
    model.tensors.values().filter(|tensor| tensor.shape.len() == 1).map(super::model::numbers).sum()
}

/// The sizes that activations depend on.
struct Shape {
    layers: u64,
    hidden: u64,
    intermediate: u64,
    words: u64,
    heads: u64,
    head: u64,
    /// Features of all query heads, and of all key heads.
    queries: u64,
    keys: u64,
    /// Whether queries and keys are normalized.
    normalized: bool,
}

impl Shape {
    fn of(model: &Model) -> Result<Shape, String> {
        let number = |name: &str| model.number(name).ok_or_else(|| format!("config.json has no {name}"));
        let (hidden, heads) = (number("hidden_size")?, number("num_attention_heads")?.max(1));
        let head = model.number("head_dim").unwrap_or(hidden / heads).max(1);
        let experts = model.number("num_experts_per_tok").zip(model.number("moe_intermediate_size"));
        let intermediate = match experts {
            Some((chosen, each)) => chosen * each + model.number("shared_expert_intermediate_size").unwrap_or(0),
            None => number("intermediate_size")?,
        };
        Ok(Shape {
            layers: number("num_hidden_layers")?,
            hidden,
            intermediate,
            words: number("vocab_size")?,
            heads,
            head,
            queries: heads * head,
            keys: model.number("num_key_value_heads").unwrap_or(heads) * head,
            normalized: model.tensors.keys().any(|name| in_a_block(name) && name.ends_with("q_norm.weight")),
        })
    }

    /// Numbers of a token and a layer.
    fn full(&self, fused: bool) -> u64 {
        let both = self.queries + self.keys;
        let normalized = if self.normalized { (if fused { 1 } else { 2 }) * both + self.heads + self.keys / self.head } else { 0 };
        let (hidden, intermediate) = if fused { (4, 3) } else { (6, 4) };
        hidden * self.hidden + 2 * both + intermediate * self.intermediate + self.heads + 2 + normalized
    }

    /// Bytes of a token and a layer.
    fn full_half(&self) -> u64 {
        let normalized = if self.normalized { 6 * (self.queries + self.keys) + 4 * (self.heads + self.keys / self.head) } else { 0 };
        26 * self.hidden + 4 * (self.queries + self.keys) + 8 * self.intermediate + 4 * self.heads + 8 + normalized
    }

    /// Bytes of a token and all layers, in LoRA.
    fn adapted(&self, adapter: &Adapter, half: bool, cuda: bool) -> u64 {
        let bytes = if half { 2 } else { 4 };
        let inputs: u64 = adapter.layers.iter().map(|(inputs, _)| inputs).sum();
        let beside = inputs * (bytes + if cuda { 1 } else { 4 }) + bytes * adapter.rank * adapter.layers.len() as u64;
        let normalized = if self.normalized { 4 * (self.queries + self.keys + self.heads + self.keys / self.head) } else { 0 };
        let kept = 2 * (self.queries + self.keys) + (if half || cuda { 3 } else { 2 }) * self.intermediate;
        self.layers * (8 * self.hidden + bytes * kept + 4 * self.heads + 8 + normalized) + beside
    }
}
