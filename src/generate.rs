//! What is made from the definition of the parameters: the typed stub, the docstrings, the page of tasks.

use std::fmt::Write;

use serde_json::Value;

use crate::params::{Kind, Param, Presence};
use crate::task::{TASKS, Task};

/// The task's name in Python.
pub fn function_name(task: &Task) -> &'static str {
    if task.name == "script" { "run_script" } else { task.name }
}

/// The docstring of a task's function; its first line is the signature that `help()` and `inspect` read.
pub(crate) fn docstring(task: &Task) -> String {
    let mut text = format!("{}(session, {}, *", function_name(task), task.subject.name);
    // Python wants those without a default first only by position; keywords may stand in any order.
    for param in (task.params)() {
        match param.presence {
            Presence::Required => write!(text, ", {}", param.name),
            _ => write!(text, ", {}={}", param.name, python_value(&(param.default)())),
        }
        .unwrap_or_default();
    }
    write!(text, ")\n--\n\n{}", documentation(task)).unwrap_or_default();
    text
}

fn documentation(task: &Task) -> String {
    let mut text = format!("{}, as a step of a session; returns the step's summary.\n\nArgs:\n", task.about);
    writeln!(text, "    session: Name of the session; None makes a fresh one.").unwrap_or_default();
    for param in task.all_params() {
        writeln!(text, "    {}: {} ({})", param.name, param.help.trim(), value_words(param)).unwrap_or_default();
    }
    text
}

/// "a whole number from 1 to 9; default 3".
fn value_words(param: &Param) -> String {
    let wanted = param.kind.wanted();
    match param.presence {
        Presence::Required => format!("{wanted}; required"),
        Presence::Unset => format!("{wanted}; unset by default"),
        Presence::Default => format!("{wanted}; default {}", plain(&(param.default)())),
    }
}

/// A default as people write it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Bool(false) => "off".into(),
        Value::Number(number) => match number.as_f64() {
            Some(x) if number.is_f64() && x != 0.0 && x.abs() < 1e-3 => format!("{x:e}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn python_value(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(flag) => if *flag { "True" } else { "False" }.into(),
        Value::String(text) => format!("'{text}'"),
        // A list parameter takes its only item by itself.
        Value::Array(items) if items.len() == 1 => python_value(&items[0]),
        Value::Array(items) => format!("({})", items.iter().map(python_value).collect::<Vec<_>>().join(", ")),
        Value::Number(number) if number.is_f64() => plain(value),
        other => other.to_string(),
    }
}

/// The whole of `python/pyrust_nn/_core.pyi`.
pub fn stub() -> String {
    let mut text = include_str!("stub_head.pyi").to_string();
    for task in &TASKS {
        write!(
            text,
            "\ndef {}(\n    session: str | None,\n    {}: {},\n    *,\n",
            function_name(task),
            task.subject.name,
            task.subject.kind.python_type()
        )
        .unwrap_or_default();
        for param in (task.params)() {
            let mut kind = param.kind.python_type();
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
        text.push_str(") -> Summary:\n    \"\"\"");
        text.push_str(
            &documentation(task)
                .lines()
                .enumerate()
                .map(|(i, line)| if i == 0 || line.is_empty() { format!("{line}\n") } else { format!("    {line}\n") })
                .collect::<String>(),
        );
        text.push_str("    \"\"\"\n");
    }
    let names: String = exported(&text).iter().map(|name| format!("    \"{name}\",\n")).collect();
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

/// The whole of `docs/tasks.md`.
pub fn tasks_page() -> String {
    let mut text = String::from(
        "# Tasks and their parameters\n\nEvery parameter has one name: `lora_rank` is the flag `--lora-rank`, the key in pipeline.toml, the keyword in Python and the field\nin Rust. Unset means that the step decides, and says in its summary what it took.\n",
    );
    for task in &TASKS {
        write!(text, "\n## {}\n\n{}. Command `pyrust-nn {}`.\n\n", function_name(task), task.about, task.command()).unwrap_or_default();
        text.push_str("| parameter | must be | default | meaning |\n|---|---|---|---|\n");
        let own = |param: &&'static Param| !["step", "overwrite", "dry_run", "device", "offline", "runs_dir"].contains(&param.name);
        for param in task.all_params().filter(own) {
            row(&mut text, param);
        }
    }
    text.push_str("\n## Every task\n\n| parameter | must be | default | meaning |\n|---|---|---|---|\n");
    text.push_str("| `session` | letters, digits, `.`, `_`, `-` | a fresh id | The session, a folder in the runs directory. |\n");
    for param in
        (TASKS[0].params)().iter().filter(|param| ["step", "overwrite", "dry_run", "device", "offline", "runs_dir"].contains(&param.name))
    {
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
    writeln!(text, "| `{}` | {wanted} | {default} | {} |", param.name, param.help.trim().replace('|', "\\|")).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        same("python/pyrust_nn/_core.pyi", &super::stub());
    }

    #[test]
    fn generated_tasks_page() {
        same("docs/tasks.md", &super::tasks_page());
    }
}
