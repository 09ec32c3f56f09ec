//! Names of models on the Hugging Face hub, and the hub's cache on this machine.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::base::error;

/// The folder of a downloaded Hub model with its tokenizer, in the Hub's cache (`HF_HUB_CACHE`, `HF_HOME`). `None` if it is not there.
pub(crate) fn downloaded(name: &str) -> Option<PathBuf> {
    let model = hub_cache(name)?;
    let commit = std::fs::read_to_string(model.join("refs/main")).ok()?;
    let folder = model.join("snapshots").join(commit.trim());
    folder.join("tokenizer.json").is_file().then_some(folder)
}

/// The folder of a Hub model in the Hub's cache, which need not exist.
fn hub_cache(name: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // As in huggingface_hub's `constants.py`.
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let hub = || Some(set("HF_HOME").or_else(|| Some(cache()?.join("huggingface")))?.join("hub"));
    let folder = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).or_else(hub)?;
    Some(folder.join(format!("models--{}", name.replace('/', "--"))))
}

/// Refuses a model that would have to be downloaded, if that is forbidden. Python starts only for one of which something is there.
///
/// # Errors
/// Kind `model`.
pub(crate) fn check_downloaded(name: &str, offline: bool) -> Result<()> {
    if !offline || Path::new(name).exists() || !is_hub_name(name) || is_in_hub_cache(name) {
        return Ok(());
    }
    Err(error::model(format!(
        "model {name} is not downloaded, and offline forbids the download; run once without offline, or give the model's folder"
    )))
}

/// Whether something of a Hub model is in the Hub's cache. Whether it is enough, Python tells. True if the cache's place is not known.
fn is_in_hub_cache(name: &str) -> bool {
    hub_cache(name).is_none_or(|folder| folder.is_dir())
}

/// Whether `name` is a valid Hub name: `name` or `owner/name`.
pub(super) fn is_hub_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let mut parts = name.split('/');
    matches!((parts.next(), parts.next(), parts.next()), (Some(a), b, None) if part(a) && b.is_none_or(part))
}
