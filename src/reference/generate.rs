//! What is generated and checked in: the typed stub and the page of tasks. `make generate` writes both; otherwise the tests here compare.

use std::fmt::Write;
use std::path::Path;

use crate::params::kind::Kind;
use crate::params::param::{Param, Presence, plain};
use crate::reference::function::{Function, python_value};
use crate::tasks::{DATASET_COMMANDS, TASKS};

fn functions() -> impl Iterator<Item = Function> {
    TASKS.iter().map(|task| Function::of_task(task)).chain(DATASET_COMMANDS.iter().map(|command| Function::of_command(command)))
}

/// Begins the internal part of the stub.
const INTERNAL: &str = "# Internal:";

/// The whole of `python/pyrust_nn/_core.pyi`.
fn stub() -> String {
    let head = include_str!("stub_head.pyi");
    let made: String = functions().map(|function| function_stub(&function)).collect();
    let (public, _) = head.split_once(INTERNAL).expect("the head has a part for internal functions");
    let text = format!("{head}{made}");
    let names: String = exported(&format!("{public}{made}")).iter().map(|name| format!("    \"{name}\",\n")).collect();
    // After the imports.
    text.replacen("\n\nclass ", &format!("\n\n__all__ = [\n{names}]\n\nclass "), 1)
}

/// What a stub defines: its classes, functions and constants.
fn exported(stub: &str) -> Vec<&str> {
    let mut names: Vec<&str> = stub
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("class ").or_else(|| line.strip_prefix("def ")).or_else(|| line.split_once(": ").map(|_| line))?;
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            (end > 0).then(|| &rest[..end])
        })
        .collect();
    names.sort_unstable();
    names
}

fn function_stub(function: &Function) -> String {
    let session = if function.session { "    session: str | None,\n" } else { "" };
    let mut text =
        format!("\ndef {}(\n{session}    {}: {},\n    *,\n", function.name, function.subject.name, python_type(function.subject.kind));
    for param in function.params {
        let mut kind = python_type(param.kind);
        let default = match param.presence {
            Presence::Required => String::new(),
            Presence::Unset => {
                kind.push_str(" | None");
                " = None".into()
            }
            Presence::Default => format!(" = {}", python_value(&(param.default)()).replace('\'', "\"")),
        };
        writeln!(text, "    {}: {kind}{default},", param.name).unwrap_or_default();
    }
    write!(text, ") -> {}:\n    \"\"\"", function.returns).unwrap_or_default();
    for (i, line) in function.documentation().lines().enumerate() {
        let indent = if i == 0 || line.is_empty() { "" } else { "    " };
        writeln!(text, "{indent}{line}").unwrap_or_default();
    }
    text.push_str("    \"\"\"\n");
    text
}

/// A kind in Python's notation, for arguments.
fn python_type(kind: Kind) -> String {
    let literal = |items: Vec<String>| format!("Literal[{}]", items.join(", "));
    match kind {
        Kind::Path | Kind::Model | Kind::Adapter => "str | PathLike[str]".into(),
        Kind::Text | Kind::Device => "str".into(),
        Kind::Bool => "bool".into(),
        Kind::Int { .. } => "int".into(),
        Kind::Float { .. } => "float".into(),
        Kind::Choice(names) => literal(names.iter().map(|name| format!("\"{name}\"")).collect()),
        Kind::IntChoice(numbers) => literal(numbers.iter().map(ToString::to_string).collect()),
        Kind::TextList => "Sequence[str]".into(),
        Kind::IntList => "Sequence[int]".into(),
        Kind::ChoiceList(names) => {
            let one = literal(names.iter().map(|name| format!("\"{name}\"")).collect());
            format!("{one} | Sequence[{one}]")
        }
        Kind::Paths => "str | PathLike[str] | Sequence[str | PathLike[str]]".into(),
        Kind::Prompts => "str | Sequence[str | Sequence[Message]] | Sequence[Message]".into(),
        Kind::Object => "Mapping[str, Any]".into(),
    }
}

/// Parameters of every step, shown once.
const OF_EVERY_STEP: [&str; 6] = ["step", "overwrite", "dry_run", "device", "offline", "runs_dir"];

/// The whole of `docs/tasks.md`.
fn tasks_page() -> String {
    let mut text = String::from(
        "# Tasks and their parameters\n\nEvery parameter has one name: `lora_rank` is the flag `--lora-rank`, the key in pipeline.toml, the keyword in Python and the field\nin Rust. Unset means that the step decides, and says in its summary what it took.\n",
    );
    for function in functions() {
        write!(text, "\n## {}\n\n{} Command `pyrust-nn {}`.\n\n", function.name, function.about, function.command).unwrap_or_default();
        text.push_str("| parameter | must be | default | meaning |\n|---|---|---|---|\n");
        for param in function.all_params().filter(|param| !function.session || !OF_EVERY_STEP.contains(&param.name)) {
            row(&mut text, param);
        }
    }
    text.push_str("\n## Every task\n\n| parameter | must be | default | meaning |\n|---|---|---|---|\n");
    text.push_str("| `session` | letters, digits, `.`, `_`, `-` | a fresh id | The session, a folder in the runs directory. |\n");
    for param in (TASKS[0].params)().iter().filter(|param| OF_EVERY_STEP.contains(&param.name)) {
        row(&mut text, param);
    }
    text
}

fn row(text: &mut String, param: &Param) {
    let default = match param.presence {
        Presence::Required => "**required**".to_string(),
        Presence::Unset => "unset".to_string(),
        Presence::Default => format!("`{}`", plain(&(param.default)())),
    };
    let wanted = if matches!(param.kind, Kind::Prompts) { "a text or a conversation".into() } else { param.kind.wanted() };
    writeln!(text, "| `{}` | {wanted} | {default} | {} |", param.name, param.full_help().replace('|', "\\|")).unwrap_or_default();
}

/// `make generate` sets PYRUST_NN_GENERATE and so writes what the test otherwise compares.
fn same(path: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("PYRUST_NN_GENERATE").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "{} differs from the definition in src/params.rs; run `make generate`", path.display());
}

#[test]
fn generated_stub() {
    same("python/pyrust_nn/_core.pyi", &stub());
}

#[test]
fn generated_tasks_page() {
    same("docs/tasks.md", &tasks_page());
}
