//! References to steps of sessions: which names are one, and what to say if there is no such step.
//!
//! `a/b` can be a step or a model on the Hub. It is a step if `b` is the name of a task or of an existing step, or if `a` is a session and
//! `b` is written as steps are: a typing error must not start a search on the Hub. What is a folder, an existing step
//! or a downloaded model is not asked here.

use std::fs;
use std::path::Path;

use crate::base::error;
use crate::base::error::did_you_mean;
use crate::params::interface::Interface;
use crate::params::task::TASK_NAMES;

/// The session and the step of a name that can only be a reference to a step that does not exist.
pub(crate) fn missing_step<'a>(name: &'a str, runs: &Path) -> Option<(&'a str, &'a str)> {
    let mut parts = name.rsplitn(3, '/');
    let (step, session, before) = (parts.next()?, parts.next()?, parts.next());
    if let Some(before) = before {
        // A longer path, into the folder of the sessions.
        let same = matches!((fs::canonicalize(before), fs::canonicalize(runs)), (Ok(a), Ok(b)) if a == b);
        return (same && !session.is_empty() && !step.is_empty()).then_some((session, step));
    }
    if session.is_empty() || [".", ".."].contains(&session) || step.is_empty() {
        return None;
    }
    let own_steps = steps(&runs.join(session));
    let near = || did_you_mean(step, own_steps.iter().map(String::as_str).chain(TASK_NAMES)).is_some();
    // A model's name has a capital letter or a dash nearly always.
    let like_a_step = || step.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if runs.join(session).join("session.json").is_file() && like_a_step() {
        return Some((session, step));
    }
    let known = TASK_NAMES.contains(&step) || sessions(runs).iter().any(|one| runs.join(one).join(step).is_dir());
    (known || (!own_steps.is_empty() && near())).then_some((session, step))
}

/// The error for a step that does not exist. `here`: the session is the running one, whose steps are written `@step`.
pub(crate) fn no_such_step(runs: &Path, session: &str, step: &str, here: bool) -> anyhow::Error {
    let written = |session: &str, step: &str| if here { format!("@{step}") } else { format!("{session}/{step}") };
    let of = steps(&runs.join(session));
    if let Some(near) = did_you_mean(step, of.iter().map(String::as_str)) {
        return error::usage(format!("session {session} has no step {step}; did you mean {}?", written(session, near)));
    }
    if !of.is_empty() || here || runs.join(session).join("session.json").is_file() {
        let has = if of.is_empty() { "it has no steps yet".to_string() } else { format!("its steps: {}", of.join(", ")) };
        return error::usage(format!("session {session} has no step {step}, {has}; run that step first"));
    }
    let sessions = sessions(runs);
    // Of several similar names, rather one that has the step.
    let with_step = sessions.iter().filter(|one| runs.join(one).join(step).is_dir()).map(String::as_str);
    let near = did_you_mean(session, with_step).or_else(|| did_you_mean(session, sessions.iter().map(String::as_str)));
    let fix = match near {
        Some(near) => {
            let of = steps(&runs.join(near));
            let step = did_you_mean(step, of.iter().map(String::as_str)).unwrap_or(step);
            format!("did you mean {near}/{step}?")
        }
        None => format!("`pyrust-nn sessions` lists them ({step} is a step's name, so {session}/{step} is not looked up on the Hub)"),
    };
    error::usage(format!("there is no session {session} in {}; {fix}", runs.display()))
}

/// The error for `@step` where there is no session whose step it could be. `interface`: that of a command that takes a session.
pub(crate) fn step_without_session(runs: &Path, step: &str, interface: Option<Interface>) -> anyhow::Error {
    let with_step = |session: &String| runs.join(session).join(without_type(step)).join("summary.json").is_file();
    // The ids of sessions begin with the time.
    let example = sessions(runs).into_iter().rev().find(with_step).map(|session| format!(", such as {session}/{step}"));
    let written = format!("<session>/{step}{}", example.unwrap_or_default());
    error::usage(match interface {
        Some(interface) => {
            format!("@{step} is a step of this session, and no session is given; give {}, or {written}", interface.spell("session"))
        }
        None => format!("@{step} is a step of the session in which a command runs, and this one has none; give {written}"),
    })
}

/// `convert` of `convert:q8_0`.
fn without_type(step: &str) -> &str {
    step.split(':').next().unwrap_or_default()
}

/// The error for the name of a session in place of a step.
pub(crate) fn session_alone(folder: &Path, session: &str) -> anyhow::Error {
    let of = steps(folder);
    let which = match &of[..] {
        [] => "it has no steps yet; run one first".to_string(),
        steps => format!("name one of its steps: {}", steps.iter().map(|step| format!("{session}/{step}")).collect::<Vec<_>>().join(", ")),
    };
    error::usage(format!("{session} is a session; {which}"))
}

/// The names of the sessions, sorted.
pub(crate) fn sessions(runs: &Path) -> Vec<String> {
    folders(runs)
}

/// The names of a session's steps, sorted. Those of failed attempts and unfinished replacements are no steps.
pub(crate) fn steps(session: &Path) -> Vec<String> {
    let mut steps = folders(session);
    steps.retain(|step| session.join(step).join("summary.json").is_file());
    steps.retain(|step| ![".failed", ".new", ".old"].iter().any(|end| step.ends_with(end)));
    steps
}

fn folders(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}
