//! mlx-lm's adapters: `adapters.safetensors` and a configuration of its own. mlx-lm adds `scale · x · lora_a · lora_b` with lora_a `[in, rank]`
//! and lora_b `[rank, out]`, the transposes of PEFT's. Source: `mlx_lm/tuner/lora.py`, `dora.py` and `utils.py`.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::adapter::tensor_name::TensorRole;
use crate::base::error;

pub(super) const WEIGHTS: &str = "adapters.safetensors";

/// Whether a configuration is mlx-lm's.
pub(super) fn is_mlx(config: &Map<String, Value>) -> bool {
    !config.contains_key("peft_type") && (config.contains_key("fine_tune_type") || config.contains_key("lora_parameters"))
}

/// PEFT's configuration of the same adapter, without target modules. `place` names the file in errors.
pub(super) fn peft_settings(config: &Map<String, Value>, place: &str) -> Result<Map<String, Value>> {
    let tuning = config.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
    if tuning != "lora" && tuning != "dora" {
        return Err(error::input(format!(
            "{place} is mlx-lm's with fine_tune_type {tuning}: it holds whole weights, not low-rank pairs; fuse it with mlx_lm.fuse and give the fused model"
        )));
    }
    let own = config.get("lora_parameters").and_then(Value::as_object);
    let number = |name: &str| own.and_then(|own| own.get(name)).and_then(Value::as_f64);
    let (Some(rank), Some(scale)) = (number("rank"), number("scale")) else {
        return Err(error::input(format!(
            "{place} is mlx-lm's, but its lora_parameters lack rank or scale, so its strength is unknown; add them as they were in training"
        )));
    };
    if number("alpha").is_some_and(|alpha| (alpha - rank).abs() > f64::EPSILON) {
        return Err(error::input(format!(
            "{place} is mlx-lm's with an alpha beside the scale: older versions multiply by scale * alpha / rank, newer ones by scale alone; \
             write the factor that was used as lora_parameters.scale and remove alpha"
        )));
    }
    let alpha = scale * rank;
    let alpha = if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) };
    let Value::Object(settings) = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.get("model"),
        "r": rank as u64,
        "lora_alpha": alpha,
        "lora_dropout": number("dropout").unwrap_or(0.0),
        "use_dora": tuning == "dora",
        "bias": "none",
        "init_lora_weights": true,
        "inference_mode": true,
    }) else {
        unreachable!("an object")
    };
    Ok(settings)
}

/// The module and the role of a tensor, by its name. `None` if mlx-lm does not write such a name.
pub(super) fn parse(name: &str) -> Option<(String, TensorRole)> {
    let (module, last) = name.rsplit_once('.')?;
    let role = match last {
        "lora_a" => TensorRole::A,
        "lora_b" => TensorRole::B,
        "m" => TensorRole::Magnitude,
        _ => return None,
    };
    Some((module.to_string(), role))
}

/// Whether `module` must have a pair by mlx-lm's configuration: one of `keys` in one of the last `num_layers` blocks. `None` if it lists no keys.
pub(super) fn is_target(config: &Map<String, Value>, module: &str, layers: Option<usize>) -> Option<bool> {
    let keys = config.get("lora_parameters")?.get("keys")?.as_array()?;
    let adapted = config.get("num_layers").and_then(Value::as_i64).and_then(|adapted| usize::try_from(adapted).ok());
    let (_, after) = module.split_once(".layers.")?;
    let (block, key) = after.split_once('.')?;
    let first = layers?.saturating_sub(adapted.unwrap_or(usize::MAX));
    Some(block.parse::<usize>().ok()? >= first && keys.iter().any(|wanted| wanted == key))
}
