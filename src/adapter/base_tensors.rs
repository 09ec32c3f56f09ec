//! The modules of a base model and their shapes, from the headers of its safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::adapter::forms::text_name;
use crate::gguf;

/// The tensors of a base model under the names of its text model.
#[derive(Debug, Default)]
pub(super) struct BaseTensors {
    /// Shapes by the tensor's name.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// The file and the stored name of each tensor.
    pub places: BTreeMap<String, (PathBuf, String)>,
    /// Every module that has a tensor, and the modules that contain these.
    modules: BTreeSet<String>,
    /// Whether shapes tell the sizes of the layers. Quantized weights are packed.
    pub plain: bool,
    layers: Option<usize>,
}

impl BaseTensors {
    /// Reads the headers. `None` if the folder has no weights.
    ///
    /// # Errors
    /// Kind `model` if a file is damaged.
    pub fn read(folder: &Path) -> Result<Option<BaseTensors>> {
        let files = weight_files(folder);
        if files.is_empty() {
            return Ok(None);
        }
        let config: Value =
            std::fs::read(folder.join("config.json")).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let layers = [&config["text_config"], &config].into_iter().find_map(|config| config["num_hidden_layers"].as_u64());
        let mut base =
            BaseTensors { plain: config["quantization_config"].is_null(), layers: layers.map(|n| n as usize), ..BaseTensors::default() };
        for file in files {
            for tensor in gguf::tensors(&file)? {
                let name = text_name(&tensor.name);
                base.places.insert(name.clone(), (file.clone(), tensor.name));
                base.insert(name, tensor.shape);
            }
        }
        // A tied output matrix is not stored.
        if let Some(shape) = base.shapes.get("model.embed_tokens.weight").cloned()
            && !base.shapes.contains_key("lm_head.weight")
        {
            base.insert("lm_head.weight".into(), shape);
        }
        Ok(Some(base))
    }

    fn insert(&mut self, name: String, shape: Vec<usize>) {
        let mut module = name.as_str();
        while let Some((outer, _)) = module.rsplit_once('.') {
            if !self.modules.insert(outer.to_string()) {
                break;
            }
            module = outer;
        }
        self.shapes.insert(name, shape);
    }

    /// What the names of the blocks begin with.
    pub fn root(&self) -> &'static str {
        ["model.", "transformer."].into_iter().find(|root| self.shapes.keys().any(|name| name.starts_with(root))).unwrap_or("")
    }

    pub fn has_module(&self, module: &str) -> bool {
        let fused = module.trim_end_matches(".base_layer");
        self.modules.contains(fused)
    }

    /// The matrix of a linear layer or an embedding: rows and columns. `None` if it is none, or if the weights are packed.
    pub fn matrix(&self, module: &str) -> Option<(usize, usize)> {
        let shape = self.shapes.get(&format!("{module}.weight")).filter(|_| self.plain)?;
        if let [rows, columns] = shape[..] { Some((rows, columns)) } else { None }
    }

    /// The modules with a matrix that a causal language model loads for sure: of its blocks, and the output matrix.
    pub fn adaptable(&self) -> impl Iterator<Item = &str> {
        self.shapes.keys().filter_map(|name| name.strip_suffix(".weight")).filter(|module| {
            let block = module
                .split('.')
                .collect::<Vec<_>>()
                .windows(2)
                .find_map(|pair| if ["layers", "h", "blocks"].contains(&pair[0]) { pair[1].parse::<usize>().ok() } else { None });
            let loaded = !["visual.", "vision_tower.", "mtp.", ".experts."].iter().any(|part| module.contains(part));
            let in_range = block.is_none_or(|block| self.layers.is_none_or(|layers| block < layers));
            loaded && in_range && self.shapes[&format!("{module}.weight")].len() == 2
        })
    }
}

/// The safetensors files of a model's folder in transformers' order of preference: the single file, else those of the index, else all.
fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return vec![single];
    }
    let index: Option<Value> =
        std::fs::read(folder.join("model.safetensors.index.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(map) = index.as_ref().and_then(|index| index["weight_map"].as_object()) {
        let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        return names.into_iter().map(|name| folder.join(name)).filter(|file| file.is_file()).collect();
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "safetensors")).collect();
    files.sort();
    files
}
