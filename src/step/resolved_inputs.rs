//! The inputs of a step, resolved and read before the script runs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::base::similar_path::or_similar;
use crate::data::read_prompts;
use crate::dataset::{DATASETS, IMATRIX_DATASET, StepDatasets, check_paths, is_foreign, names_dataset};
use crate::gguf::ImportanceMatrix;
use crate::params::param::Param;
use crate::params::param_type::ParamType;
use crate::session::artifact::{ArtifactKind, names_in, resolve_artifact, without_outtype};
use crate::session::step_reference::step_without_session;
use crate::session::summary::{Status, Summary};
use crate::step::request::Request;

pub(crate) struct ResolvedInputs {
    /// The parameters for the script.
    pub(crate) for_script: Map<String, Value>,
    /// The files that the step depends on, by parameter.
    pub(crate) files: Vec<(&'static str, Vec<PathBuf>)>,
    pub(crate) datasets: StepDatasets,
}

/// Resolves models, prompts and data sets. Data sets are prepared if that needs no Python.
pub(crate) fn resolve_inputs(request: &Request, params: &Map<String, Value>, runs: &Path, session: &str) -> Result<ResolvedInputs> {
    let mut for_script = params.clone();
    let mut files = Vec::new();
    let artifacts = resolve_artifacts(request, params, runs, session)?;
    validate_files(request, params, &artifacts)?;
    for (param, found) in artifacts {
        for (given, found) in names_in(params.get(param.name)).zip(&found).filter(|(given, found)| given != found) {
            debug!("{} {given} is {found}", param.name);
        }
        files.push((param.name, found.iter().map(PathBuf::from).collect()));
        let value = if params[param.name].is_array() { found.into() } else { found.into_iter().next().into() };
        for_script.insert(param.name.into(), value);
    }
    if request.task.has("imatrix") {
        let dataset = imatrix_dataset(params);
        if dataset.is_some() {
            for_script.insert("imatrix".into(), Value::Null);
        }
        for_script.insert(IMATRIX_DATASET.into(), dataset.into());
    }
    let datasets = StepDatasets::new(for_script.clone(), runs, session);
    for name in DATASETS.into_iter().chain([IMATRIX_DATASET]) {
        if for_script.get(name).is_some_and(|given| !given.is_null()) {
            files.push((name, datasets.prepare_ahead(name)?));
        }
    }
    Ok(ResolvedInputs { for_script, files, datasets })
}

/// Checks that the files exist that the parameters name, and what is in small ones. Data sets are read when they are prepared.
///
/// # Errors
/// Kind `input`: a missing or wrong file, or a path that cannot be a data set. Kind `usage`: a wrong option of a data set.
pub(crate) fn validate_files(request: &Request, params: &Map<String, Value>, artifacts: &[(&'static Param, Vec<String>)]) -> Result<()> {
    if let Some(given) = params.get("prompts_file").and_then(Value::as_str)
        && !Path::new(given).is_file()
    {
        let fix = or_similar(Path::new(given), &|path| path.is_file(), &format!("check {}", request.interface.spell("prompts_file")));
        return Err(error::input(format!("there is no prompts file {given}; {fix}")));
    }
    if request.task.has("prompts_file") {
        check_prompts(params)?;
    }
    for matrix in artifacts.iter().filter(|(param, _)| param.value_type == ParamType::Imatrix).flat_map(|(_, found)| found) {
        ImportanceMatrix::read(Path::new(matrix))?;
    }
    let given = DATASETS.iter().filter_map(|name| params.get(*name)).filter(|given| !given.is_null()).cloned();
    given.chain(imatrix_dataset(params).map(Value::from)).try_for_each(|given| check_paths(&given, request.is_offline()))
}

/// The data set that the parameter `imatrix` names, if it is one.
fn imatrix_dataset(params: &Map<String, Value>) -> Option<&str> {
    params.get("imatrix").and_then(Value::as_str).filter(|given| names_dataset(given))
}

/// Reads the prompts, except those in tables that Arrow reads.
fn check_prompts(params: &Map<String, Value>) -> Result<()> {
    let file = params.get("prompts_file").and_then(Value::as_str).map(Path::new);
    if file.is_some_and(is_foreign) {
        return Ok(());
    }
    let prompts = params.get("prompt").filter(|given| !given.is_null()).map_or_else(|| "[]".to_string(), Value::to_string);
    read_prompts(&prompts, file).map(drop)
}

/// The folders of the models and adapters that the parameters name, or the Hub names that Python loads.
pub(crate) fn resolve_artifacts(
    request: &Request,
    params: &Map<String, Value>,
    runs: &Path,
    session: &str,
) -> Result<Vec<(&'static Param, Vec<String>)>> {
    let mut found = Vec::new();
    for param in request.task.all_params() {
        let kind = match param.value_type {
            ParamType::Model => ArtifactKind::Model,
            ParamType::Adapter => ArtifactKind::Adapter,
            ParamType::Candidate => ArtifactKind::Candidate,
            ParamType::Imatrix => ArtifactKind::Imatrix,
            ParamType::AnsweringModel => ArtifactKind::Answering,
            ParamType::GgufAdapters => ArtifactKind::GgufAdapter,
            _ => continue,
        };
        // When a pipeline is checked, and in its dry run, its earlier steps have made nothing yet.
        let made =
            |step: &str| matches!(Summary::read(&runs.join(session).join(step)), Ok(Some(summary)) if summary.status == Status::Success);
        let is_made = |given: &str| {
            let step = given.strip_prefix('@').or_else(|| given.strip_prefix(session).and_then(|rest| rest.strip_prefix('/')));
            let step = step.map(|step| without_outtype(step).0);
            !step.is_some_and(|step| request.follows(step) && (request.is_dry() || !made(step)))
        };
        let given: Vec<&str> =
            names_in(params.get(param.name)).filter(|given| kind != ArtifactKind::Imatrix || !names_dataset(given)).collect();
        // A pipeline checks its references when it is read.
        let is_alone = request.session.is_none() && request.plan.is_none();
        if let Some(step) = given.iter().find_map(|given| given.strip_prefix('@')).filter(|_| is_alone) {
            return Err(step_without_session(runs, step, Some(request.interface)));
        }
        if !given.is_empty() && given.iter().all(|given| is_made(given)) {
            let resolved = given.into_iter().map(|given| resolve_artifact(given, runs, session, kind));
            found.push((param, resolved.collect::<Result<_>>()?));
        }
    }
    Ok(found)
}
