use std::path::Path;

use serde_json::{Value, json};

use crate::estimate::*;

/// Writes a Qwen2 of one layer, with all weights zero.
fn write_model(folder: &Path, config: &Value) {
    let shapes: [(&str, &[usize]); 12] = [
        ("model.embed_tokens.weight", &[100, 16]),
        ("lm_head.weight", &[100, 16]),
        ("model.norm.weight", &[16]),
        ("model.layers.0.input_layernorm.weight", &[16]),
        ("model.layers.0.self_attn.q_proj.weight", &[16, 16]),
        ("model.layers.0.self_attn.q_proj.bias", &[16]),
        ("model.layers.0.self_attn.k_proj.weight", &[8, 16]),
        ("model.layers.0.self_attn.v_proj.weight", &[8, 16]),
        ("model.layers.0.self_attn.o_proj.weight", &[16, 16]),
        ("model.layers.0.mlp.gate_proj.weight", &[32, 16]),
        ("model.layers.0.mlp.up_proj.weight", &[32, 16]),
        ("model.layers.0.mlp.down_proj.weight", &[16, 32]),
    ];
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let bytes = 2 * shape.iter().product::<usize>();
        header.insert(name.into(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes]}));
        end += bytes;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + end, 0);
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn config() -> Value {
    json!({"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1,
           "vocab_size": 100, "max_position_embeddings": 64, "tie_word_embeddings": true, "dtype": "bfloat16"})
}

fn settings(more: &Value) -> EstimateSettings {
    let mut all = json!({
        "task": "finetune_full", "num_epochs": 2.0, "batch_size": 2, "gradient_accumulation_steps": 2, "max_tokens_per_batch": null, "dtype": "auto", "device": "cpu",
        "save_steps": 0, "lora_rank": null, "target_modules": null, "load_in_4bit": false, "max_length": 64, "overlong": "error",
        "thinking": "keep", "drop_duplicates": false, "eval_split": 0.0, "seed": 1,
    });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

const ROWS: RowCounts = RowCounts { train: 9, longest: 10, longest_targets: 4, tokens: 80, targets: 32 };
/// Elements of the seven projections and of all other weights. The tied output matrix counts once.
const PROJECTIONS: u64 = 256 + 128 + 128 + 256 + 3 * 512;
const OTHERS: u64 = 1600 + 16 + 16 + 16;

fn estimated(more: &Value) -> (Estimate, Refusals) {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &config());
    estimate(folder.path(), &settings(more), ROWS).unwrap()
}

#[test]
fn full_fine_tuning_takes_sixteen_bytes_per_parameter_plus_activations() {
    let (made, refusals) = estimated(&json!({}));
    assert!(refusals.is_empty());
    let numbers = PROJECTIONS + OTHERS;
    assert_eq!((made.parameters, made.trainable_parameters), (Some(numbers), Some(numbers)));
    let memory = made.memory.unwrap();
    assert_eq!((memory.weights, memory.gradients, memory.optimizer), (4 * numbers, 4 * numbers, 8 * numbers));
    // Autograd saves, with 4 bytes each: 4 h + 2 (q + k) + 3 i + H + 2 per token, twice a head's features per token, 2 h per target. A step has 40 tokens.
    let layer = 4 * 16 + 2 * (16 + 8) + 3 * 32 + 2 + 2;
    assert_eq!(memory.activations, 40 * 4 * (layer + 2 * 8) + 16 * 4 * 2 * 16);
    assert_eq!(memory.logits, 16 * 100 * 4);
    assert_eq!(memory.total, 16 * numbers + memory.activations + memory.logits);
}

#[test]
fn a_micro_batch_has_the_tokens_of_a_step_within_the_budget_and_at_least_the_longest_row() {
    let activations = |more: &Value| estimated(more).0.memory.unwrap().activations;
    let whole = activations(&json!({})); // 40 tokens
    let spread = json!({"batch_size": 1, "gradient_accumulation_steps": 4});
    assert_eq!(activations(&spread), whole, "the distribution of a step over passes does not matter");
    assert_eq!(activations(&json!({"batch_size": 1, "gradient_accumulation_steps": 1})) * 4, whole);
    assert_eq!(activations(&json!({"max_tokens_per_batch": 20})) * 2, whole);
    assert_eq!(activations(&json!({"max_tokens_per_batch": 1})) * 4, whole, "rows are not split");
    assert_eq!(activations(&json!({"batch_size": 64})), whole * 2, "there are 80 tokens in all");
}

