//! Resolves the name of a model or adapter: an existing path, otherwise a step of a session, otherwise a name on the Hub.
//!
//! A step that made several GGUF files stands for the first; `<step>:q8_0` is the file of that type.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::base::error::{self, Kind};
use crate::base::one_of::one_of;
use crate::base::similar_path::or_similar;
use crate::gguf::FILE_TYPES;
use crate::params::similar_value::similar_name;
use crate::session::hub_names::{downloaded, is_hub_name};
use crate::session::step_reference::{missing_step, no_such_step, session_alone, step_without_session, steps};
use crate::session::summary::{Status, Summary};

/// The built-in model, which is generated when it is used.
pub const TINY: &str = "builtin:tiny";

/// The kind of artifact to take from a step with several outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    Model,
    Adapter,
    /// What a step made of a model: a GGUF file, the folder of a step with several of them, a model or an adapter.
    Candidate,
    /// An importance matrix.
    Imatrix,
    /// What answers: a GGUF file, a model or an adapter.
    Answering,
    /// An adapter in GGUF.
    GgufAdapter,
}

impl ArtifactKind {
    fn may_be_gguf(self) -> bool {
        matches!(self, ArtifactKind::Answering | ArtifactKind::GgufAdapter)
    }

    /// The outputs of a step that are one.
    fn outputs(self) -> &'static [&'static str] {
        match self {
            ArtifactKind::Model => &["model", "adapter"],
            ArtifactKind::Adapter => &["adapter"],
            ArtifactKind::Candidate | ArtifactKind::Answering => &["gguf", "model", "adapter"],
            ArtifactKind::GgufAdapter => &["gguf"],
            ArtifactKind::Imatrix => &["imatrix"],
        }
    }
}

/// The names in the value of a parameter: of one artifact, or of a list of them.
pub(crate) fn names_in(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, list) = (value.and_then(Value::as_str), value.and_then(Value::as_array));
    one.into_iter().chain(list.into_iter().flatten().filter_map(Value::as_str))
}

/// The name of a step and the type of one of its GGUF files: `convert:q8_0`.
pub(crate) fn without_outtype(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((step, outtype)) if FILE_TYPES.iter().any(|of| of.name.eq_ignore_ascii_case(outtype)) => (step, Some(outtype)),
        _ => (name, None),
    }
}

