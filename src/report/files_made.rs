//! The files that a session made, what each is for, and which to use.

use std::path::Path;

use serde_json::{Value, json};

use crate::base::numbers::bytes;
use crate::gguf::FILE_TYPES;
use crate::report::proofs::proof_of;
use crate::report::recorded::{RecordedSession, RecordedStep};
use crate::session::artifact::names_in;

/// Files that are listed.
const MAX_FILES: usize = 100;

/// A file or folder that a step made.
struct MadeFile {
    step: usize,
    /// Relative to the session's folder, otherwise absolute.
    path: String,
    purpose: &'static str,
    /// What the command line calls it: `session/step`, or `session/step:q8_0`.
    name: Option<String>,
    size: u64,
    proof: Option<bool>,
    /// 0 is used first.
    rank: u8,
}

/// The files that can be used, the one to use first at the beginning.
pub(crate) fn files_made(session: &RecordedSession, runs: &Path) -> Value {
    let mut made: Vec<MadeFile> = Vec::new();
    for (number, step) in session.steps.iter().enumerate().filter(|(_, step)| step.succeeded()) {
        let Some(summary) = &step.summary else { continue };
        for (kind, paths) in &summary.outputs {
            for path in names_in(Some(paths)) {
                made.extend(made_file(session, number, step, kind, path));
            }
        }
    }
    // Later steps were made from earlier ones; of the files of one step the smallest that passed its proof is the handiest.
    made.sort_by_key(|one| (one.rank, std::cmp::Reverse(one.step), one.proof == Some(false), one.size));
    let more = made.len().saturating_sub(MAX_FILES);
    // From the folder that holds `runs`, the command needs no other.
    let runs_dir =
        if runs.file_name() == Some("runs".as_ref()) { String::new() } else { format!(" --runs-dir {}", quoted(&runs.to_string_lossy())) };
    let files: Vec<Value> = made
        .iter()
        .take(MAX_FILES)
        .map(|one| {
            json!({
                "step": session.steps[one.step].state.step,
                "path": one.path,
                "link": link(&one.path),
                "purpose": one.purpose,
                "size": bytes(one.size),
                "proof": match one.proof { Some(true) => "passed", Some(false) => "failed", None => "not made" },
                "command": one.name.as_ref().map(|name| format!("pyrust-nn chat -m {}{runs_dir}", quoted(name))),
            })
        })
        .collect();
    json!({"files": files, "more": more})
}

fn made_file(session: &RecordedSession, number: usize, step: &RecordedStep, kind: &str, path: &str) -> Option<MadeFile> {
    let of_step = format!("{}/{}", session.state.session, step.state.step);
    let (purpose, rank, name) = match (kind, step.state.task.as_str()) {
        ("gguf", "convert_lora_to_gguf") => ("adapter for llama.cpp, beside the GGUF file of its base", 3, None),
        ("gguf", _) => ("one file for llama.cpp, Ollama and LM Studio", 0, Some(with_type(&of_step, path))),
        ("model", "quantize_model") => ("smaller model for transformers with bitsandbytes", 1, Some(of_step)),
        ("model", _) => ("model for transformers and vLLM", 1, Some(of_step)),
        ("adapter", _) => ("LoRA adapter, beside its base model", 2, Some(of_step)),
        _ => return None,
    };
    let proof = proof_of(step, path).and_then(|proof| proof["passed"].as_bool());
    let size = size_of(&session.folder.join(path));
    Some(MadeFile { step: number, path: path.to_string(), purpose, name, size, proof, rank })
}

/// `session/step:q8_0` for `model.q8_0.gguf`.
fn with_type(step: &str, path: &str) -> String {
    let kind = path.strip_suffix(".gguf").and_then(|path| path.rsplit('.').next()).unwrap_or_default();
    if FILE_TYPES.iter().any(|of| of.name.eq_ignore_ascii_case(kind)) { format!("{step}:{kind}") } else { step.to_string() }
}

/// Bytes of a file, or of the files in a folder.
fn size_of(path: &Path) -> u64 {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => found.len(),
        Ok(_) => crate::session::folder_bytes(path),
        Err(_) => 0,
    }
}

/// The address of a file in the session's folder, relative to the report. `None` for a file elsewhere.
pub(crate) fn link(path: &str) -> Option<String> {
    if path.starts_with('/') || path.split('/').any(|part| part == ".." || part.is_empty()) {
        return None;
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte);
    // `./` keeps a name such as `javascript:x` a path.
    Some(
        path.bytes().fold(
            "./".to_string(),
            |link, byte| if plain(byte) { link + &char::from(byte).to_string() } else { format!("{link}%{byte:02X}") },
        ),
    )
}

/// A word for a POSIX shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_in_the_session() {
        assert_eq!(link("merge/model").as_deref(), Some("./merge/model"));
        assert_eq!(link("javascript:alert(1)").as_deref(), Some("./javascript%3Aalert%281%29"));
        assert_eq!(link("a b/\"é").as_deref(), Some("./a%20b/%22%C3%A9"));
        for path in ["/etc/passwd", "../other", "//host/x", "a/../../b", ""] {
            assert_eq!(link(path), None, "{path}");
        }
    }

    #[test]
    fn a_gguf_file_is_named_by_its_type() {
        assert_eq!(with_type("s/convert", "convert/x.q8_0.gguf"), "s/convert:q8_0");
        assert_eq!(with_type("s/convert", "convert/x.gguf"), "s/convert");
    }
}
