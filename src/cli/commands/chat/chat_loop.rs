//! The conversation: its turns, its model and its parameters, and what the user may do with them.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::base::error::{Error, Kind};
use crate::base::printable::printable;
use crate::base::terminal::Terminal;
use crate::base::{error, files, progress, signals};
use crate::cli::commands::chat::chat_params::params;
use crate::cli::commands::chat::line_editor::{Input, LineEditor};
use crate::cli::commands::chat::side_by_side::{Reply, column_width, table};
use crate::cli::commands::chat::slash_command::{SlashCommand, help};
use crate::cli::output;
use crate::cli::text::{Style, counted};
use crate::cli::word_wrap::{last_part, next_part};
use crate::params::interface::Interface;
use crate::params::validate::accept;
use crate::python::{ChatAnswer, ChatModel};
use crate::session::artifact::{ArtifactKind, names_in, resolve_artifact};
use crate::session::hub_names::check_downloaded;

/// The parameters that `/params` shows and sets.
const SAMPLING: [&str; 9] =
    ["max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "seed", "template_kwargs"];
/// The parameters that belong to one model.
const OF_MODEL: [&str; 3] = ["base_model", "adapter", "adapter_scale"];

pub(crate) struct Chat {
    /// One, or those that are compared: all get the same questions.
    models: Vec<Partner>,
    params: Map<String, Value>,
    runs: PathBuf,
    system: Option<String>,
    /// How often the last question was answered again.
    again: u32,
}

/// A model and its conversation.
struct Partner {
    name: String,
    model: ChatModel,
    /// Questions and answers.
    turns: Vec<Value>,
}

impl Chat {
    /// Loads the models: that of the parameters, and those that are compared with it.
    pub(crate) fn open(params: Map<String, Value>, compared: &[String], runs: PathBuf, system: Option<String>) -> Result<Chat> {
        let mut models = vec![Partner::load(&params, &runs)?];
        for name in compared {
            models.push(Partner::load(&of_other_model(&params, name), &runs)?);
        }
        Ok(Chat { models, params, runs, system, again: 0 })
    }

    /// Reads inputs and answers them, to the end of standard input.
    pub(crate) fn run(mut self) -> Result<u8> {
        let mut editor = LineEditor::new()?;
        note(&format!("{}; /help lists the commands, Ctrl-D ends", self.names()));
        loop {
            end_if_asked()?;
            let text = match editor.read()? {
                Input::Text(text) => text,
                Input::Cancelled => {
                    note("Ctrl-D or /quit ends the chat");
                    continue;
                }
                Input::End => return Ok(0),
            };
            let done = match text.strip_prefix('/') {
                Some(_) => SlashCommand::parse(&text).and_then(|command| self.obey(command)),
                None if text.is_empty() => Ok(true),
                None => self.ask(&text),
            };
            match done {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(cause) => {
                    let error = Error::of(&cause);
                    if error.kind == Kind::Interrupted && error.signal != Some(libc::SIGINT) {
                        return Err(cause);
                    }
                    output::error(&error);
                }
            }
        }
    }

    /// Does what a command says. False: the conversation ends.
    fn obey(&mut self, command: SlashCommand) -> Result<bool> {
        match command {
            SlashCommand::Help => output::line(help().trim_end()),
            SlashCommand::Paste => output::line(
                "End a line with \\ to go on in the next, or put \"\"\" before and after the lines. Pasted lines stay together.",
            ),
            SlashCommand::System(None) => output::line(self.system.as_deref().unwrap_or("there is no system prompt")),
            SlashCommand::System(Some(text)) => self.system = Some(text).filter(|text| text != "none"),
            SlashCommand::Reset => {
                self.models.iter_mut().for_each(|partner| partner.turns.clear());
                self.again = 0;
            }
            SlashCommand::Regenerate => {
                if self.models[0].turns.len() < 2 {
                    return Err(error::usage("there is no answer yet"));
                }
                self.again += 1;
                let before: Vec<Option<Value>> = self.models.iter_mut().map(|partner| partner.turns.pop()).collect();
                if let Err(cause) = self.answer() {
                    for (partner, answer) in self.models.iter_mut().zip(before) {
                        partner.turns.extend(answer);
                    }
                    return Err(cause);
                }
            }
            SlashCommand::Save(file) => self.save(Path::new(file.as_deref().unwrap_or("conversations.jsonl")))?,
            SlashCommand::Params(None) => self.show_params(),
            SlashCommand::Params(Some((name, value))) => self.set_param(&name, value)?,
            SlashCommand::Model(None) => output::line(&self.names()),
            SlashCommand::Model(Some(_)) if self.models.len() > 1 => {
                return Err(error::usage("several models are compared; start chat again to change them"));
            }
            SlashCommand::Model(Some(name)) => {
                let params = of_other_model(&self.params, &name);
                // Only if it can be loaded is the present one given up.
                let turns = std::mem::take(&mut self.models[0].turns);
                match Partner::load(&params, &self.runs) {
                    Ok(partner) => self.models = vec![Partner { turns, ..partner }],
                    Err(cause) => {
                        self.models[0].turns = turns;
                        return Err(cause);
                    }
                }
                self.params = params;
                note(&format!("{}; the conversation goes on", self.names()));
            }
            SlashCommand::Quit => return Ok(false),
        }
        Ok(true)
    }

    /// Asks a question. Without an answer it is not part of the conversation.
    fn ask(&mut self, question: &str) -> Result<bool> {
        for partner in &mut self.models {
            partner.turns.push(json!({"role": "user", "content": question}));
        }
        self.again = 0;
        if let Err(cause) = self.answer() {
            self.models.iter_mut().for_each(|partner| drop(partner.turns.pop()));
            return Err(cause);
        }
        Ok(true)
    }

    /// Answers the last question, by all models or by none.
    fn answer(&mut self) -> Result<()> {
        let mut params = self.params.clone();
        let seed = params["seed"].as_u64().unwrap_or_default().wrapping_add(self.again.into()) % (1 << 32);
        params.insert("seed".into(), seed.into());
        let width = column_width(output::stdout_width(), self.models.len());
        let mut answers = Vec::new();
        for partner in &self.models {
            if width.is_some() {
                progress::status(&format!("{} answers", partner.name));
            } else if self.models.len() > 1 {
                output::line(&Style::of_stdout().bold(&format!("{}:", partner.name)));
            }
            let answer = partner.model.answer(&self.messages(partner), &params, if width.is_some() { |_| {} } else { show });
            progress::clear();
            output::text(&last_part());
            let answer = answer?;
            if width.is_none() {
                output::line("");
                note(&counts(&answer));
            }
            answers.push(answer);
        }
        if let Some(width) = width {
            let reply = |(partner, answer): (&Partner, &ChatAnswer)| Reply {
                name: partner.name.clone(),
                text: printable(&answer.text).into_owned(),
                counts: counts(answer),
            };
            let replies: Vec<Reply> = self.models.iter().zip(&answers).map(reply).collect();
            output::verbatim(&table(&replies, width, Style::of_stdout()));
        }
        for (partner, answer) in self.models.iter_mut().zip(answers) {
            partner.turns.push(json!({"role": "assistant", "content": answer.text}));
        }
        Ok(())
    }

    fn messages(&self, partner: &Partner) -> Vec<Value> {
        let system = self.system.as_ref().map(|text| json!({"role": "system", "content": text}));
        system.into_iter().chain(partner.turns.iter().cloned()).collect()
    }

    fn names(&self) -> String {
        self.models.iter().map(|partner| partner.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Appends the conversation to a data set; of compared models that of the first.
    fn save(&self, file: &Path) -> Result<()> {
        let first = &self.models[0];
        if first.turns.is_empty() {
            return Err(error::usage("there is no answer yet, so nothing was saved"));
        }
        if !is_json_lines(file)? {
            let file = file.display();
            return Err(error::usage(format!(
                "{file} exists and is not JSON Lines, so nothing was added to it; name another file, such as chat.jsonl"
            )));
        }
        files::append_line(file, &json!({"messages": self.messages(first)}).to_string())?;
        let whose = if self.models.len() > 1 { format!("the conversation with {} is ", first.name) } else { String::new() };
        output::line(&format!("{whose}saved to {}", file.display()));
        Ok(())
    }

    fn show_params(&self) {
        for name in SAMPLING {
            let value = &self.params[name];
            let unset = if ["stop", "template_kwargs"].contains(&name) { "none" } else { "the model's own" };
            output::line(&if value.is_null() { format!("{name:<20} {unset}") } else { format!("{name:<20} {value}") });
        }
    }

    fn set_param(&mut self, name: &str, value: Option<String>) -> Result<()> {
        let Some(param) = params().find(|param| param.name == name && SAMPLING.contains(&name)) else {
            let near = error::did_you_mean(name, SAMPLING).map_or_else(String::new, |near| format!("; did you mean {near}?"));
            return Err(error::usage(format!("answers have no parameter {name}{near}")));
        };
        match value {
            None => output::line(&self.params[name].to_string()),
            Some(text) if text == "none" => drop(self.params.insert(name.into(), (param.default)())),
            Some(text) => {
                let value = accept(param, param.value_type.parse_text(&[text]), Interface::Python)?;
                self.params.insert(name.into(), value);
            }
        }
        Ok(())
    }
}

impl Partner {
    fn load(params: &Map<String, Value>, runs: &Path) -> Result<Partner> {
        let name = params["model"].as_str().unwrap_or_default().to_string();
        Ok(Partner { name, model: load(params, runs)?, turns: Vec::new() })
    }
}

/// The parameters for another model, without those that belong to one.
fn of_other_model(params: &Map<String, Value>, name: &str) -> Map<String, Value> {
    let mut params = params.clone();
    params.insert("model".into(), name.into());
    for own in OF_MODEL {
        params.insert(own.into(), Value::Null);
    }
    params
}

/// Loads the model that the parameters name.
fn load(params: &Map<String, Value>, runs: &Path) -> Result<ChatModel> {
    let mut resolved = params.clone();
    for (name, kind) in [("model", ArtifactKind::Answering), ("base_model", ArtifactKind::Model), ("adapter", ArtifactKind::GgufAdapter)] {
        let given: Vec<&str> = names_in(params.get(name)).collect();
        let found = given.iter().map(|one| resolve_artifact(one, runs, "", kind)).collect::<Result<Vec<_>>>()?;
        found.iter().try_for_each(|one| check_downloaded(one, params["offline"] == true))?;
        let value = if params[name].is_array() { found.into() } else { found.into_iter().next().into() };
        resolved.insert(name.into(), value);
    }
    let model = ChatModel::open(&resolved);
    progress::clear();
    model
}

/// Whether a line of JSON may be added to a file: it is missing or empty, or its first line is an object.
fn is_json_lines(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(true),
        opened => opened.with_context(|| format!("{} cannot be read", path.display()))?,
    };
    let mut first = String::new();
    let read = BufReader::new(file).read_line(&mut first);
    Ok(read.is_ok_and(|bytes| bytes == 0 || serde_json::from_str::<Map<String, Value>>(&first).is_ok()))
}

/// Shows the next part of an answer.
fn show(text: &str) {
    output::text(&next_part(&printable(text)));
}

/// Says something beside the conversation, on stderr.
fn note(text: &str) {
    drop(writeln!(Terminal::Stderr, "{}", output::at_stderr_s_width(&Style::of_stderr().dim(&printable(text)))));
}

/// The counts at the end of an answer.
fn counts(answer: &ChatAnswer) -> String {
    let end = match answer.finish_reason.as_str() {
        "stop" => "",
        "length" => "; cut off at max_new_tokens (/params max_new_tokens changes it) or at the model's positions",
        _ => "; stopped",
    };
    match (answer.prompt_tokens, answer.completion_tokens, answer.seconds) {
        (Some(prompt), Some(tokens), Some(seconds)) => {
            let rate = tokens as f64 / seconds.max(1e-3);
            format!("[{}, {rate:.1} tokens/s; prompt {}{end}]", counted(tokens, "token"), counted(prompt, "token"))
        }
        _ => format!("[{}]", end.trim_start_matches("; ")),
    }
}

/// Ends the program after SIGTERM or SIGHUP. Ctrl-C ends an answer only.
fn end_if_asked() -> Result<()> {
    signals::check().or_else(|cause| if Error::of(&cause).signal == Some(libc::SIGINT) { Ok(()) } else { Err(cause) })
}
