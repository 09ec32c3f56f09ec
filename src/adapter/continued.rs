//! Whether an adapter can be trained further with the parameters of a step: those that it was made with cannot be changed.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::adapter::mlx::is_mlx;
use crate::adapter::reading::CONFIG;
use crate::base::error;

/// Our parameters and PEFT's names for them.
const FIXED: [(&str, &str); 5] = [
    ("lora_rank", "r"),
    ("lora_alpha", "lora_alpha"),
    ("target_modules", "target_modules"),
    ("use_rslora", "use_rslora"),
    ("use_dora", "use_dora"),
];

/// Refuses parameters that differ from those of the adapter `given`, whose PEFT settings are `settings`. Parameters that are not set are
/// taken from the adapter.
///
/// # Errors
/// Kind `input`.
pub(crate) fn check_continued(given: &str, settings: &Map<String, Value>, params: &Map<String, Value>) -> Result<()> {
    let differing: Vec<String> = FIXED
        .into_iter()
        .filter_map(|(name, key)| Some((name, params.get(name).filter(|ours| !ours.is_null())?, setting(settings, key)?)))
        .filter(|(_, ours, theirs)| comparable(ours) != comparable(theirs))
        .map(|(name, ours, theirs)| format!("{name} is {theirs} in the checkpoint, not {ours}"))
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(error::input(format!(
        "checkpoint_lora: {given} cannot be continued with these parameters: {}. Set them as in the checkpoint (rank, alpha and modules may be \
         left out), start a new adapter, or set checkpoint_mode to stack for a new one on top of it",
        differing.join("; ")
    )))
}

/// The same before the adapter is read, as far as the configuration in its folder tells: mlx-lm's has other names, and a damaged one is
/// refused when it is read.
///
/// # Errors
/// Kind `input`.
pub(crate) fn check_continued_folder(given: &str, folder: &Path, params: &Map<String, Value>) -> Result<()> {
    let settings = std::fs::read(folder.join(CONFIG)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    match settings {
        Some(settings) if !is_mlx(&settings) => check_continued(given, &settings, params),
        _ => Ok(()),
    }
}

/// A setting of the adapter; a switch that is not there is off.
fn setting<'a>(settings: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let found = settings.get(key).filter(|value| !value.is_null());
    if key.starts_with("use_") { found.or(Some(&Value::Bool(false))) } else { found }
}

/// `16` and `16.0` are the same rank; the order of modules has no meaning.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(names) => {
            let mut names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names.into()
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(params: Value) -> Option<String> {
        let settings = json!({"r": 4, "lora_alpha": 8.0, "target_modules": ["v_proj", "q_proj"], "use_dora": true});
        let error = check_continued("a", settings.as_object().unwrap(), params.as_object().unwrap()).err()?;
        let text = error.to_string();
        Some(text.split_once("these parameters: ").unwrap().1.split_once(". Set them").unwrap().0.to_string())
    }

    #[test]
    fn what_differs_is_named_and_what_is_not_set_is_taken_from_the_adapter() {
        assert_eq!(refused(json!({})), None);
        let same = json!({"lora_rank": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "use_rslora": false, "use_dora": true});
        assert_eq!(refused(same), None);
        assert_eq!(refused(json!({"lora_rank": null, "lora_dropout": 0.5})), None);
        assert_eq!(
            refused(json!({"lora_rank": 16, "lora_alpha": 32, "use_rslora": true, "use_dora": false})).unwrap(),
            "lora_rank is 4 in the checkpoint, not 16; lora_alpha is 8.0 in the checkpoint, not 32; use_rslora is false in the checkpoint, \
             not true; use_dora is true in the checkpoint, not false"
        );
        assert_eq!(
            refused(json!({"target_modules": ["q_proj"]})).unwrap(),
            r#"target_modules is ["v_proj","q_proj"] in the checkpoint, not ["q_proj"]"#
        );
    }

    #[test]
    fn an_adapter_of_mlx_is_compared_when_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"fine_tune_type": "dora", "lora_parameters": {"rank": 8}});
        std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
        let params = json!({"lora_rank": 4, "use_dora": true});
        assert!(check_continued_folder("a", folder.path(), params.as_object().unwrap()).is_ok());
    }
}
