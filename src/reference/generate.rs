//! The generated files in the repository: the type stub, the pages of tasks and of other tools, the schema of pipeline.toml. `make generate` writes them; otherwise these tests compare them.

use std::fmt::Write;
use std::path::Path;

use crate::params::defaults_of_other_tools::OTHER_DEFAULTS;
use crate::params::names_of_other_tools::{NOT_NEEDED, OTHER_NAMES, Tool};
use crate::params::param::{Param, Presence, display_value};
use crate::params::param_type::ParamType;
use crate::reference::function::{Function, python_value};
use crate::reference::schema::pipeline_schema;
use crate::tasks::{DATASET_COMMANDS, TASKS};

fn functions() -> impl Iterator<Item = Function> {
    let tasks = TASKS.iter().map(|task| Function::of_task(task));
    tasks.chain([Function::of_serve(), Function::of_board()]).chain(DATASET_COMMANDS.iter().map(|command| Function::of_command(command)))
}

/// Begins the internal part of the stub.
const INTERNAL: &str = "# Internal:";

/// The whole of `python/pyrust_nn/_core.pyi`.
fn stub() -> String {
    let head = include_str!("stub_head.pyi");
    let made: String = functions().map(|function| function_stub(&function)).collect();
    let (public, _) = head.split_once(INTERNAL).expect("the head has a part for internal functions");
    let text = format!("{head}{made}");
    let names: String = exported_names(&format!("{public}{made}")).iter().map(|name| format!("    \"{name}\",\n")).collect();
    // After the imports.
    text.replacen("\n\nclass ", &format!("\n\n__all__ = [\n{names}]\n\nclass "), 1)
}

/// The names that a stub defines: classes, functions and constants.
fn exported_names(stub: &str) -> Vec<&str> {
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
    let input = function.input.map(|input| format!("    {}: {},\n", input.name, python_type(input.value_type))).unwrap_or_default();
    let mut text = format!("\ndef {}(\n{session}{input}    *,\n", function.name);
    for param in function.params {
        let mut annotation = python_type(param.value_type);
        let default = match param.presence {
            Presence::Required => String::new(),
            Presence::Unset => {
                annotation.push_str(" | None");
                " = None".into()
            }
            Presence::Default => format!(" = {}", python_value(&(param.default)()).replace('\'', "\"")),
        };
        writeln!(text, "    {}: {annotation}{default},", param.name).unwrap_or_default();
    }
    write!(text, ") -> {}:\n    \"\"\"", function.returns).unwrap_or_default();
    for (i, line) in function.documentation().lines().enumerate() {
        let indent = if i == 0 || line.is_empty() { "" } else { "    " };
        writeln!(text, "{indent}{line}").unwrap_or_default();
    }
    text.push_str("    \"\"\"\n");
    text
}

/// The Python annotation of an argument.
fn python_type(param_type: ParamType) -> String {
    let literal = |items: Vec<String>| format!("Literal[{}]", items.join(", "));
    match param_type {
        ParamType::Path | ParamType::Model | ParamType::Adapter | ParamType::Candidate | ParamType::Imatrix | ParamType::AnsweringModel => {
            "str | PathLike[str]".into()
        }
        ParamType::String | ParamType::Device | ParamType::Caseless(_) => "str".into(),
        ParamType::CaselessList { .. } | ParamType::TextList => "str | Sequence[str]".into(),
        ParamType::Bool => "bool".into(),
        ParamType::Int { .. } => "int".into(),
        ParamType::Processes { .. } => "int | Literal[\"auto\"]".into(),
        ParamType::Float { .. } => "float".into(),
        ParamType::Choice(names) => literal(names.iter().map(|name| format!("\"{name}\"")).collect()),
        ParamType::IntChoice(numbers) => literal(numbers.iter().map(ToString::to_string).collect()),
        ParamType::StringList => "Sequence[str]".into(),
        ParamType::IntList => "Sequence[int]".into(),
        ParamType::FloatList { .. } => "float | Sequence[float]".into(),
        ParamType::ChoiceList(names) => {
            let one = literal(names.iter().map(|name| format!("\"{name}\"")).collect());
            format!("{one} | Sequence[{one}]")
        }
        ParamType::Paths | ParamType::GgufAdapters | ParamType::NamedArtifacts => {
            "str | PathLike[str] | Sequence[str | PathLike[str]]".into()
        }
        ParamType::Prompts => "str | Sequence[str | Sequence[Message]] | Sequence[Message]".into(),
        ParamType::Object | ParamType::JsonObject => "Mapping[str, Any]".into(),
        ParamType::Names(_) => "Mapping[str, str]".into(),
    }
}

/// Parameters of every step. The page shows them once.
const COMMON_PARAMS: [&str; 6] = ["step", "overwrite", "dry_run", "device", "offline", "runs_dir"];

