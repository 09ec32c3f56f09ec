//! Size of a LoRA adapter: for a layer of `i` inputs and `o` outputs, A has `r * i` elements and B has `o * r` (arXiv 2106.09685).

use crate::base::error::did_you_mean;
use crate::estimate::estimate_settings::EstimateSettings;
use crate::estimate::model_shape::{ModelShape, linear_layers};
use crate::params::lora_defaults;

/// Layers that choose experts. LoRA does not adapt them.
const ROUTERS: [&str; 2] = ["gate", "shared_expert_gate"];

/// The layers that LoRA adapts.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub rank: u64,
    /// Input and output features of each layer.
    pub layers: Vec<(u64, u64)>,
    /// Whether the output matrix (`lm_head`) is adapted too.
    pub head: bool,
}

impl Adapter {
    /// Chooses the layers as training does (`lora_target_modules` in `pyrust_nn.models.lora_targets`): the given ones, otherwise every linear
    /// layer of the transformer blocks. The error is the message with which training would end.
    pub(crate) fn of(model: &ModelShape, settings: &EstimateSettings) -> Result<Adapter, String> {
        let rank = settings.lora_rank.unwrap_or(u64::from(lora_defaults::RANK));
        // Loading fuses the experts of a layer into one tensor, which LoRA does not adapt.
        let blocks: Vec<(&str, u64, u64)> = linear_layers(model).filter(|(path, ..)| !path.contains(".experts.")).collect();
        let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
        let layers: Vec<(u64, u64)> = match &settings.target_modules {
            Some(targets) => {
                let others = ["model.embed_tokens", "lm_head"].into_iter().filter_map(|path| {
                    let tied = if path == "lm_head" { "model.embed_tokens.weight" } else { "" };
                    let tensor = model.tensors.get(&format!("{path}.weight")).or_else(|| model.tensors.get(tied))?;
                    // A and B of an embedding together have as many elements as those of an output matrix of the same shape.
                    Some((path, tensor.shape[1] as u64, tensor.shape[0] as u64))
                });
                let all: Vec<(&str, u64, u64)> = blocks.into_iter().chain(others).collect();
                let matches = |path: &str, target: &str| path == target || path.ends_with(&format!(".{target}"));
                if let Some(unknown) = targets.iter().find(|target| !all.iter().any(|(path, ..)| matches(path, target))) {
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
                all.iter().filter(|(path, ..)| targets.iter().any(|target| matches(path, target))).map(|(_, i, o)| (*i, *o)).collect()
            }
            None => {
                let chosen = blocks.iter().filter(|(path, ..)| !ROUTERS.contains(&leaf(path).as_str()));
                chosen.map(|(_, i, o)| (*i, *o)).collect()
            }
        };
        if layers.is_empty() {
            return Err("the model has no linear layers in its transformer blocks; set target_modules".into());
        }
        let head = settings.target_modules.iter().flatten().any(|target| target == "lm_head");
        Ok(Adapter { rank, layers, head })
    }

    pub(crate) fn parameters(&self) -> u64 {
        self.layers.iter().map(|(inputs, outputs)| self.rank * (inputs + outputs)).sum()
    }
}