/// The absolute folder or file of a model or adapter. `builtin:tiny` and Hub names of models are returned unchanged.
///
/// `name` may be a folder, a step's folder, `<session>/<step>` in `runs`, or `@<step>` of the session `session`.
///
/// # Errors
/// Kind `usage` if there is no such built-in model, session or step, or the step made nothing of this kind; `model` if there is no such folder or the step failed.
pub fn resolve_artifact(name: &str, runs: &Path, session: &str, kind: ArtifactKind) -> Result<String> {
    if name == TINY && !matches!(kind, ArtifactKind::Adapter | ArtifactKind::Imatrix) {
        return Ok(name.to_string());
    }
    if name.starts_with("builtin:") {
        return Err(error::usage(match kind {
            ArtifactKind::Adapter => format!("{name} is not an adapter; give a folder with adapter_config.json or <session>/<step>"),
            ArtifactKind::GgufAdapter => format!("{name} is not an adapter; give its GGUF file or <session>/<step>"),
            ArtifactKind::Imatrix => format!("{name} is not an importance matrix; give its file or <session>/<step>"),
            _ => format!("there is no {name}; the only built-in model is {TINY}"),
        }));
    }
    check_reference(name, runs, session)?;
    let (name, outtype) = if kind.may_be_gguf() && !Path::new(name).exists() { without_outtype(name) } else { (name, None) };
    let (path, shown) = match name.strip_prefix('@') {
        Some(step) => (Some(runs.join(session).join(step)), format!("step {step} of session {session}")),
        None => {
            let candidates = [PathBuf::from(name), runs.join(name)];
            (candidates.into_iter().find(|path| path.exists()), name.to_string())
        }
    };
    match path {
        Some(path) if path.is_dir() => {
            if path.join("session.json").is_file() {
                return Err(session_alone(&path, name));
            }
            let folder = match step_output(&path, &shown, kind, outtype)? {
                Some(output) => output,
                None if kind == ArtifactKind::Imatrix => {
                    let fix = "give the file of an importance matrix; `pyrust-nn compute-imatrix` makes it";
                    return Err(error::input(format!("{} is a folder; {fix}", path.display())));
                }
                None if kind == ArtifactKind::GgufAdapter => {
                    let fix = "give the adapter's GGUF file; `pyrust-nn convert-lora-to-gguf` makes it";
                    return Err(error::model(format!("{} is a folder; {fix}", path.display())));
                }
                None => path,
            };
            let folder = std::fs::canonicalize(&folder)
                .map_err(|_| error::model(format!("{shown}: its output {} no longer exists; run the step again", folder.display())))?;
            Ok(folder.to_string_lossy().into_owned())
        }
        Some(path)
            if path.is_file()
                && (matches!(kind, ArtifactKind::Candidate | ArtifactKind::Imatrix) || (kind.may_be_gguf() && is_gguf(&path))) =>
        {
            Ok(std::fs::canonicalize(&path)?.to_string_lossy().into_owned())
        }
        Some(path) if path.exists() && kind.may_be_gguf() => {
            let else_folder = if kind == ArtifactKind::Answering { ", or the model's folder" } else { "" };
            Err(error::model(format!("{} is not a .gguf file; give a GGUF file{else_folder}", path.display())))
        }
        Some(path) if path.exists() => Err(error::model(format!("{} is a file; give the model's folder", path.display()))),
        Some(_) => Err(error::model(format!("there is no {shown}; run that step first"))),
        None if kind == ArtifactKind::Adapter => {
            let fix = or_similar(Path::new(name), &is_adapter, "give a folder with adapter_config.json or <session>/<step>");
            Err(error::model(format!("there is no adapter {name}: it is neither a folder nor a step in {}; {fix}", runs.display())))
        }
        None if kind == ArtifactKind::Imatrix => {
            let fix = or_similar(Path::new(name), &|path| path.is_file(), "`pyrust-nn compute-imatrix` makes one");
            Err(error::input(format!("there is no importance matrix {name}; {fix}")))
        }
        None if kind == ArtifactKind::GgufAdapter || is_gguf(Path::new(name)) => {
            let fix = or_similar(Path::new(name), &is_gguf, "check the path");
            Err(error::model(format!("there is no {name}: it is neither a GGUF file nor a step in {}; {fix}", runs.display())))
        }
        None if is_hub_name(name) => Ok(name.to_string()),
        None if error::did_you_mean(name, [TINY]).is_some() => Err(error::usage(format!("there is no model {name}; did you mean {TINY}?"))),
        None => {
            let fix = or_similar(Path::new(name), &|path| is_model(path) || (kind.may_be_gguf() && is_gguf(path)), "check the path");
            let what = "it is not a folder, a step in";
            Err(error::model(format!("there is no model {name}: {what} {} or a valid Hub name; {fix}", runs.display())))
        }
    }
}

fn is_adapter(path: &Path) -> bool {
    path.join("adapter_config.json").is_file()
}

fn is_model(path: &Path) -> bool {
    path.join("config.json").is_file() || is_adapter(path)
}

/// Refuses a reference to a step that does not exist. Everything else is left to [`resolve_artifact`].
///
/// # Errors
/// Kind `usage`.
pub(crate) fn check_reference(name: &str, runs: &Path, session: &str) -> Result<()> {
    if !Path::new(name).exists() {
        check_outtype(name, runs, session)?;
    }
    let name = if Path::new(name).exists() { name } else { without_outtype(name).0 };
    match name.strip_prefix('@') {
        Some(step) if session.is_empty() => return Err(step_without_session(runs, step, None)),
        Some(step) if !runs.join(session).join(step).exists() => return Err(no_such_step(runs, session, step, true)),
        Some(_) => return Ok(()),
        None if Path::new(name).exists() || runs.join(name).exists() || downloaded(name).is_some() => return Ok(()),
        None => {}
    }
    missing_step(name, runs).map_or(Ok(()), |(session, step)| Err(no_such_step(runs, session, step, false)))
}

