//! What is served under which name: `[name=]ARTIFACT` of models and adapters.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::base::error;
use crate::estimate::is_adapter;
use crate::python::model_folder;
use crate::session::artifact::{ArtifactKind, names_in, resolve_artifact};
use crate::session::record::read_record;

/// A model or adapter under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedName {
    /// What requests call it.
    pub(crate) name: String,
    /// Its GGUF file. Before the conversion also a folder, `builtin:tiny` or a name on the Hub.
    pub(crate) file: String,
    /// The session and step that made it, if one did.
    pub(crate) made_by: Option<(String, String)>,
}

impl ServedName {
    /// The names in a parameter's value, with their files.
    ///
    /// # Errors
    /// Kind `usage`: a name that cannot be one, or a step that does not exist. Kind `model`: an artifact that is missing or no model.
    pub(crate) fn all_in(params: &Map<String, Value>, param: &str, runs: &Path, session: &str) -> Result<Vec<ServedName>> {
        let kind = if param == "adapter" { ArtifactKind::GgufAdapter } else { ArtifactKind::Answering };
        names_in(params.get(param)).map(|given| ServedName::resolve(given, runs, session, kind)).collect()
    }

    fn resolve(given: &str, runs: &Path, session: &str, kind: ArtifactKind) -> Result<ServedName> {
        // A path may contain the sign.
        let (name, artifact) = match given.split_once('=') {
            Some((name, artifact)) if !Path::new(given).exists() => (Some(name), artifact),
            _ => (None, given),
        };
        if Path::new(artifact).is_file() && !is_gguf(Path::new(artifact)) {
            return Err(error::model(format!("{artifact} is not a GGUF file; give one, the folder of a model, or a session's step")));
        }
        let file = resolve_artifact(artifact, runs, session, kind).or_else(|cause| match kind {
            ArtifactKind::GgufAdapter => resolve_artifact(artifact, runs, session, ArtifactKind::Adapter).map_err(|_| cause),
            _ => Err(cause),
        })?;
        let folder = Path::new(&file);
        if folder.is_dir() && !is_adapter(folder) && (kind == ArtifactKind::GgufAdapter || !folder.join("config.json").is_file()) {
            let (what, lacks) = match kind {
                ArtifactKind::GgufAdapter => ("an adapter", "adapter_config.json"),
                _ => ("a model", "config.json"),
            };
            return Err(error::model(format!("{artifact} is not {what}: it has no {lacks}; give {what}'s folder or its GGUF file")));
        }
        let name = name.map_or_else(|| name_of(artifact), ToString::to_string);
        let letters = |symbol: char| symbol.is_alphanumeric() || "._-:/@+= ".contains(symbol);
        if name.is_empty() || name.len() > 200 || name != name.trim() || !name.chars().all(letters) {
            return Err(error::usage(format!(
                "{name:?} is no name for a model; use letters, digits and . _ - : / @ +, as in NAME={artifact}"
            )));
        }
        let made_by = maker(Path::new(&file));
        Ok(ServedName { name, file, made_by })
    }

    /// Whether it need not be converted.
    pub(crate) fn is_gguf(&self) -> bool {
        is_gguf(Path::new(&self.file))
    }

    /// The entry in the list of models, as OpenAI's and with `session`, `step` and `parent` (the base of an adapter; vLLM's name for it).
    pub(crate) fn entry(&self, created: u64, parent: Option<&str>) -> Value {
        let (session, step) = self.made_by.clone().unzip();
        json!({"id": self.name, "object": "model", "created": created, "owned_by": "pyrust-nn", "session": session, "step": step,
            "parent": parent})
    }
}

/// Refuses a name that is given twice.
pub(crate) fn check_unique<'a>(names: impl IntoIterator<Item = &'a ServedName>) -> Result<()> {
    let mut seen: Vec<&ServedName> = Vec::new();
    for one in names {
        if let Some(other) = seen.iter().find(|other| other.name == one.name) {
            return Err(error::usage(format!(
                "{} stands for {} and for {}; give them names: NAME={}",
                one.name, other.file, one.file, one.file
            )));
        }
        seen.push(one);
    }
    Ok(())
}

