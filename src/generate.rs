//! What is made from the definition of the parameters: the typed stub, the docstrings, the page of tasks.

use std::fmt::Write;

use serde_json::Value;

use crate::dataset::{QUERIES, Query};
use crate::params::{Kind, MODEL, Param, Presence};
use crate::task::{TASKS, Task};

/// A function of the Python package, made from a row.
pub(crate) struct Function {
    pub name: &'static str,
    command: String,
    about: String,
    /// Whether it is a step, and so takes a session first.
    session: bool,
    pub subject: &'static Param,
    params: &'static [Param],
    returns: &'static str,
}

impl Function {
    pub(crate) fn of_task(task: &Task) -> Function {
        Function {
            name: function_name(task),
            command: task.command(),
            about: format!("{}, as a step of a session; returns the step's summary.", task.about),
            session: true,
            subject: task.subject,
            params: (task.params)(),
            returns: "Summary",
        }
    }

    pub(crate) fn of_query(query: &'static Query) -> Function {
        Function {
            name: query.function,
            command: query.command.into(),
            about: format!("{}.", query.about),
            session: false,
            subject: &MODEL,
            params: (query.params)(),
            returns: query.returns,
        }
    }

    fn all_params(&self) -> impl Iterator<Item = &'static Param> + use<> {
        std::iter::once(self.subject).chain(self.params)
    }

    /// Its first line is the signature that `help()` and `inspect` read.
    pub(crate) fn docstring(&self) -> String {
        let session = if self.session { "session, " } else { "" };
        let mut text = format!("{}({session}{}, *", self.name, self.subject.name);
        // Python wants those without a default first only by position; keywords may stand in any order.
        for param in self.params {
            match param.presence {
                Presence::Required => write!(text, ", {}", param.name),
                _ => write!(text, ", {}={}", param.name, python_value(&(param.default)())),
            }
            .unwrap_or_default();
        }
        write!(text, ")\n--\n\n{}", self.documentation()).unwrap_or_default();
        text
    }

    fn documentation(&self) -> String {
        let mut text = format!("{}\n\nArgs:\n", self.about);
        if self.session {
            writeln!(text, "    session: Name of the session; None makes a fresh one.").unwrap_or_default();
        }
        for param in self.all_params() {
            writeln!(text, "    {}: {} ({})", param.name, param.help.trim(), value_words(param)).unwrap_or_default();
        }
        text
    }

    fn stub(&self) -> String {
        let session = if self.session { "    session: str | None,\n" } else { "" };
        let mut text = format!("\ndef {}(\n{session}    {}: {},\n    *,\n", self.name, self.subject.name, self.subject.kind.python_type());
        for param in self.params {
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
        write!(text, ") -> {}:\n    \"\"\"", self.returns).unwrap_or_default();
        for (i, line) in self.documentation().lines().enumerate() {
            let indent = if i == 0 || line.is_empty() { "" } else { "    " };
            writeln!(text, "{indent}{line}").unwrap_or_default();
        }
        text.push_str("    \"\"\"\n");
        text
    }
}

fn functions() -> impl Iterator<Item = Function> {
    TASKS.iter().map(Function::of_task).chain(QUERIES.iter().map(Function::of_query))
}

/// The task's name in Python.
pub(crate) fn function_name(task: &Task) -> &'static str {
    if task.name == "script" { "run_script" } else { task.name }
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
    text.extend(functions().map(|function| function.stub()));
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

/// Parameters of every step, shown once.
const OF_EVERY_STEP: [&str; 6] = ["step", "overwrite", "dry_run", "device", "offline", "runs_dir"];

/// The whole of `docs/tasks.md`.
pub fn tasks_page() -> String {
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
