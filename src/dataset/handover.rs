//! The data sets of one step: each is prepared once and passed to the script.
//!
//! A step prepares its data before its script is called if possible, so that most errors in the data need no import of torch.
//! `session.dataset()` returns the same result, or prepares the data then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use log::Level;
use serde_json::{Map, Value};

use crate::base::progress::Bytes;
use crate::base::{cache, error, logging, progress};
use crate::data::{Dataset, NoTransformers, Options, Transformers};
use crate::dataset::added_tokens::with_added_tokens;
use crate::dataset::open::{DATASETS, IMATRIX_DATASET, Sources, added_tokens, paths};
use crate::dataset::tokenizer::{check_template, own_tokenizer, tokenizer_folder};
use crate::params::interface::Interface;
use crate::params::param::MODEL;
use crate::params::prelude::*;
use crate::params::validate::resolve;
use crate::python::PythonTransformers;
use crate::session::artifact::{ArtifactKind, resolve_artifact};
use crate::{data, python};

data_params! {
    [params]
    /// The parameters of a user's own script that determine its rows.
    RowParams {
    }
}

/// The data sets that a step's parameters name. Each is prepared, and logged, once.
#[derive(Debug)]
pub(crate) struct StepDatasets {
    /// Resolved; the model is a folder or a name that Python can load.
    params: Map<String, Value>,
    /// For the model of a user's own script: the folder of all sessions, and the session.
    runs: PathBuf,
    session: String,
    /// The result for the script, by the name of the parameter. Locked during preparation, so that no data set is prepared twice.
    prepared: Mutex<BTreeMap<String, Value>>,
}

impl StepDatasets {
    pub(crate) fn new(mut params: Map<String, Value>, runs: &Path, session: &str) -> StepDatasets {
        if params.get(IMATRIX_DATASET).is_some_and(Value::is_string) {
            let defaults = RowParams::params().iter().map(|param| (param.name.to_string(), (param.default)()));
            for (name, value) in defaults.chain([("overlong".to_string(), "truncate_right".into())]) {
                params.insert(name, value);
            }
        }
        StepDatasets { params, runs: runs.to_path_buf(), session: session.to_string(), prepared: Mutex::default() }
    }

    /// Before the script runs: prepares the data set of the parameter `name` if that needs no Python, otherwise only checks its files.
    /// Returns the files.
    ///
    /// # Errors
    /// Those of [`data::prepare_dataset`].
    pub(crate) fn prepare_ahead(&self, name: &str) -> Result<Vec<PathBuf>> {
        let sources = Sources::named(&paths(&self.params[name]), self.offline())?;
        let files = sources.files.clone();
        if sources.needs_python() {
            return Ok(files);
        }
        let options = options(&self.params, name)?;
        match own_tokenizer(tokenizer_owner(&self.params)?).filter(|folder| data::is_native(folder)) {
            None => drop(data::validate_files(&files, &options.layout)?),
            Some(model_folder) => {
                let model_folder = with_added_tokens(&model_folder, &added_tokens(&self.params))?;
                let dataset = Dataset { label: label(name), ..sources.dataset(model_folder, options) };
                let value = prepare(&dataset, &NoTransformers, &|| Ok(()))?;
                drop(self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), value));
            }
        }
        Ok(files)
    }

    /// The result of `session.dataset(name)`: a prepared data set, and the `options` that determined its rows. Call it without the
    /// GIL. `script`: the parameters of a user's own script, known only after Python has read its PARAMS.
    ///
    /// # Errors
    /// Kind `input` if the parameters name no such data set or no model; also those of [`data::prepare_dataset`].
    pub(crate) fn get(&self, name: &str, script: Option<&Map<String, Value>>) -> Result<Value> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = prepared.get(name) {
            return Ok(value.clone());
        }
        check_name(name, script.unwrap_or(&self.params), script.is_some())?;
        let own = script.map(|script| self.resolve_own(name, script)).transpose()?;
        let params = own.as_ref().unwrap_or(&self.params);
        let model_folder = with_added_tokens(&tokenizer_folder(tokenizer_owner(params)?, self.offline())?, &added_tokens(params))?;
        let options = options(params, name)?;
        let sources = Sources::named(&paths(&params[name]), self.offline())?.converted(&options)?;
        let dataset = Dataset { label: label(name), ..sources.dataset(model_folder, options) };
        let value = prepare(&dataset, &PythonTransformers, &python::check_signals)?;
        prepared.insert(name.to_string(), value.clone());
        Ok(value)
    }

    fn offline(&self) -> bool {
        self.params.get("offline") == Some(&Value::Bool(true))
    }

    /// A user's own script's parameters of a data set, checked and completed as for `prepare_dataset`; other parameters are ignored.
    fn resolve_own(&self, name: &str, script: &Map<String, Value>) -> Result<Map<String, Value>> {
        let mut given = script.clone();
        // A script may have only the parameter with the second name.
        given.insert(DATASETS[0].to_string(), given[name].clone());
        given.retain(|given, _| given == MODEL.name || RowParams::params().iter().any(|param| param.name == given));
        let mut params = resolve("session.dataset()", std::iter::once(&MODEL).chain(RowParams::params()), given, Interface::Python)?;
        params.insert(MODEL.name.into(), resolve_artifact(model(&params), &self.runs, &self.session, ArtifactKind::Model)?.into());
        params.insert(name.to_string(), params[DATASETS[0]].clone());
        Ok(params)
    }
}

