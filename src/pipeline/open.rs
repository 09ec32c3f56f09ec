//! Opens a pipeline: reads its file and checks all steps, so that a wrong value or an existing step of the last step does not waste the steps
//! before it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error::Error;
use crate::params::interface::Interface;
use crate::pipeline::execution_plan::ExecutionPlan;
use crate::pipeline::pipeline_file::Pipeline;
use crate::session::names::runs_dir;
use crate::step::refusal;

/// The steps of the pipeline `file`. `overrides` replace its top-level keys, `session` its session.
///
/// # Errors
/// Kind `usage`; `input` or `model` if a file or a model does not exist that no earlier step can make. It is noted in the session's log, if the session exists.
pub fn open(file: &Path, overrides: Map<String, Value>, session: Option<String>, interface: Interface) -> Result<ExecutionPlan> {
    let mut place = Place { runs: overrides.get("runs_dir").cloned(), session: session.clone() };
    let opened = Pipeline::read(file).and_then(|pipeline| {
        place.session = place.session.take().or_else(|| pipeline.session.clone());
        place.runs = place.runs.take().or_else(|| pipeline.common.get("runs_dir").cloned());
        let lines = pipeline.lines.clone();
        let plan = pipeline.with(overrides, session, interface)?;
        for (i, request) in plan.steps.iter().enumerate() {
            let place = || format!("{}{}, step {}", file.display(), lines.shown(&["step", &i.to_string()]), request.step());
            refusal::check(request, &request.runs(), &plan.session).map_err(|cause| at(&place(), &cause))?;
        }
        Ok(plan)
    });
    opened.inspect_err(|error| refusal::note(&place.runs(), place.session.as_deref().unwrap_or_default(), "pipeline", error))
}

/// An error with its place.
fn at(place: &str, cause: &anyhow::Error) -> anyhow::Error {
    let error = Error::of(cause);
    Error { message: format!("{place}: {}", error.message), ..error }.into()
}

/// Where the pipeline would run, as far as it is known.
struct Place {
    runs: Option<Value>,
    session: Option<String>,
}

impl Place {
    fn runs(&self) -> PathBuf {
        runs_dir(self.runs.as_ref().and_then(Value::as_str).map(Path::new))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::base::error::Kind;
    use crate::session::Session;
    use crate::tasks::{MergeParams, merge};

    /// The files of a session and their content.
    fn contents(session: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all: Vec<_> = std::fs::read_dir(session).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
    }

    #[test]
    fn a_refused_attempt_from_rust_leaves_a_line_in_the_log_only() {
        let runs = tempfile::tempdir().unwrap();
        let mut session = Session::open(runs.path(), "s").unwrap();
        session.begin("merge", "other", "2026-01-01T00:00:00.000Z", &[]).unwrap();
        session.end(crate::Status::Success, None).unwrap();
        let (folder, log) = (session.folder.clone(), session.log_path());
        drop(session);
        std::fs::write(&log, "").unwrap();
        let file = runs.path().join("pipeline.toml");
        std::fs::write(&file, "[[step]]\ntask = \"merge\"\nmodel = \"builtin:tiny\"\n[[step]]\ntask = \"flatten\"\nmodel = 1\n").unwrap();
        let given = || Map::from_iter([("runs_dir".to_string(), json!(runs.path()))]);
        let params = || MergeParams { runs_dir: runs.path().to_path_buf(), ..MergeParams::default() };
        let pipeline = |session: &str| crate::run_pipeline(session, &file, given()).unwrap_err();
        let step = |session: &str| merge(session, "builtin:huge", &params()).unwrap_err();
        let attempts: [&dyn Fn(&str) -> anyhow::Error; 2] = [&pipeline, &step];
        for (attempt, words) in attempts.into_iter().zip(["pipeline refused", "step merge refused"]) {
            let before = contents(&folder);
            assert_eq!(Error::of(&attempt("s")).kind, Kind::Usage);
            assert_eq!(Error::of(&attempt("new")).kind, Kind::Usage);
            let text = std::fs::read_to_string(&log).unwrap();
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains(words), "{text}");
            std::fs::write(&log, "").unwrap();
            assert_eq!(contents(&folder), before);
        }
        assert!(!runs.path().join("new").exists());
    }
}
