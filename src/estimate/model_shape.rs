//! The shape of a model: its configuration and the headers of its safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::base::error;
use crate::gguf::{TensorHeader, tensors};

/// A model without its weights.
#[derive(Debug)]
pub(crate) struct ModelShape {
    config: Value,
    pub quantized: bool,
    /// Tensors by name, without a tied output matrix and without parts that text models do not load.
    pub tensors: BTreeMap<String, TensorHeader>,
    /// Bytes of the tokenizer and the other small files that are saved with a model.
    pub small_files: u64,
}

/// Parts of multimodal and multi-token checkpoints that a causal language model does not load.
const NOT_LOADED: [&str; 3] = ["visual.", "mtp.", "vision_tower."];

/// Ends of the names of the input embedding.
const EMBEDDINGS: [&str; 4] = ["embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight"];

/// Rows of the input embedding of the model in a folder; `None` if its files do not tell.
pub(crate) fn embedding_rows(folder: &Path) -> Option<u32> {
    let rows = match ModelShape::open(folder).ok()? {
        Ok(model) => model.embedding_rows()?,
        Err(_) if is_adapter(folder) => return None,
        Err(_) => {
            let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).ok()?).ok()?;
            config.get("text_config").unwrap_or(&config)["vocab_size"].as_u64()?
        }
    };
    u32::try_from(rows).ok()
}

/// The configuration of the model in a folder: its text part. `None` if there is none, or if it cannot be read.
pub(crate) fn read_config(folder: &Path) -> Option<Value> {
    let whole: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).ok()?).ok()?;
    let text = whole.get("text_config").filter(|config| config.is_object()).cloned();
    // Quantization is told beside the text part.
    let mut config = text.unwrap_or_else(|| whole.clone());
    if let (Some(quantization), Some(config)) = (whole.get("quantization_config"), config.as_object_mut()) {
        config.insert("quantization_config".into(), quantization.clone());
    }
    Some(config)
}

/// Maximum number of tokens in a sample, including the scaling of rotary embeddings. `None` if the configuration does not tell.
pub(crate) fn positions(config: &Value) -> Option<u64> {
    let limit = config["max_position_embeddings"].as_u64()?;
    let rope = ["rope_parameters", "rope_scaling"].iter().map(|name| &config[*name]).find(|rope| rope.is_object());
    let Some(factor) = rope.and_then(|rope| rope["factor"].as_f64()) else { return Some(limit) };
    let scaled = factor * rope?["original_max_position_embeddings"].as_f64()?;
    Some(limit.max(scaled as u64))
}

/// Whether it is the folder of an adapter, which has no base model weights.
pub(crate) fn is_adapter(folder: &Path) -> bool {
    folder.join("adapter_config.json").is_file()
}

impl ModelShape {
    /// Reads config.json and the headers. The inner error says what is missing.
    ///
    /// # Errors
    /// Kind `model` if a file cannot be read.
    pub(crate) fn open(folder: &Path) -> Result<Result<ModelShape, String>> {
        if is_adapter(folder) {
            return Ok(Err(format!("{} is an adapter, which has no base model weights", folder.display())));
        }
        let path = folder.join("config.json");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(Err(format!("{} has no config.json", folder.display())));
        };
        let whole: Value = serde_json::from_str(&text)
            .map_err(|cause| error::model(format!("{} cannot be read: {cause}; copy or download it again", path.display())))?;
        let files = weight_files(folder)?;
        if files.is_empty() {
            return Ok(Err(format!("{} has no weights (*.safetensors)", folder.display())));
        }
        let quantized = whole.get("quantization_config").is_some_and(|config| !config.is_null());
        let config = whole.get("text_config").filter(|config| config.is_object()).unwrap_or(&whole).clone();
        let tied = [&config, &whole].iter().any(|config| config["tie_word_embeddings"] == Value::Bool(true));
        let mut all = BTreeMap::new();
        for file in &files {
            for tensor in tensors(file)? {
                let left_out = (tied && tensor.name == "lm_head.weight") || NOT_LOADED.iter().any(|part| tensor.name.contains(part));
                if !left_out {
                    all.insert(tensor.name.clone(), tensor);
                }
            }
        }
        Ok(Ok(ModelShape { config, quantized, tensors: all, small_files: small_files(folder)? }))
    }

    /// Number of elements in the weights.
    pub(crate) fn parameters(&self) -> u64 {
        self.tensors.values().map(element_count).sum()
    }

    /// Size of the stored weights, in bytes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.bytes as u64).sum()
    }

    /// Dtype of the stored weights.
    pub(crate) fn stored_dtype(&self) -> &'static str {
        match self.config["dtype"].as_str().or_else(|| self.config["torch_dtype"].as_str()) {
            Some("bfloat16") => "bf16",
            Some("float16") => "fp16",
            _ => "fp32",
        }
    }

    /// Maximum number of tokens in a sample, including the scaling of rotary embeddings.
    pub(crate) fn positions(&self) -> Option<u64> {
        positions(&self.config)
    }

    /// Rows of the input embedding: those of its weights, else `vocab_size`.
    fn embedding_rows(&self) -> Option<u64> {
        let own = self.tensors.values().find(|tensor| EMBEDDINGS.iter().any(|name| tensor.name.ends_with(name)));
        own.and_then(|tensor| Some(*tensor.shape.first()? as u64)).or_else(|| self.integer("vocab_size"))
    }

    /// Input and output features of a projection, by the configuration.
    fn projection(&self, name: &str) -> Option<(u64, u64)> {
        let (hidden, heads) = (self.integer("hidden_size")?, self.integer("num_attention_heads")?.max(1));
        let head = self.integer("head_dim").unwrap_or(hidden / heads);
        let keys = self.integer("num_key_value_heads").unwrap_or(heads) * head;
        match name {
            "q_proj" => Some((hidden, heads * head)),
            "k_proj" | "v_proj" => Some((hidden, keys)),
            "o_proj" => Some((heads * head, hidden)),
            "gate_proj" | "up_proj" => Some((hidden, self.integer("intermediate_size")?)),
            "down_proj" => Some((self.integer("intermediate_size")?, hidden)),
            _ => None,
        }
    }

    /// An integer of the configuration.
    pub(crate) fn integer(&self, name: &str) -> Option<u64> {
        self.config[name].as_u64()
    }
}

