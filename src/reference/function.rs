//! A function of the Python package as its callers see it: signature and docstring.

use std::fmt::Write;

use serde_json::Value;

use crate::params::command::DatasetCommand;
use crate::params::param::{MODEL, Param, Presence, plain};
use crate::params::task::Task;

/// A function of the Python package, made from a row.
pub(crate) struct Function {
    pub name: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "only the generated pages show it"))]
    pub(crate) command: String,
    pub(crate) about: String,
    /// Whether it is a step, and so takes a session first.
    pub(crate) session: bool,
    pub subject: &'static Param,
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
            subject: task.subject,
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
            subject: &MODEL,
            params: (command.params)(),
            returns: command.returns,
        }
    }

    pub(crate) fn all_params(&self) -> impl Iterator<Item = &'static Param> + use<> {
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

    pub(crate) fn documentation(&self) -> String {
        let mut text = format!("{}\n\nArgs:\n", self.about);
        if self.session {
            writeln!(text, "    session: Name of the session; None makes a fresh one.").unwrap_or_default();
        }
        for param in self.all_params() {
            writeln!(text, "    {}: {} ({})", param.name, param.full_help(), value_words(param)).unwrap_or_default();
        }
        text
    }
}

/// "a whole number from 1 to 9; default 3".
pub(crate) fn value_words(param: &Param) -> String {
    let wanted = param.kind.wanted();
    match param.presence {
        Presence::Required => format!("{wanted}; required"),
        Presence::Unset => format!("{wanted}; unset by default"),
        Presence::Default => format!("{wanted}; default {}", plain(&(param.default)())),
    }
}

pub(crate) fn python_value(value: &Value) -> String {
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
