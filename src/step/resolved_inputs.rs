//! The inputs of a step, resolved and read before Python starts.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::dataset::{DATASETS, StepDatasets};
use crate::params::param::Param;
use crate::params::param_type::ParamType;
use crate::session::artifact::{ArtifactKind, resolve_artifact};
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
    for (param, found) in resolve_artifacts(request, params, runs, session)? {
        let given = &params[param.name];
        if *given != found {
            debug!("{} {} is {found}", param.name, given.as_str().unwrap_or_default());
        }
        files.push((param.name, vec![PathBuf::from(&found)]));
        for_script.insert(param.name.into(), found.into());
    }
    if let Some(given) = params.get("prompts_file").and_then(Value::as_str)
        && !Path::new(given).is_file()
    {
        return Err(error::input(format!("there is no prompts file {given}; check {}", request.interface.spell("prompts_file"))));
    }
    let datasets = StepDatasets::new(for_script.clone(), runs, session);
    for name in DATASETS {
        if params.get(name).is_some_and(|given| !given.is_null()) {
            files.push((name, datasets.prepare_ahead(name)?));
        }
    }
    Ok(ResolvedInputs { for_script, files, datasets })
}

/// The folders of the models and adapters that the parameters name, or the Hub names that Python loads.
pub(crate) fn resolve_artifacts(
    request: &Request,
    params: &Map<String, Value>,
    runs: &Path,
    session: &str,
) -> Result<Vec<(&'static Param, String)>> {
    let mut found = Vec::new();
    for param in request.task.all_params() {
        let kind = match param.value_type {
            ParamType::Model => ArtifactKind::Model,
            ParamType::Adapter => ArtifactKind::Adapter,
            ParamType::Candidate => ArtifactKind::Candidate,
            _ => continue,
        };
        let Some(given) = params[param.name].as_str() else { continue };
        // When a pipeline is checked, and in its dry run, its earlier steps have made nothing yet.
        let step = given.strip_prefix('@').or_else(|| given.strip_prefix(session).and_then(|rest| rest.strip_prefix('/')));
        let made =
            |step: &str| matches!(Summary::read(&runs.join(session).join(step)), Ok(Some(summary)) if summary.status == Status::Success);
        let not_made = step.is_some_and(|step| request.follows(step) && (request.is_dry() || !made(step)));
        if !not_made {
            found.push((param, resolve_artifact(given, runs, session, kind)?));
        }
    }
    Ok(found)
}
