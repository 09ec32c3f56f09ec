//! What computes the answers: llama.cpp with files in GGUF, or the server of another project with folders.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error::{self, Error, Kind};
use crate::params::interface::Interface;
use crate::python::{adapter_base, check_llama_server, check_served_folders, first_model_for};
use crate::serve::served_names::{ServedName, folder_of};

/// The names of the engines. The first is the default.
pub(crate) const ENGINES: &[&str] = &["llama", "vllm", "transformers"];

#[derive(Clone, Debug)]
pub(crate) struct ServingEngine {
    name: String,
    /// A llama-server in place of the built-in llama.cpp.
    llama_server: Option<String>,
}

impl ServingEngine {
    /// The engine that the parameters name.
    ///
    /// # Errors
    /// Kind `usage`: a parameter belongs to another engine.
    pub(crate) fn of(params: &Map<String, Value>, interface: Interface) -> Result<ServingEngine> {
        let text = |name: &str| params.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(ToString::to_string);
        let engine = ServingEngine { name: text("engine").unwrap_or_default(), llama_server: text("llama_server") };
        if !engine.is_llama() && engine.llama_server.is_some() {
            let (server, name) = (interface.spell("llama_server"), interface.spell("engine"));
            return Err(error::usage(format!("{server} is llama.cpp's, and {name} is {}; leave one out", engine.name)));
        }
        // Without an environment one is made when the models start.
        let checked = engine.llama_server().map_or(Ok(()), check_llama_server);
        checked.or_else(|cause| if Error::of(&cause).kind == Kind::Setup { Ok(()) } else { Err(cause) })?;
        Ok(engine)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn llama_server(&self) -> Option<&str> {
        self.llama_server.as_deref()
    }

    /// Whether it is llama.cpp, which serves files in GGUF.
    pub(crate) fn is_llama(&self) -> bool {
        self.name == ENGINES[0]
    }

    /// The model's name in requests to the engine, if it is not ours.
    pub(crate) fn upstream_name(&self, model: &ServedName) -> Option<String> {
        (self.name == "transformers").then(|| model.file.clone())
    }

    /// The folders of models and adapters for an engine that serves such, checked.
    ///
    /// # Errors
    /// Kinds `usage`, `model` and `input`: the engine cannot serve them. Kind `setup`: it is not installed.
    pub(crate) fn folders(
        &self,
        models: Vec<ServedName>,
        adapters: Vec<ServedName>,
        offline: bool,
    ) -> Result<(Vec<ServedName>, Vec<ServedName>)> {
        let folder = |one: ServedName| -> Result<ServedName> {
            if one.is_gguf() {
                let message = format!("engine {} serves folders, and {} is in GGUF; serve it with engine llama", self.name, one.file);
                return Err(error::usage(message));
            }
            let folder = folder_of(&one.file, offline)?.canonicalize()?;
            Ok(ServedName { file: folder.to_string_lossy().into_owned(), ..one })
        };
        let models: Vec<ServedName> = models.into_iter().map(folder).collect::<Result<_>>()?;
        let adapters: Vec<ServedName> = adapters.into_iter().map(folder).collect::<Result<_>>()?;
        for (model, adapters) in self.adapters_by_model(&models, adapters.clone())?.iter().enumerate() {
            let files: Vec<&str> = adapters.iter().map(|adapter| adapter.file.as_str()).collect();
            check_served_folders(&self.name, &models[model].file, &files)?;
        }
        Ok((models, adapters))
    }

    /// The adapters of each model.
    ///
    /// # Errors
    /// Kind `input`: one fits none of several models. With one model, the engine refuses what does not fit, with its reason.
    pub(crate) fn adapters_by_model(&self, models: &[ServedName], adapters: Vec<ServedName>) -> Result<Vec<Vec<ServedName>>> {
        let files: Vec<String> = models.iter().map(|model| model.file.clone()).collect();
        let mut of_model: Vec<Vec<ServedName>> = vec![Vec::new(); models.len()];
        for adapter in adapters {
            let index = match (models.len(), self.is_llama()) {
                (1, _) => 0,
                (_, true) => first_model_for(&adapter.file, &files)?,
                (_, false) => {
                    let base = adapter_base(Path::new(&adapter.file))?;
                    let base = Path::new(&base).canonicalize().map_or(base, |path| path.to_string_lossy().into_owned());
                    let named = files.iter().position(|file| *file == base);
                    named.ok_or_else(|| error::input(format!("the base of {} is {base}, which is none of the models", adapter.file)))?
                }
            };
            of_model[index].push(adapter);
        }
        Ok(of_model)
    }
}