/// The whole of `docs/tasks.md`.
fn tasks_page() -> String {
    let mut text = String::from(
        "# Tasks and their parameters\n\nEvery parameter has one name: `lora_rank` is the flag `--lora-rank`, the key in pipeline.toml, the keyword in Python and the field\nin Rust. If a parameter is unset, the step chooses the value and records it in its summary.\n",
    );
    for function in functions() {
        write!(text, "\n## {}\n\n{} Command `pyrust-nn {}`.\n\n", function.name, function.about, function.command).unwrap_or_default();
        text.push_str("| parameter | must be | default | meaning |\n|---|---|---|---|\n");
        for param in function.all_params().filter(|param| !function.session || !COMMON_PARAMS.contains(&param.name)) {
            write_row(&mut text, param);
        }
    }
    text.push_str("\n## Every task\n\n| parameter | must be | default | meaning |\n|---|---|---|---|\n");
    text.push_str(
        "| `session` | letters, digits, `.`, `_`, `-` | a new id | Name of the session, which is a folder in the runs directory. |\n",
    );
    for param in (TASKS[0].params)().iter().filter(|param| COMMON_PARAMS.contains(&param.name)) {
        write_row(&mut text, param);
    }
    text
}

/// The whole of `docs/other-tools.md`.
fn other_tools_page() -> String {
    let mut text = include_str!("other_tools_head.md").to_string();
    write!(text, "\n| Pyrust-NN | {} |\n|---|{}\n", Tool::ALL.map(Tool::name).join(" | "), "---|".repeat(Tool::ALL.len()))
        .unwrap_or_default();
    let mut ours: Vec<&str> = OTHER_NAMES.iter().filter(|row| !row.tools.is_empty()).map(|row| row.ours).collect();
    ours.dedup();
    for name in ours {
        let theirs = Tool::ALL.map(|tool| {
            let rows = OTHER_NAMES.iter().filter(|row| row.ours == name && row.tools.contains(&tool));
            rows.map(|row| format!("`{}`", row.theirs)).collect::<Vec<_>>().join(", ")
        });
        writeln!(text, "| `{name}` | {} |", theirs.join(" | ")).unwrap_or_default();
    }
    text.push_str("\n## Values that differ\n\nFor all other names the value is the same.\n\n| their key | its value here |\n|---|---|\n");
    let mut told: Vec<(&str, Vec<String>)> = Vec::new();
    for row in OTHER_NAMES.iter().filter(|row| !row.tools.is_empty()) {
        let Some(how) = row.conversion.in_words() else { continue };
        let key = format!("`{}`", row.theirs);
        match told.iter_mut().find(|(words, _)| *words == how) {
            Some((_, keys)) if keys.contains(&key) => {}
            Some((_, keys)) => keys.push(key),
            None => told.push((how, vec![key])),
        }
    }
    for (how, keys) in told {
        writeln!(text, "| {} | {how} |", keys.join(", ")).unwrap_or_default();
    }
    text.push_str("\n## Their defaults\n\nWhere the file does not set these keys, `init` converts what the tool would do.\n\n| key | of | value |\n|---|---|---|\n");
    for default in OTHER_DEFAULTS {
        writeln!(text, "| `{}` | {} | {} |", default.key, default.tool.name(), default.in_words()).unwrap_or_default();
    }
    text.push_str("\n## Keys that need no counterpart\n\n| key | because |\n|---|---|\n");
    for (key, reason) in NOT_NEEDED {
        writeln!(text, "| `{key}` | {reason} |").unwrap_or_default();
    }
    text
}

fn write_row(text: &mut String, param: &Param) {
    let default = match param.presence {
        Presence::Required => "**required**".to_string(),
        Presence::Unset => "unset".to_string(),
        Presence::Default => format!("`{}`", display_value(&(param.default)())),
    };
    let expected =
        if matches!(param.value_type, ParamType::Prompts) { "a string or a conversation".into() } else { param.value_type.expected() };
    let help = in_a_cell(&param.full_help());
    writeln!(text, "| `{}` | {} | {default} | {help} |", param.name, in_a_cell(&expected)).unwrap_or_default();
}

/// Text for a cell of a Markdown table. Outside of code, Markdown takes `<think>` for an HTML tag and hides it.
fn in_a_cell(text: &str) -> String {
    let spans = text.split('`').enumerate();
    let escaped = spans.map(|(i, span)| if i % 2 == 0 { span.replace('<', "&lt;") } else { span.to_string() });
    escaped.collect::<Vec<_>>().join("`").replace('|', "\\|")
}

/// Compares a generated file with the repository's. With PYRUST_NN_GENERATE, which `make generate` sets, writes it first.
fn compare_or_write(path: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("PYRUST_NN_GENERATE").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == generated, "{} differs from the definitions in src/params and src/tasks; run `make generate`", path.display());
}

#[test]
fn generated_stub() {
    compare_or_write("python/pyrust_nn/_core.pyi", &stub());
}

#[test]
fn generated_schema() {
    compare_or_write("docs/pipeline.schema.json", &pipeline_schema());
}

#[test]
fn generated_other_tools_page() {
    compare_or_write("docs/other-tools.md", &other_tools_page());
}

#[test]
fn generated_tasks_page() {
    compare_or_write("docs/tasks.md", &tasks_page());
}

#[test]
fn a_tag_in_a_help_text_stays_text() {
    assert_eq!(in_a_cell("a <think> and `<think>` | b"), "a &lt;think> and `<think>` \\| b");
}