/// The linear layers of the transformer blocks: path, input and output features. For a quantized model, whose files do not tell the sizes,
/// they come from the configuration.
pub(crate) fn linear_layers(model: &ModelShape) -> impl Iterator<Item = (&str, u64, u64)> {
    model.tensors.values().filter(|tensor| in_a_block(&tensor.name) && tensor.shape.len() == 2).filter_map(|tensor| {
        let path = tensor.name.strip_suffix(".weight")?;
        if model.quantized {
            let (inputs, outputs) = model.projection(path.rsplit('.').next().unwrap_or_default())?;
            return Some((path, inputs, outputs));
        }
        Some((path, tensor.shape[1] as u64, tensor.shape[0] as u64))
    })
}

/// The last parts of the names of the layers that LoRA can adapt, sorted: the matrices of the blocks, the embedding and the output matrix.
/// `None` if the files do not tell: quantized weights are packed, and other families have blocks of other names.
pub(crate) fn layer_names(folder: &Path) -> Option<Vec<String>> {
    let model = ModelShape::open(folder).ok()?.ok().filter(|model| !model.quantized)?;
    if !model.tensors.keys().any(|name| in_a_block(name)) {
        return None;
    }
    let matrices = model.tensors.values().filter(|tensor| tensor.shape.len() == 2);
    let names = matrices.filter_map(|tensor| tensor.name.strip_suffix(".weight")?.rsplit('.').next());
    let names: BTreeSet<String> = names.chain(["lm_head"]).map(String::from).collect();
    Some(names.into_iter().collect())
}

pub(crate) fn in_a_block(name: &str) -> bool {
    let mut parts = name.split('.');
    parts.by_ref().any(|part| part == "layers") && parts.next().is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Number of elements of a tensor.
pub(crate) fn element_count(tensor: &TensorHeader) -> u64 {
    tensor.shape.iter().map(|size| *size as u64).product()
}

/// The weight files: those in the index, or all safetensors files.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = entries(folder)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let files: Vec<PathBuf> = files.collect();
    let index = folder.join("model.safetensors.index.json");
    let Ok(text) = fs::read_to_string(&index) else { return Ok(files) };
    let index: Value = serde_json::from_str(&text)
        .map_err(|cause| error::model(format!("{} cannot be read: {cause}; copy or download it again", index.display())))?;
    let named: Vec<&str> = index["weight_map"].as_object().into_iter().flatten().filter_map(|(_, file)| file.as_str()).collect();
    Ok(files.into_iter().filter(|path| path.file_name().is_some_and(|name| named.iter().any(|named| name == *named))).collect())
}

/// Bytes of all .json, .jinja and .txt files in the folder.
fn small_files(folder: &Path) -> Result<u64> {
    let small = |path: &PathBuf| path.extension().is_some_and(|extension| ["json", "jinja", "txt"].iter().any(|known| extension == *known));
    Ok(entries(folder)?.iter().filter(|path| small(path)).filter_map(|path| Some(path.metadata().ok()?.len())).sum())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("the model's folder {} cannot be read", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}
