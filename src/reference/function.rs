//! A function of the Python package: its signature and docstring.

use std::fmt::Write;

use serde_json::Value;

use crate::board;
use crate::board::BoardParams;
use crate::params::command::DatasetCommand;
use crate::params::param::{MODEL, Param, Presence, TaskParams, display_value};
use crate::params::task::Task;
use crate::serve;
use crate::serve::ServeParams;

/// A function of the Python package, derived from a task or a dataset command.
pub(crate) struct Function {
    pub name: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "only the generated pages show it"))]
    pub(crate) command: String,
    pub(crate) about: String,
    /// Whether it runs a step, and so takes a session as its first argument.
    pub(crate) session: bool,
    /// What it works on, its first own argument.
    pub input: Option<&'static Param>,
    pub(crate) params: &'static [Param],
    #[cfg_attr(not(test), expect(dead_code, reason = "only the generated stub shows it"))]
    pub(crate) returns: &'static str,
}

impl Function {
    pub(crate) fn of_task(task: &Task) -> Function {
        Function {
            name: task.function,
            command: task.command(),
            about: format!("{}, as a step of a session; returns the step's summary.", task.about),
            session: true,
            input: Some(task.input),
            params: (task.params)(),
            returns: "Summary",
        }
    }

    pub(crate) fn of_command(command: &'static DatasetCommand) -> Function {
        Function {
            name: command.function,
            command: command.name.into(),
            about: format!("{}.", command.about),
            session: false,
            input: Some(&MODEL),
            params: (command.params)(),
            returns: command.returns,
        }
    }

    pub(crate) fn of_serve() -> Function {
        Function {
            name: serve::NAME,
            command: serve::NAME.into(),
            about: format!("{}, as a step of a session; returns the running server.", serve::ABOUT),
            session: true,
            input: Some(&serve::SERVED_MODELS),
            params: ServeParams::params(),
            returns: "Server",
        }
    }

    pub(crate) fn of_board() -> Function {
        Function {
            name: board::NAME,
            command: board::NAME.into(),
            about: format!("{}; returns the running board.", board::ABOUT),
            session: false,
            input: None,
            params: BoardParams::params(),
            returns: "Board",
        }
    }

    pub(crate) fn all_params(&self) -> impl Iterator<Item = &'static Param> + use<> {
        self.input.into_iter().chain(self.params)
    }

    /// The docstring. Its first line is the signature that `help()` and `inspect` read.
    pub(crate) fn docstring(&self) -> String {
        let positions = self.session.then_some("session").into_iter().chain(self.input.map(|input| input.name));
        let mut text = format!("{}({}", self.name, positions.map(|name| format!("{name}, ")).collect::<String>());
        text.push('*');
        // Keyword-only parameters without a default may follow ones with a default.
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

    pub(crate) fn documentation(&self) -> String {
        let mut text = format!("{}\n\nArgs:\n", self.about);
        if self.session {
            writeln!(text, "    session: Name of the session; None creates a new one.").unwrap_or_default();
        }
        for param in self.all_params() {
            writeln!(text, "    {}: {} ({})", param.name, param.full_help(), type_and_default(param)).unwrap_or_default();
        }
        text
    }
}

/// Type, bounds and default of a parameter: "an integer from 1 to 9; default 3".
fn type_and_default(param: &Param) -> String {
    let expected = param.value_type.expected();
    match param.presence {
        Presence::Required => format!("{expected}; required"),
        Presence::Unset => format!("{expected}; unset by default"),
        Presence::Default => format!("{expected}; default {}", display_value(&(param.default)())),
    }
}

/// A default as Python source.
pub(crate) fn python_value(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(flag) => if *flag { "True" } else { "False" }.into(),
        Value::String(text) => format!("'{text}'"),
        // A list parameter accepts a single item without the list.
        Value::Array(items) if items.len() == 1 => python_value(&items[0]),
        Value::Array(items) => format!("({})", items.iter().map(python_value).collect::<Vec<_>>().join(", ")),
        Value::Number(number) if number.is_f64() => display_value(value),
        other => other.to_string(),
    }
}