/// The folder of a model or adapter: itself, or that of `builtin:tiny` or of a name on the Hub.
pub(crate) fn folder_of(model: &str, offline: bool) -> Result<PathBuf> {
    if Path::new(model).is_dir() { Ok(PathBuf::from(model)) } else { model_folder(model, offline) }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The name of an artifact that is given without one: a reference as it is, a file without its folder and `.gguf`.
fn name_of(artifact: &str) -> String {
    let path = Path::new(artifact);
    let file = if is_gguf(path) { path.file_stem().map(|stem| stem.to_string_lossy().into_owned()) } else { None };
    file.unwrap_or_else(|| artifact.trim_start_matches('@').trim_end_matches('/').to_string())
}

/// The session and step in whose folder a file is.
fn maker(file: &Path) -> Option<(String, String)> {
    let step = file.parent()?;
    let session = step.parent()?;
    let is_step = step.join("summary.json").is_file() && matches!(read_record(session), Ok(Some(_)));
    let name = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
    if is_step { Some((name(session)?, name(step)?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::{Error, Kind};
    use crate::base::files;
    use crate::session::{Session, Summary};

    fn served(given: &Value, runs: &Path) -> Result<Vec<ServedName>> {
        ServedName::all_in(json!({"model": given}).as_object().unwrap(), "model", runs, "s2")
    }

    #[test]
    fn a_name_is_given_or_that_of_the_artifact_and_the_step_is_known() {
        let runs = tempfile::tempdir().unwrap();
        drop(Session::open(runs.path(), "s1").unwrap().begin("convert_model_to_gguf", "convert", "2026-01-01T00:00:00.000Z", &[]));
        let step = runs.path().join("s1/convert");
        std::fs::create_dir(&step).unwrap();
        std::fs::write(step.join("a.q8_0.gguf"), "GGUF").unwrap();
        let mut summary = Summary::new("convert_model_to_gguf", "s1", "convert");
        summary.outputs.insert("gguf".into(), json!(["convert/a.q8_0.gguf"]));
        files::write_json(&step.join("summary.json"), &summary).unwrap();
        let file = runs.path().join("x=y.gguf");
        std::fs::write(&file, "GGUF").unwrap();

        let given = json!(["s1/convert:q8_0", "mine=s1/convert", file, format!("other={}", file.display())]);
        let names = served(&given, runs.path()).unwrap();
        assert_eq!(names.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["s1/convert:q8_0", "mine", "x=y", "other"]);
        assert_eq!(names[1].made_by, Some(("s1".into(), "convert".into())));
        assert_eq!((&names[0].file, &names[2].made_by), (&names[1].file, &None));
        let entry = names[1].entry(5, Some("base"));
        assert_eq!((&entry["id"], &entry["step"], &entry["parent"]), (&json!("mine"), &json!("convert"), &json!("base")));
        check_unique(&names).unwrap();
        let twice = [names[0].clone(), names[0].clone()];
        assert_eq!(Error::of(&check_unique(&twice).unwrap_err()).kind, Kind::Usage);
    }

    #[test]
    fn a_folder_is_a_model_or_refused() {
        let runs = tempfile::tempdir().unwrap();
        let folder = runs.path().join("model");
        std::fs::create_dir(&folder).unwrap();
        let error = Error::of(&served(&json!([folder]), runs.path()).unwrap_err());
        assert!(error.kind == Kind::Model && error.message.contains("it has no config.json"), "{}", error.message);
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        assert!(!served(&json!([folder]), runs.path()).unwrap()[0].is_gguf());
        let error = ServedName::all_in(json!({"adapter": [folder]}).as_object().unwrap(), "adapter", runs.path(), "s2").unwrap_err();
        assert!(error.to_string().contains("it has no adapter_config.json"), "{error}");
        std::fs::write(runs.path().join("a.gguf"), "GGUF").unwrap();
        for name in ["", " a", "a\nb", "a\"b"] {
            let error = Error::of(&served(&json!([format!("{name}={}", runs.path().join("a.gguf").display())]), runs.path()).unwrap_err());
            assert_eq!(error.kind, Kind::Usage, "{name}");
        }
    }
}
