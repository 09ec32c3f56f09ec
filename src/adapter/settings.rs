//! PEFT's adapter_config.json of a LoRA adapter: ranks, scales and which modules it adapts.

use anyhow::Result;
use onig::Regex;
use serde_json::{Map, Value};

use crate::base::error;

/// The keys of PEFT 0.21's `LoraConfig`.
pub(super) const KNOWN: [&str; 42] = [
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "r",
    "target_modules",
    "exclude_modules",
    "lora_alpha",
    "lora_dropout",
    "fan_in_fan_out",
    "bias",
    "use_rslora",
    "modules_to_save",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "megatron_config",
    "megatron_core",
    "trainable_token_indices",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "use_dora",
    "velora_config",
    "alora_invocation_tokens",
    "use_qalora",
    "qalora_group_size",
    "monteclora_config",
    "layer_replication",
    "runtime_config",
    "lora_bias",
    "target_parameters",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "ensure_weight_tying",
];
/// Keys of other tools and versions that tell of the training, not of what the adapter computes.
const OF_TRAINING: [&str; 7] =
    ["lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "enable_lora", "use_merged_linear", "lora_name", "qalora_config"];

/// The settings of a LoRA adapter.
#[derive(Clone, Debug)]
pub(super) struct LoraSettings {
    pub json: Map<String, Value>,
    place: String,
}

impl LoraSettings {
    /// # Errors
    /// Kind `input` for a key that PEFT does not know and that is set, and for a rank or alpha that is not a number.
    pub fn new(json: Map<String, Value>, place: &str) -> Result<LoraSettings> {
        let meaningless = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        let unknown: Vec<&str> = json
            .iter()
            .filter(|(key, value)| !KNOWN.contains(&key.as_str()) && !OF_TRAINING.contains(&key.as_str()) && !meaningless(value))
            .map(|(key, _)| key.as_str())
            .collect();
        if !unknown.is_empty() {
            return Err(error::input(format!(
                "{place} sets {}, which is not known here and may change what the adapter computes; if it does not, remove it from the file",
                unknown.join(", ")
            )));
        }
        let settings = LoraSettings { json, place: place.to_string() };
        settings.number("r")?;
        settings.number("lora_alpha")?;
        Ok(settings)
    }

    fn number(&self, name: &str) -> Result<f64> {
        self.json.get(name).and_then(Value::as_f64).filter(|number| *number > 0.0).ok_or_else(|| {
            let found = self.json.get(name).map_or("is missing".to_string(), |value| format!("is {value}"));
            error::input(format!("{}: {name} {found}, so the strength of the adapter is unknown; set it as it was in training", self.place))
        })
    }

    pub fn on(&self, name: &str) -> bool {
        self.json.get(name) == Some(&Value::Bool(true))
    }

    /// The rank that a module must have.
    pub fn rank(&self, module: &str) -> Result<usize> {
        let own = self.pattern("rank_pattern", module)?;
        Ok(own.map_or_else(|| self.number("r"), Ok)? as usize)
    }

    /// The alpha of a module: what its pair is multiplied by, times its rank (or, for rank-stabilized LoRA, the root of it).
    pub fn alpha(&self, module: &str) -> Result<f64> {
        let own = self.pattern("alpha_pattern", module)?;
        own.map_or_else(|| self.number("lora_alpha"), Ok)
    }

    /// What a module's product is multiplied by: alpha / rank, or alpha / √rank (rsLoRA, arXiv 2312.03732).
    pub fn scale(&self, module: &str) -> Result<f64> {
        let (alpha, rank) = (self.alpha(module)?, self.rank(module)? as f64);
        Ok(if self.on("use_rslora") { alpha / rank.sqrt() } else { alpha / rank })
    }

    /// PEFT's rule: the first pattern that matches the end of the module's name.
    fn pattern(&self, name: &str, module: &str) -> Result<Option<f64>> {
        for (pattern, value) in self.json.get(name).and_then(Value::as_object).into_iter().flatten() {
            if self.matches(&format!(r"(.*\.)?({pattern})"), module)? {
                return Ok(value.as_f64());
            }
        }
        Ok(None)
    }

    fn matches(&self, pattern: &str, text: &str) -> Result<bool> {
        let regex = Regex::new(&format!(r"\A(?:{pattern})\z"))
            .map_err(|cause| error::input(format!("{}: {pattern} is not a regular expression: {}", self.place, cause.description())))?;
        Ok(regex.is_match(text))
    }

    /// Whether the module must have a pair, by PEFT's rules. `None` if the settings do not tell without PEFT.
    pub fn is_target(&self, module: &str) -> Result<Option<bool>> {
        let named = match self.json.get("target_modules") {
            Some(Value::String(all)) if all == "all-linear" => return Ok(None),
            Some(Value::String(pattern)) => self.matches(pattern, module)?,
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(|name| ends_with(module, name)),
            _ => return Ok(None),
        };
        let excluded = match self.json.get("exclude_modules") {
            Some(Value::String(pattern)) => self.matches(pattern, module)?,
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(|name| ends_with(module, name)),
            _ => false,
        };
        if !named || excluded {
            return Ok(Some(false));
        }
        let layers = match self.json.get("layers_to_transform") {
            Some(Value::Number(one)) => vec![one.as_u64()],
            Some(Value::Array(several)) => several.iter().map(Value::as_u64).collect(),
            _ => return Ok(Some(true)),
        };
        let patterns = match self.json.get("layers_pattern") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let parts: Vec<&str> = module.split('.').collect();
        let block = parts.windows(2).enumerate().find_map(|(at, pair)| {
            let named = if patterns.is_empty() { at > 0 } else { patterns.contains(&pair[0]) };
            if named { pair[1].parse::<u64>().ok() } else { None }
        });
        Ok(Some(block.is_some_and(|block| layers.contains(&Some(block)))))
    }
}

fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: Value) -> LoraSettings {
        let Value::Object(json) = value else { panic!() };
        LoraSettings::new(json, "adapter_config.json").unwrap()
    }

    #[test]
    fn ranks_and_scales_follow_the_patterns() {
        let given = settings(json!({"r": 8, "lora_alpha": 32, "rank_pattern": {"q_proj": 4, r"layers\.[01]\.mlp\.up_proj": 2},
            "alpha_pattern": {"q_proj": 6}}));
        let scale = |module: &str| given.scale(module).unwrap().to_string();
        assert_eq!(
            [scale("model.layers.0.self_attn.q_proj"), scale("model.layers.1.mlp.up_proj"), scale("model.layers.2.mlp.up_proj")],
            ["1.5", "16", "4"]
        );
        assert_eq!(settings(json!({"r": 16, "lora_alpha": 8, "use_rslora": true})).scale("x").unwrap().to_string(), "2");
    }

    #[test]
    fn targets_are_those_of_peft() {
        let is = |value: Value, module: &str| settings(value).is_target(module).unwrap();
        let q = "model.layers.1.self_attn.q_proj";
        let base = |more: Value| {
            let mut all = json!({"r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        assert_eq!(is(base(json!({})), q), Some(true));
        assert_eq!(is(base(json!({})), "model.layers.1.self_attn.seq_proj"), Some(false));
        assert_eq!(is(base(json!({"layers_to_transform": [0, 2]})), q), Some(false));
        assert_eq!(is(base(json!({"layers_to_transform": 1, "layers_pattern": "layers"})), q), Some(true));
        assert_eq!(is(base(json!({"exclude_modules": r".*layers\.1\..*"})), q), Some(false));
        assert_eq!(is(base(json!({"target_modules": r"^(?!.*visual).*(?:q_proj|k_proj)$"})), q), Some(true));
        assert_eq!(is(base(json!({"target_modules": "all-linear"})), q), None);
    }

    #[test]
    fn a_key_that_nobody_knows_is_refused_if_it_is_set() {
        let Value::Object(json) = json!({"r": 1, "lora_alpha": 1, "use_hyperlora": true, "later": null}) else { panic!() };
        let error = LoraSettings::new(json, "adapter_config.json").unwrap_err();
        assert!(error.to_string().contains("use_hyperlora") && !error.to_string().contains("later"), "{error}");
    }
}
