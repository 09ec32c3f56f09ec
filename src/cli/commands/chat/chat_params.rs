//! The parameters of a conversation: those of `inference` that decide the model and its answers.

use crate::params::param::Param;
use crate::params::task::Task;
use crate::tasks::task_named;

/// Parameters of `inference` that have no meaning in a conversation.
const NOT_HERE: [&str; 7] = ["prompt", "prompts_file", "n", "parallel", "step", "overwrite", "dry_run"];

pub(crate) fn params() -> impl Iterator<Item = &'static Param> {
    let all = task_named("inference").into_iter().flat_map(Task::all_params);
    all.filter(|param| !NOT_HERE.contains(&param.name))
}
