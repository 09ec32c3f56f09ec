//! A step's request, made from what a session recorded of it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::data;
use crate::params::interface::Interface;
use crate::params::param_type::ParamType;
use crate::params::task::Task;
use crate::step::request::Request;

/// Whether a parameter's values are paths, or may be.
pub(super) fn is_path_type(of: ParamType) -> bool {
    of.is_artifact() || [ParamType::Path, ParamType::Paths].contains(&of)
}

/// A request with the given parameters, for `session`. `cwd` is the working directory to which they refer: relative paths become absolute if it
/// has changed since.
pub(super) fn recorded_request(
    task: &'static Task,
    mut given: Map<String, Value>,
    cwd: &Path,
    runs: Option<&Path>,
    session: &str,
    interface: Interface,
) -> Request {
    let elsewhere = std::env::current_dir().is_ok_and(|now| now != cwd);
    let absolute = |text: &str| {
        let path = cwd.join(text);
        // A path counts if it exists there; a pattern, if it matches a file there.
        let exists = elsewhere && Path::new(text).is_relative() && (path.exists() || data::expand(&[path.to_string_lossy()]).is_ok());
        exists.then(|| Value::from(path.to_string_lossy().into_owned()))
    };
    for param in task.all_params().filter(|param| is_path_type(param.value_type)) {
        match given.get_mut(param.name) {
            Some(Value::Array(paths)) => {
                for path in paths {
                    *path = path.as_str().and_then(absolute).unwrap_or_else(|| path.take());
                }
            }
            Some(path) => *path = path.as_str().and_then(absolute).unwrap_or_else(|| path.take()),
            None => {}
        }
    }
    match runs {
        Some(runs) => drop(given.insert("runs_dir".into(), runs.to_string_lossy().into())),
        None => drop(given.shift_remove("runs_dir")),
    }
    Request::new(task, Some(session.to_string()), given, interface)
}
