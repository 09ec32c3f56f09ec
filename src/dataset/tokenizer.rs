//! Finds the folder with the tokenizer of a model or an adapter.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::base::error;
use crate::python;
use crate::session::hub_names::{check_downloaded, downloaded};

const TOKENIZER: &str = "tokenizer.json";
const TEMPLATE: &str = "chat_template.jinja";

/// The folder with the tokenizer and chat template of `model`: a folder, `builtin:tiny` or a hub name.
///
/// The rule, in Rust and in Python: a folder with a tokenizer.json has its own tokenizer. An adapter without one uses its base's
/// tokenizer, by the same rule. Any other folder is returned unchanged, because transformers can read older kinds of tokenizers.
/// Python makes the tiny model, downloads what is missing in the hub's cache, and finds an adapter's base.
///
/// # Errors
/// Kind `model`: there is no such model, or an adapter's base is missing. Kind `setup`: Python is needed and not available.
pub(crate) fn tokenizer_folder(model: &str, offline: bool) -> Result<PathBuf> {
    if let Some(own) = own_tokenizer(model) {
        return Ok(own);
    }
    let here = Path::new(model).is_dir();
    if let Some(folder) = downloaded(model).filter(|_| !here) {
        debug!("{model} is {}", folder.display());
        return Ok(folder);
    }
    let folder = if here {
        PathBuf::from(model)
    } else {
        check_downloaded(model, offline)?;
        python::model_folder(model, offline)?
    };
    if folder.join("adapter_config.json").is_file() && !folder.join(TOKENIZER).is_file() {
        check_template(&folder)?;
        return tokenizer_folder(&python::adapter_base(&folder)?, offline);
    }
    Ok(folder)
}

/// Refuses an adapter with a template of its own but without a tokenizer: whether the base's tokenizer fits it is not known.
///
/// # Errors
/// Kind `input`.
pub(crate) fn check_template(adapter: &Path) -> Result<()> {
    if adapter.join(TEMPLATE).is_file() && !adapter.join(TOKENIZER).is_file() {
        return Err(error::input(format!(
            "adapter {} has {TEMPLATE} and no {TOKENIZER}, so its template would not be used; copy the tokenizer's files of its base into \
             the folder, or remove the template",
            adapter.display()
        )));
    }
    Ok(())
}

/// The rule's first part, which needs no Python: the folder itself, if it has a tokenizer.json.
pub(crate) fn own_tokenizer(model: &str) -> Option<PathBuf> {
    let folder = Path::new(model);
    folder.join(TOKENIZER).is_file().then(|| folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_tokenizer_or_without_an_adapter_is_returned_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().to_str().unwrap();
        assert_eq!(own_tokenizer(name), None);
        assert_eq!(tokenizer_folder(name, true).unwrap(), folder.path());
        for file in ["adapter_config.json", TOKENIZER] {
            std::fs::write(folder.path().join(file), "{}").unwrap();
        }
        assert_eq!(own_tokenizer(name).as_deref(), Some(folder.path()));
        assert_eq!(tokenizer_folder(name, true).unwrap(), folder.path());
    }
}
