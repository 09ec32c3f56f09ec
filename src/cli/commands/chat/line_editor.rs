//! Input of a conversation: one line, or several, with editing and history by rustyline.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Result;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};

use crate::base::error::{Error, Kind};
use crate::base::files;
use crate::cli::commands::chat::slash_command::NAMES;

/// Begins and ends an input of several lines.
const FENCE: &str = "\"\"\"";

/// What was typed.
pub(crate) enum Input {
    Text(String),
    /// Ctrl-C: the line is given up.
    Cancelled,
    /// Ctrl-D, or the end of standard input.
    End,
}

pub(crate) struct LineEditor {
    editor: Editor<ChatHelper, DefaultHistory>,
    history: Option<PathBuf>,
}

impl LineEditor {
    /// The editor with the history of earlier conversations, if standard input is a terminal.
    pub(crate) fn new() -> Result<LineEditor> {
        let mut editor = Editor::new().map_err(|cause| Error::new(Kind::Io, format!("the terminal cannot be used: {cause}")))?;
        editor.set_helper(Some(ChatHelper));
        let history = if std::io::stdin().is_terminal() { history_file() } else { None };
        if let Some(path) = &history {
            drop(editor.load_history(path)); // there is none before the first conversation
        }
        Ok(LineEditor { editor, history })
    }

    /// Reads an input.
    pub(crate) fn read(&mut self) -> Result<Input> {
        match self.editor.readline("> ") {
            Ok(text) => {
                if !text.trim().is_empty() && self.editor.add_history_entry(&text).unwrap_or(false) {
                    self.keep();
                }
                Ok(Input::Text(without_marks(&text)))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Cancelled),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(cause) => Err(Error::new(Kind::Io, format!("standard input cannot be read: {cause}")).into()),
        }
    }

    /// Writes the history, so that a killed program keeps it. Without a place for it there is none.
    fn keep(&mut self) {
        if let Some(path) = &self.history
            && let Err(cause) = self.editor.append_history(path)
        {
            debug!("the history {} is not kept: {cause}", path.display());
        }
    }
}

/// `chat_history` in the user's state folder, which is made. rustyline makes the file private.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    let folder = state.join("pyrust-nn");
    files::create_folders(&folder).ok()?;
    Some(folder.join("chat_history"))
}

/// The text without the marks of several lines: a backslash before a line's end, and quotes around all.
fn without_marks(text: &str) -> String {
    let trimmed = text.trim();
    match trimmed.strip_prefix(FENCE).and_then(|rest| rest.strip_suffix(FENCE)) {
        Some(inner) => inner.trim_matches('\n').to_string(),
        None => trimmed.replace("\\\n", "\n"),
    }
}

/// Whether more lines follow.
fn is_incomplete(text: &str) -> bool {
    let fenced = text.trim_start().strip_prefix(FENCE);
    fenced.is_some_and(|rest| !rest.trim_end().ends_with(FENCE)) || (fenced.is_none() && text.ends_with('\\'))
}

struct ChatHelper;

impl Validator for ChatHelper {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if is_incomplete(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for ChatHelper {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        let names = NAMES.iter().map(|(name, ..)| format!("/{name}"));
        Ok((0, if typed.starts_with('/') { names.filter(|name| name.starts_with(typed)).collect() } else { Vec::new() }))
    }
}

impl Hinter for ChatHelper {
    type Hint = String;
}

impl Highlighter for ChatHelper {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        Cow::Borrowed(prompt)
    }
}

impl Helper for ChatHelper {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_are_one_input() {
        for (text, wanted) in [
            ("one", "one"),
            ("one\\\ntwo", "one\ntwo"),
            ("\"\"\"\na \\\n b\n\"\"\"", "a \\\n b"),
            ("\"\"\"one\"\"\"", "one"),
            ("say \"\"\"", "say \"\"\""),
        ] {
            assert!(!is_incomplete(text), "{text}");
            assert_eq!(without_marks(text), wanted);
        }
        for text in ["one\\", "\"\"\"", "\"\"\"\na", "\"\"\" a \"\" \\"] {
            assert!(is_incomplete(text), "{text}");
        }
    }
}