#[test]
fn steps_round_up_within_an_epoch_and_at_the_end() {
    let (made, _) = estimated(&json!({"num_epochs": 1.5, "save_steps": 2}));
    assert_eq!((made.steps_per_epoch, made.steps), (3, 5));
    let disk = made.disk.unwrap();
    assert_eq!(disk.checkpoints, 2);
    assert_eq!(disk.total, disk.output + 2 * disk.checkpoint);
}

#[test]
fn an_adapter_has_rank_times_the_inputs_and_outputs_of_its_layers() {
    let (made, _) = estimated(&json!({"task": "finetune_lora", "lora_rank": 3, "target_modules": ["q_proj", "down_proj"]}));
    let adapter = 3 * ((16 + 16) + (32 + 16));
    assert_eq!(made.trainable_parameters, Some(adapter));
    let memory = made.memory.unwrap();
    assert_eq!((memory.weights, memory.gradients, memory.optimizer), (4 * (PROJECTIONS + OTHERS + adapter), 4 * adapter, 8 * adapter));
    let (made, _) = estimated(&json!({"task": "finetune_lora", "load_in_4bit": true}));
    let all = 8 * ((16 + 16) + 2 * (16 + 8) + (16 + 16) + 3 * (16 + 32));
    assert_eq!(made.trainable_parameters, Some(all));
    assert_eq!(made.memory.unwrap().weights, PROJECTIONS / 2 + PROJECTIONS / 16 + 4 * (OTHERS + all));
}

#[test]
fn four_bit_weights_leave_the_embedding_in_its_dtype_and_vectors_in_fp32() {
    let (made, _) = estimated(&json!({"task": "finetune_lora", "load_in_4bit": true, "dtype": "bf16", "target_modules": ["q_proj"]}));
    assert_eq!(made.memory.unwrap().weights, PROJECTIONS / 2 + PROJECTIONS / 16 + 2 * 1600 + 4 * (16 + 16 + 16) + 4 * 8 * (16 + 16));
}

#[test]
fn gradients_take_the_place_of_activations_if_a_step_on_cuda_is_one_micro_batch() {
    let one = json!({"device": "cuda", "dtype": "bf16"});
    let memory = estimated(&one).0.memory.unwrap();
    assert_eq!(memory.total, memory.weights + memory.optimizer + (memory.activations + memory.logits).max(memory.gradients));
    let several = json!({"device": "cuda", "dtype": "bf16", "max_tokens_per_batch": 39});
    let memory = estimated(&several).0.memory.unwrap();
    assert_eq!(memory.total, memory.weights + memory.optimizer + memory.activations + memory.logits + memory.gradients);
}

#[test]
fn settings_that_training_would_refuse_are_reported() {
    let (_, refusals) = estimated(&json!({"task": "finetune_lora", "target_modules": ["qproj"]}));
    assert!(refusals[0].contains("no layer \"qproj\"") && refusals[0].contains("did you mean \"q_proj\"?"), "{refusals:?}");
    let (_, refusals) = estimated(&json!({"max_length": 65}));
    assert!(refusals[0].contains("exceeds the 64 positions"), "{refusals:?}");
}

#[test]
fn without_weights_only_the_steps_are_estimated() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
    let (made, refusals) = estimate(folder.path(), &settings(&json!({})), ROWS).unwrap();
    assert!(refusals.is_empty() && made.memory.is_none() && made.disk.is_none());
    assert_eq!(made.steps, 6);
    assert!(made.missing[0].contains("no weights"), "{:?}", made.missing);
}

#[test]
fn the_token_budget_is_the_same_as_in_training() {
    let [cpu, cuda] = memory::MAX_TOKENS;
    let batches = include_str!("../../python/pyrust_nn/training/batches.py").replace('_', "");
    assert!(batches.contains(&format!("MAXTOKENS = {{\"cpu\": {cpu}, \"cuda\": {cuda}}}")), "batches.py has a different budget");
}

#[test]
fn the_logit_chunk_size_is_the_same_as_in_training() {
    let [cpu, cuda] = memory::CHUNK_MIB;
    let line = format!("CHUNK_BYTES = {{\"cpu\": {cpu} << 20, \"cuda\": {cuda} << 20}}");
    let training = include_str!("../../python/pyrust_nn/training/linear_cross_entropy.py");
    assert!(training.lines().any(|written| written == line), "linear_cross_entropy.py has no line {line}");
}