fn model(params: &Map<String, Value>) -> &str {
    params.get(MODEL.name).and_then(Value::as_str).unwrap_or_default()
}

/// Whose tokenizer and chat template count: those of the adapter that is trained further if it has its own, else the model's.
fn tokenizer_owner(params: &Map<String, Value>) -> Result<&str> {
    let Some(adapter) = params.get("checkpoint_lora").and_then(Value::as_str) else { return Ok(model(params)) };
    check_template(Path::new(adapter))?;
    Ok(if own_tokenizer(adapter).is_some() { adapter } else { model(params) })
}

fn check_name(name: &str, params: &Map<String, Value>, own_script: bool) -> Result<()> {
    let call = if name == DATASETS[0] { "session.dataset()".to_string() } else { format!("session.dataset({name:?})") };
    if !DATASETS.contains(&name) && name != IMATRIX_DATASET {
        return Err(error::input(format!("{call}: there is no data set of this name; give {}", DATASETS.join(" or "))));
    }
    for needed in [name, MODEL.name] {
        match params.get(needed) {
            Some(value) if !value.is_null() => {}
            Some(_) => return Err(error::input(format!("{call}: the parameter {needed} is not set; set it"))),
            None if own_script => {
                return Err(error::input(format!(
                    "{call} uses the parameters {name} and {}, but this script has no parameter {needed}; add it to PARAMS",
                    MODEL.name
                )));
            }
            None => return Err(error::input(format!("{call}: this task has no parameter {needed}"))),
        }
    }
    Ok(())
}

/// What precedes the findings in a data set.
fn label(name: &str) -> &'static str {
    match name {
        "eval_dataset_path" => "evaluation data: ",
        IMATRIX_DATASET => "imatrix: ",
        _ => "",
    }
}

/// `eval_split` applies to the training data only; an evaluation set is not split.
fn options(params: &Map<String, Value>, name: &str) -> Result<Options> {
    let mut options = Options::of(params)?;
    if name != DATASETS[0] {
        options.eval_split = 0.0;
    }
    Ok(options)
}

fn prepare(dataset: &Dataset, transformers: &dyn Transformers, check: &dyn Fn() -> Result<()>) -> Result<Value> {
    let mut bytes = Bytes::new("prepare");
    for warning in &dataset.warnings {
        logging::emit_once(Level::Warn, module_path!(), dataset.label, warning);
    }
    let prepared = data::prepare_dataset(dataset, &cache::folder(), transformers, &mut |done, total| {
        bytes.report(done, total);
        check()
    });
    progress::clear();
    let mut value = serde_json::to_value(prepared?)?;
    value["options"] = serde_json::to_value(&dataset.options)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(params: Value, name: &str, script: Option<Value>) -> String {
        let datasets = StepDatasets::new(params.as_object().unwrap().clone(), Path::new("runs"), "s");
        let script = script.map(|script| script.as_object().unwrap().clone());
        let error = datasets.get(name, script.as_ref()).unwrap_err();
        assert_eq!(error::Error::of(&error).kind, error::Kind::Input, "{error}");
        error.to_string()
    }

    #[test]
    fn a_data_set_that_no_parameter_names_is_refused_and_the_message_says_what_is_missing() {
        let given = json!({"model": "m", "dataset_path": ["d.json"], "eval_dataset_path": null});
        for (params, name, script, words) in [
            (given.clone(), "eval_dataset_path", None, "the parameter eval_dataset_path is not set"),
            (given, "data", None, "there is no data set of this name"),
            (json!({"model": "m"}), "dataset_path", None, "this task has no parameter dataset_path"),
            (json!({}), "dataset_path", Some(json!({"model": "m"})), "this script has no parameter dataset_path; add it to PARAMS"),
            (json!({}), "dataset_path", Some(json!({"dataset_path": "d.json"})), "this script has no parameter model; add it to PARAMS"),
        ] {
            let message = refusal(params, name, script);
            assert!(message.starts_with("session.dataset(") && message.contains(words), "{message}");
        }
    }
}
