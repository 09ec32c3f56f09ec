//! What was probably meant by a value that a parameter does not accept.

use serde_json::Value;

use crate::base::error::did_you_mean;
use crate::base::one_of::one_of;
use crate::params::param_type::ParamType;

/// Names that other programs use, and ours: the first that a parameter accepts.
const OTHER_WORDS: [(&str, [&str; 2]); 7] = [
    ("bfloat16", ["bf16", "bf16"]),
    ("float16", ["fp16", "f16"]),
    ("half", ["fp16", "f16"]),
    ("float32", ["fp32", "f32"]),
    ("float", ["fp32", "f32"]),
    ("gpu", ["cuda", "cuda"]),
    ("nvidia", ["cuda", "cuda"]),
];

/// The names that were probably meant by a wrong value, as words: `q4_k_m`, or `q4_0 or q4_1` if the wrong one is the beginning of several.
/// `None` if the parameter accepts other things than certain names, or none is similar.
pub(crate) fn similar_value(value_type: ParamType, value: &Value) -> Option<String> {
    let names: &[&str] = match value_type {
        ParamType::Choice(names)
        | ParamType::ChoiceList(names)
        | ParamType::Caseless(names)
        | ParamType::CaselessList { names, .. }
        | ParamType::Names(names) => names,
        ParamType::Processes { .. } => &["auto"],
        ParamType::Device => &["auto", "cpu", "cuda"],
        _ => return None,
    };
    let aliases: &[(&str, &str)] = if let ParamType::CaselessList { aliases, .. } = value_type { aliases } else { &[] };
    let caseless = matches!(value_type, ParamType::Caseless(_) | ParamType::CaselessList { .. });
    let is_known = |word: &str| names.contains(&word) || aliases.iter().any(|(alias, _)| *alias == word);
    let given: Vec<&str> = match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        Value::Object(map) => map.keys().map(String::as_str).collect(),
        _ => return None,
    };
    given
        .into_iter()
        .find(|word| !is_known(&if caseless { word.to_lowercase() } else { (*word).to_string() }))
        .and_then(|wrong| similar_name(wrong, names))
}

/// As [`similar_value`], of one word.
pub(crate) fn similar_name(wrong: &str, names: &[&str]) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', '.', ' '], "");
    let wrong = wrong.to_lowercase();
    if let Some(same) = names.iter().find(|name| plain(name) == plain(&wrong)) {
        return Some((*same).to_string());
    }
    let other = OTHER_WORDS.iter().filter(|(other, _)| *other == wrong).flat_map(|(_, ours)| ours).find(|ours| names.contains(ours));
    if let Some(ours) = other {
        return Some((*ours).to_string());
    }
    let longer: Vec<&str> = names.iter().copied().filter(|name| wrong.len() > 1 && name.starts_with(&wrong)).collect();
    match longer.len() {
        2.. => Some(one_of(&longer)),
        _ => did_you_mean(&wrong, names.iter().copied()).map(String::from),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gguf::{OUTTYPE, TENSOR_TYPE};
    use crate::params::param_type::DTYPE;

    #[test]
    fn types_written_otherwise_are_recognized() {
        for (value_type, wrong, meant) in [
            (OUTTYPE, json!("q4km"), Some("q4_k_m")),
            (OUTTYPE, json!(["q8_0", "Q4-K-M"]), Some("q4_k_m")),
            (OUTTYPE, json!(["q4_k", "q80"]), Some("q8_0")),
            (OUTTYPE, json!("q4"), Some("q4_0, q4_1, q4_k_s or q4_k_m")),
            (OUTTYPE, json!("fp16"), Some("f16")),
            (OUTTYPE, json!("zzz"), None),
            (OUTTYPE, json!(8), None),
            (TENSOR_TYPE, json!("q6k"), Some("q6_k")),
            (DTYPE, json!("bfloat16"), Some("bf16")),
            (DTYPE, json!("BF16"), Some("bf16")),
            (OUTTYPE, json!("float16"), Some("f16")),
            (ParamType::Device, json!("gpu"), Some("cuda")),
            (ParamType::Device, json!("cuda0"), Some("cuda")),
            (ParamType::Choice(&["truncate_left", "truncate_right", "error"]), json!("truncate"), Some("truncate_left or truncate_right")),
            (ParamType::Path, json!("q4km"), None),
        ] {
            assert_eq!(similar_value(value_type, &wrong).as_deref(), meant, "{wrong}");
        }
    }
}
