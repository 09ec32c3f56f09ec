//! Converts what is not in GGUF before it is served: the folder of a model, of an adapter with its base, or of an adapter alone.
//!
//! The files are kept in the cache, in `gguf/<hash>/`: the runs folder of a session `served` with the step `convert`, its log and its
//! proof. The hash is over the files that it is made of, the type, and the version of this program.

use std::path::{Path, PathBuf};

use anyhow::Result;
use log::Level;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::base::numbers::duration;
use crate::base::{cache, files, hashes, signals};
use crate::estimate::is_adapter;
use crate::params::interface::Interface;
use crate::python::adapter_base;
use crate::serve::served_names::{ServedName, folder_of};
use crate::serve::server_log::ServerLog;
use crate::session::{Status, Summary};
use crate::step::inputs::model_files;
use crate::step::{Request, run_step};
use crate::tasks::task_named;

const SESSION: &str = "served";
const STEP: &str = "convert";

/// The type of adapters: llama.cpp adds their matrices to the base's, so nothing is gained by less.
const ADAPTER_TYPE: &str = "f16";

pub(crate) struct GgufConversion<'a> {
    /// The type of models.
    pub(crate) outtype: &'a str,
    pub(crate) device: &'a str,
    pub(crate) offline: bool,
    pub(crate) log: &'a ServerLog,
}

impl GgufConversion<'_> {
    /// The model, or the adapter alone if `as_adapter`, with a GGUF file in place of a folder.
    ///
    /// # Errors
    /// Those of the conversion, among them kind `proof`; `interrupted`; `io` if the cache cannot be written.
    pub(crate) fn apply(&self, served: ServedName, as_adapter: bool) -> Result<ServedName> {
        if served.is_gguf() {
            return Ok(served);
        }
        let (task, outtype) = if as_adapter { ("convert_lora_to_gguf", ADAPTER_TYPE) } else { ("convert_model_to_gguf", self.outtype) };
        let task = task_named(task)?;
        let entry = cache::folder().join("gguf").join(self.key(&served.file, task.name, outtype)?);
        while !cache::hold(&entry) {
            files::create_folders(&entry)?;
        }
        let say = |text: &str| self.log.emit(Level::Info, text);
        if let Some(file) = made(&entry) {
            say(&format!("{} was converted to {outtype} before: {}", served.name, file.display()));
            return Ok(ServedName { file: file.to_string_lossy().into_owned(), ..served });
        }
        say(&format!("{} is not in GGUF: it is converted to {outtype}, and kept in the cache", served.name));
        let given = json!({task.input.name: served.file, "outtype": [outtype], "device": self.device, "offline": self.offline,
            "runs_dir": entry, "step": STEP, "overwrite": true});
        let given: Map<String, Value> = given.as_object().cloned().unwrap_or_default();
        let outcome = run_step(Request::new(task, Some(SESSION.to_string()), given, Interface::Rust));
        if let Some(error) = outcome.error {
            return Err(error);
        }
        let file = made(&entry).ok_or_else(|| anyhow::anyhow!("the conversion made no file in {}", entry.display()))?;
        say(&format!("{} was converted in {}: {}", served.name, duration(outcome.summary.duration_s), file.display()));
        // What does not fit beside it goes; the cache's limit is no reason not to serve.
        drop(cache::max_bytes().and_then(|most| cache::shrink(&cache::folder(), most)));
        Ok(ServedName { file: file.to_string_lossy().into_owned(), ..served })
    }

    /// What the file is made of.
    fn key(&self, model: &str, task: &str, outtype: &str) -> Result<String> {
        let mut all = Sha256::new();
        all.update(format!("{}{} {task} {outtype}\n", env!("CARGO_PKG_VERSION"), env!("PYRUST_NN_COMMIT")));
        let folder = folder_of(model, self.offline)?;
        let mut folders = vec![folder.clone()];
        if is_adapter(&folder) {
            let parents = std::fs::read_dir(folder.join("parents")).into_iter().flatten().flatten().map(|parent| parent.path());
            folders.extend(parents);
            folders.push(folder_of(&adapter_base(&folder)?, self.offline)?);
        }
        for (i, folder) in folders.iter().enumerate() {
            hashes::each_file(model_files(folder), &signals::check, &mut |path, hash| {
                all.update(format!("{i} {} {hash}\n", path.file_name().unwrap_or_default().display()));
            })?;
        }
        Ok(hashes::hexadecimal(all)[..32].to_string())
    }
}

/// The file of a conversion that succeeded.
fn made(entry: &Path) -> Option<PathBuf> {
    let summary = Summary::read(&entry.join(SESSION).join(STEP)).ok()??;
    let file = entry.join(SESSION).join(summary.outputs.get("gguf")?.get(0)?.as_str()?);
    (summary.status == Status::Success && file.is_file()).then_some(file)
}
