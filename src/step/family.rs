//! Whether a model is of another family than Qwen, and what that means here.

use std::path::{Path, PathBuf};

use crate::estimate::read_config;
use crate::session::hub_names::downloaded;

/// Parts of the names of other families' models on the Hub.
const OTHERS: [&str; 18] = [
    "llama",
    "mistral",
    "mixtral",
    "gemma",
    "falcon",
    "olmo",
    "granite",
    "smollm",
    "internlm",
    "chatglm",
    "glm-",
    "bloom",
    "pythia",
    "starcoder",
    "vicuna",
    "gpt-oss",
    "gpt2",
    "phi-",
];

/// What there is to say of a model of another family; `None` for Qwen, and for a model of which neither files nor name tell. `shown`: the
/// model as the user gave it.
pub(crate) fn other_family(shown: &str, model: &str) -> Option<String> {
    let folder = if Path::new(model).is_dir() { Some(PathBuf::from(model)) } else { downloaded(model) };
    let by_files = folder.and_then(|folder| Some(read_config(&folder)?["model_type"].as_str()?.to_lowercase()));
    let family = match by_files {
        Some(kind) if kind.starts_with("qwen") => return None,
        Some(kind) => kind,
        None => {
            let name = model.to_lowercase();
            let found = OTHERS.iter().find(|other| name.contains(*other)).filter(|_| !name.contains("qwen"))?;
            found.trim_end_matches('-').to_string()
        }
    };
    Some(format!(
        "{shown} is of the family {family}, not Qwen: training, merging and answers go by its class in transformers, which was compared on \
         small models of some families only, and it cannot be converted to GGUF, so not for llama.cpp, Ollama and serve"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_known_by_the_files_and_else_by_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("llama-of-mine");
        std::fs::create_dir(&local).unwrap();
        let of_files = |kind: &str| {
            std::fs::write(local.join("config.json"), format!("{{\"model_type\": \"{kind}\"}}")).unwrap();
            other_family("mine", local.to_str().unwrap())
        };
        assert_eq!(of_files("qwen3"), None, "the files decide");
        assert!(of_files("gemma3_text").unwrap().contains("of the family gemma3_text"));
        for (name, family) in [
            ("meta-llama/Meta-Llama-3-8B-Instruct", Some("llama")),
            ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", Some("llama")),
            ("microsoft/Phi-4-mini-instruct", Some("phi")),
            ("Qwen/Qwen3-0.6B", None),
            ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", None),
            ("someone/my-model", None),
            ("builtin:tiny", None),
        ] {
            let found = other_family(name, name);
            assert_eq!(found.is_some(), family.is_some(), "{name}: {found:?}");
            assert!(found.is_none_or(|text| text.contains(&format!("of the family {},", family.unwrap()))), "{name}");
        }
    }
}
