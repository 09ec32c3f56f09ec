//! The size of a LoRA adapter: for a layer of `i` inputs and `o` outputs, A has `r * i` numbers and B `o * r` (arXiv 2106.09685).

use crate::base::error::did_you_mean;
use crate::estimate::model::{Model, linear_layers};
use crate::estimate::settings::Settings;
use crate::params::lora_defaults;

/// What chooses experts instead of computing.
const ROUTERS: [&str; 2] = ["gate", "shared_expert_gate"];

/// The layers that get an adapter.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub rank: u64,
    /// Inputs and outputs of each.
    pub layers: Vec<(u64, u64)>,
    /// Whether the output matrix is one of them.
    pub head: bool,
}

impl Adapter {
    /// As training chooses them (`lora_target_modules` in `pyrust_nn.models.lora_targets`): what is asked for, else every linear layer of the blocks.
    /// The error is the sentence that training would end with.
    pub(crate) fn of(model: &Model, settings: &Settings) -> Result<Adapter, String> {
        let rank = settings.lora_rank.unwrap_or_else(|| lora_defaults::RANK.into());
        // Experts are fused into one tensor a layer when they are loaded, and get no adapter.
        let blocks: Vec<(&str, u64, u64)> = linear_layers(model).filter(|(path, ..)| !path.contains(".experts.")).collect();
        let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
        let layers: Vec<(u64, u64)> = match &settings.target_modules {
            Some(targets) => {
                let others = ["model.embed_tokens", "lm_head"].into_iter().filter_map(|path| {
                    let tied = if path == "lm_head" { "model.embed_tokens.weight" } else { "" };
                    let tensor = model.tensors.get(&format!("{path}.weight")).or_else(|| model.tensors.get(tied))?;
                    // An embedding's A and B have together as many numbers as those of an output matrix of the same shape.
                    Some((path, tensor.shape[1] as u64, tensor.shape[0] as u64))
                });
                let all: Vec<(&str, u64, u64)> = blocks.into_iter().chain(others).collect();
                let is = |path: &str, target: &str| path == target || path.ends_with(&format!(".{target}"));
                if let Some(unknown) = targets.iter().find(|target| !all.iter().any(|(path, ..)| is(path, target))) {
                    let mut known: Vec<String> = all.iter().map(|(path, ..)| leaf(path)).collect();
                    known.sort();
                    known.dedup();
                    let near = did_you_mean(unknown, known.iter().map(String::as_str));
                    let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                    return Err(format!(
                        "target_modules: the model has no layer {unknown:?} that LoRA can adapt; it has {}{near}",
                        known.join(", ")
                    ));
                }
                all.iter().filter(|(path, ..)| targets.iter().any(|target| is(path, target))).map(|(_, i, o)| (*i, *o)).collect()
            }
            None => {
                let chosen = blocks.iter().filter(|(path, ..)| !ROUTERS.contains(&leaf(path).as_str()));
                chosen.map(|(_, i, o)| (*i, *o)).collect()
            }
        };
        if layers.is_empty() {
            return Err("the model has no linear layers in its blocks; give target_modules".into());
        }
        let head = settings.target_modules.iter().flatten().any(|target| target == "lm_head");
        Ok(Adapter { rank, layers, head })
    }

    pub(crate) fn parameters(&self) -> u64 {
        self.layers.iter().map(|(inputs, outputs)| self.rank * (inputs + outputs)).sum()
    }
}