/// Refuses a type of a step's GGUF files that is none: `convert:q4`.
fn check_outtype(name: &str, runs: &Path, session: &str) -> Result<()> {
    let Some((step, outtype)) = name.rsplit_once(':').filter(|_| without_outtype(name).1.is_none()) else { return Ok(()) };
    let folders = match step.strip_prefix('@') {
        Some(step) => vec![runs.join(session).join(step)],
        None => vec![PathBuf::from(step), runs.join(step)],
    };
    let Some(summary) = folders.iter().find_map(|folder| Summary::read(folder).ok().flatten()) else { return Ok(()) };
    let made: Vec<&str> = names_in(summary.outputs.get("gguf")).filter_map(|file| file.strip_suffix(".gguf")?.rsplit('.').next()).collect();
    if made.is_empty() {
        return Ok(());
    }
    let near = similar_name(outtype, &made).or_else(|| similar_name(outtype, &FILE_TYPES.map(|of| of.name)));
    let near = near.map(|near| format!("did you mean {step}:{near}? ")).unwrap_or_default();
    Err(error::usage(format!("{outtype} is not a type of GGUF files; {near}The step has {}", made.join(", "))))
}

/// The output of the step in `folder`. `None` if it is not the folder of a step.
fn step_output(folder: &Path, shown: &str, kind: ArtifactKind, outtype: Option<&str>) -> Result<Option<PathBuf>> {
    let Some(summary) = Summary::read(folder)? else { return Ok(None) };
    let session = folder.parent().unwrap_or(folder);
    if summary.status == Status::Failure {
        if summary.error.is_some_and(|error| error.kind == Kind::Interrupted) {
            let id = session.file_name().unwrap_or_default().display();
            return Err(error::model(format!("{shown} was interrupted and has no output; `pyrust-nn resume {id}` resumes it")));
        }
        return Err(error::model(format!("{shown} failed and has no output; see its error in {}", folder.join("summary.json").display())));
    }
    let output = |name: &str| summary.outputs.get(name).and_then(|path| path.as_str());
    let gguf: Vec<&str> = if kind.may_be_gguf() { names_in(summary.outputs.get("gguf")).collect() } else { Vec::new() };
    if let Some(outtype) = outtype {
        let end = format!(".{}.gguf", outtype.to_lowercase());
        return match gguf.iter().find(|file| file.to_lowercase().ends_with(&end)) {
            Some(file) => Ok(Some(session.join(file))),
            None => {
                let has = if gguf.is_empty() { "and none of another".to_string() } else { format!("it has: {}", gguf.join(", ")) };
                Err(error::model(format!("{shown} has no GGUF file of the type {outtype}, {has}")))
            }
        };
    }
    let made = match kind {
        ArtifactKind::Answering | ArtifactKind::GgufAdapter if !gguf.is_empty() => Some(gguf[0]),
        ArtifactKind::GgufAdapter => None,
        ArtifactKind::Model => output("model").or_else(|| output("adapter")),
        ArtifactKind::Adapter => output("adapter"),
        ArtifactKind::Imatrix => output("imatrix"),
        // The files are in the step's folder.
        ArtifactKind::Candidate if summary.outputs.contains_key("gguf") => return Ok(Some(folder.to_path_buf())),
        ArtifactKind::Candidate | ArtifactKind::Answering => output("model").or_else(|| output("adapter")),
    };
    match made {
        Some(made) => Ok(Some(session.join(made))),
        None => {
            let has = match summary.outputs.keys().map(String::as_str).collect::<Vec<_>>() {
                outputs if outputs.is_empty() => "and no other".to_string(),
                outputs => format!("it has: {}", outputs.join(", ")),
            };
            let others = steps(session).into_iter().filter(|step| has_output(&session.join(step), kind));
            let id = if shown.starts_with("step ") {
                "@".to_string()
            } else {
                shown.strip_suffix(&summary.step).unwrap_or_default().to_string()
            };
            let others: Vec<String> = others.map(|step| format!("{id}{step}")).collect();
            let fix = match (kind, &others[..]) {
                (_, [_, ..]) => format!("; give {}", one_of(&others)),
                (ArtifactKind::GgufAdapter, []) => "; `pyrust-nn convert-lora-to-gguf` makes one".to_string(),
                (ArtifactKind::Imatrix, []) => "; `pyrust-nn compute-imatrix` makes one".to_string(),
                (ArtifactKind::Adapter, []) => "; give a step that trained an adapter".to_string(),
                _ => String::new(),
            };
            Err(error::usage(format!("{shown} has no output {}, {has}{fix}", one_of(kind.outputs()))))
        }
    }
}

/// Whether the step in `folder` has succeeded and made such an output.
fn has_output(folder: &Path, kind: ArtifactKind) -> bool {
    let made_adapter = |summary: &Summary| kind != ArtifactKind::GgufAdapter || summary.task.starts_with("convert_lora");
    Summary::read(folder).ok().flatten().is_some_and(|summary| {
        let has = kind.outputs().iter().any(|output| summary.outputs.contains_key(*output));
        summary.status == Status::Success && has && made_adapter(&summary)
    })
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::files;

    #[test]
    fn a_path_then_a_step_then_a_hub_name() {
        let runs = tempfile::tempdir().unwrap();
        let step = runs.path().join("s1/finetune_lora");
        std::fs::create_dir_all(step.join("adapter")).unwrap();
        let mut summary = Summary::new("finetune_lora", "s1", "finetune_lora");
        summary.outputs.insert("adapter".into(), json!("finetune_lora/adapter"));
        files::write_json(&step.join("summary.json"), &summary).unwrap();
        let wanted = std::fs::canonicalize(step.join("adapter")).unwrap();
        for name in ["s1/finetune_lora", "@finetune_lora", step.to_str().unwrap(), wanted.to_str().unwrap()] {
            assert_eq!(resolve_artifact(name, runs.path(), "s1", ArtifactKind::Adapter).unwrap(), wanted.to_str().unwrap(), "{name}");
        }
        for name in ["Qwen/Qwen1.5-0.5B-Chat", "gpt2", TINY] {
            assert_eq!(resolve_artifact(name, runs.path(), "s1", ArtifactKind::Model).unwrap(), name);
        }
        for name in ["./nowhere", "/no/such/folder", "a/b/c", "builtin:huge", "@no_step", "Qwen/.."] {
            assert!(resolve_artifact(name, runs.path(), "s1", ArtifactKind::Model).is_err(), "{name}");
        }
        assert!(resolve_artifact("Qwen/an-adapter", runs.path(), "s1", ArtifactKind::Adapter).is_err());
    }

    /// Two sessions: `first` with two steps, `second` with one of a name of its own.
    fn sessions() -> tempfile::TempDir {
        let runs = tempfile::tempdir().unwrap();
        for (session, step) in [("first", "finetune_full"), ("first", "lora"), ("second", "my-step")] {
            let folder = runs.path().join(session).join(step);
            std::fs::create_dir_all(folder.join("model")).unwrap();
            std::fs::write(runs.path().join(session).join("session.json"), "{}").unwrap();
            let mut summary = Summary::new("finetune_full", session, step);
            summary.outputs.insert("model".into(), json!(format!("{step}/model")));
            files::write_json(&folder.join("summary.json"), &summary).unwrap();
        }
        runs
    }

    #[test]
    fn a_reference_to_a_step_that_does_not_exist_is_a_usage_error_with_a_suggestion() {
        let runs = sessions();
        let inside = |text: &str| runs.path().join(text).to_string_lossy().into_owned();
        for (name, words) in [
            ("frist/finetune_full", "there is no session frist in"),
            ("frist/finetune_full", "did you mean first/finetune_full?"),
            ("frist/lora", "did you mean first/lora?"),
            ("secnd/my-step", "did you mean second/my-step?"),
            ("zzz/merge", "`pyrust-nn sessions` lists them"),
            ("first/finetune_ful", "session first has no step finetune_ful; did you mean first/finetune_full?"),
            ("first/merge", "session first has no step merge, its steps: finetune_full, lora; run that step first"),
            ("@finetune_ful", "session first has no step finetune_ful; did you mean @finetune_full?"),
            ("@merge", "session first has no step merge, its steps: finetune_full, lora; run that step first"),
            (&inside("frist/lora"), "did you mean first/lora?"),
            ("first", "first is a session; name one of its steps: first/finetune_full, first/lora"),
            ("first/nope", "session first has no step nope, its steps: finetune_full, lora; run that step first"),
        ] {
            for kind in [ArtifactKind::Model, ArtifactKind::Adapter] {
                let error = error::Error::of(&resolve_artifact(name, runs.path(), "first", kind).expect_err(name));
                assert_eq!(error.kind, Kind::Usage, "{name}: {}", error.message);
                assert!(error.message.contains(words), "{name}: {}", error.message);
            }
        }
    }

    #[test]
    fn a_gguf_file_is_named_by_its_path_by_a_step_and_by_its_type() {
        let runs = tempfile::tempdir().unwrap();
        let step = runs.path().join("s1/convert");
        std::fs::create_dir_all(&step).unwrap();
        let files = ["a.f16.gguf", "a.q8_0.gguf"].map(|name| step.join(name));
        for file in &files {
            std::fs::write(file, "GGUF").unwrap();
        }
        let mut summary = Summary::new("convert_model_to_gguf", "s1", "convert");
        summary.outputs.insert("gguf".into(), json!(["convert/a.f16.gguf", "convert/a.q8_0.gguf"]));
        files::write_json(&step.join("summary.json"), &summary).unwrap();
        let resolved = |name: &str, kind| resolve_artifact(name, runs.path(), "s1", kind).map_err(|cause| cause.to_string());
        let wanted = files.each_ref().map(|file| std::fs::canonicalize(file).unwrap().to_string_lossy().into_owned());
        for kind in [ArtifactKind::Answering, ArtifactKind::GgufAdapter] {
            for name in ["@convert", "s1/convert", "@convert:f16", &wanted[0], step.to_str().unwrap()] {
                assert_eq!(resolved(name, kind).as_ref(), Ok(&wanted[0]), "{name}");
            }
            for name in ["@convert:q8_0", "s1/convert:Q8_0", &wanted[1]] {
                assert_eq!(resolved(name, kind).as_ref(), Ok(&wanted[1]), "{name}");
            }
            let message = resolved("@convert:q4_0", kind).unwrap_err();
            assert!(message.contains("no GGUF file of the type q4_0, it has: convert/a.f16.gguf"), "{message}");
            for (wrong, words) in [
                ("@convert:q8", "q8 is not a type of GGUF files; did you mean @convert:q8_0? The step has f16, q8_0"),
                ("s1/convert:Q80", "did you mean s1/convert:q8_0?"),
                ("@convert:q4km", "did you mean @convert:q4_k_m? The step has f16, q8_0"),
            ] {
                let message = resolved(wrong, kind).unwrap_err();
                assert!(message.contains(words), "{message}");
            }
            assert!(resolved("none.gguf", kind).unwrap_err().contains("there is no none.gguf"), "not looked up on the Hub");
        }
        summary.outputs = serde_json::Map::from_iter([("model".to_string(), json!("convert/model"))]);
        files::write_json(&step.join("summary.json"), &summary).unwrap();
        let message = resolved("@convert:q8_0", ArtifactKind::Answering).unwrap_err();
        assert!(message.ends_with("no GGUF file of the type q8_0, and none of another"), "{message}");
        let message = resolved("@convert:q8_0", ArtifactKind::Model).unwrap_err();
        assert!(message.contains("there is no step convert:q8_0"), "{message}");
    }

    #[test]
    fn a_step_without_such_an_output_is_answered_with_one_that_has_it() {
        let runs = sessions();
        let message = |name: &str, kind| resolve_artifact(name, runs.path(), "first", kind).unwrap_err().to_string();
        let wanted = "first/lora has no output adapter, it has: model; give a step that trained an adapter";
        assert_eq!(message("first/lora", ArtifactKind::Adapter), wanted);
        let folder = runs.path().join("first/trained");
        std::fs::create_dir_all(folder.join("adapter")).unwrap();
        let mut summary = Summary::new("finetune_lora", "first", "trained");
        summary.outputs.insert("adapter".into(), json!("trained/adapter"));
        files::write_json(&folder.join("summary.json"), &summary).unwrap();
        assert!(message("first/lora", ArtifactKind::Adapter).ends_with("it has: model; give first/trained"));
        assert!(message("@lora", ArtifactKind::Adapter).ends_with("it has: model; give @trained"));
        let message = message("@lora", ArtifactKind::GgufAdapter);
        assert!(message.ends_with("has no output gguf, it has: model; `pyrust-nn convert-lora-to-gguf` makes one"), "{message}");
    }

    #[test]
    fn a_hub_name_stays_one_beside_sessions() {
        let runs = sessions();
        for name in ["Qwen/Qwen3-0.6B", "gpt2", "first/Qwen3-0.6B", "user/finetune-lora-qwen", "user/my-model"] {
            assert_eq!(resolve_artifact(name, runs.path(), "first", ArtifactKind::Model).unwrap(), name);
        }
        let absent = runs.path().join("nowhere");
        assert_eq!(resolve_artifact("Qwen/Qwen3-0.6B", &absent, "s", ArtifactKind::Model).unwrap(), "Qwen/Qwen3-0.6B");
        assert!(resolve_artifact("frist/finetune_lora", &absent, "s", ArtifactKind::Model).is_err());
    }

    #[test]
    fn a_step_of_no_session_is_a_usage_error_that_names_one_which_has_it() {
        let runs = sessions();
        let error = |step: &str| error::Error::of(&resolve_artifact(step, runs.path(), "", ArtifactKind::Model).unwrap_err());
        let (known, unknown) = (error("@lora"), error("@merge"));
        assert_eq!([known.kind, unknown.kind], [Kind::Usage; 2]);
        assert!(known.message.ends_with("this one has none; give <session>/lora, such as first/lora"), "{}", known.message);
        assert!(unknown.message.ends_with("give <session>/merge"), "{}", unknown.message);
    }

    #[test]
    fn a_misspelled_path_gets_a_suggestion() {
        let runs = sessions();
        let folder = tempfile::tempdir().unwrap();
        for name in ["mine/config.json", "adapter/adapter_config.json", "small.q8_0.gguf"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        let message = |name: &str, kind| {
            let given = folder.path().join(name);
            resolve_artifact(given.to_str().unwrap(), runs.path(), "first", kind).unwrap_err().to_string()
        };
        for (name, kind, near) in [
            ("mien", ArtifactKind::Model, "mine"),
            ("adpter", ArtifactKind::Adapter, "adapter"),
            ("small.q80.gguf", ArtifactKind::Answering, "small.q8_0.gguf"),
        ] {
            let message = message(name, kind);
            assert!(message.ends_with(&format!("did you mean {}?", folder.path().join(near).display())), "{message}");
        }
    }

    #[test]
    fn a_failed_step_is_refused_with_the_path_of_its_summary() {
        let runs = tempfile::tempdir().unwrap();
        let step = runs.path().join("s1/a");
        std::fs::create_dir_all(&step).unwrap();
        let mut summary = Summary::new("finetune_full", "s1", "a");
        summary.status = Status::Failure;
        files::write_json(&step.join("summary.json"), &summary).unwrap();
        let message = resolve_artifact("@a", runs.path(), "s1", ArtifactKind::Model).unwrap_err().to_string();
        assert!(message.contains("failed") && message.contains("summary.json"), "{message}");
    }
}
