//! The commands within a conversation.

use anyhow::Result;

use crate::base::error;
use crate::base::error::did_you_mean;

/// Name, argument, and what it does.
pub(crate) const NAMES: [(&str, &str, &str); 9] = [
    ("help", "", "show this list"),
    ("system", "[TEXT]", "set the system prompt, or show it; `/system none` removes it"),
    ("reset", "", "forget the conversation; the system prompt stays"),
    ("regenerate", "", "answer the last question again, with the next seed"),
    ("save", "[FILE]", "append the conversation to a data set [conversations.jsonl]"),
    ("params", "[NAME VALUE]", "set a parameter of the answers, or show all; the value `none` is the default"),
    ("model", "[MODEL]", "go on with another model, or show this one"),
    ("paste", "", "how to enter several lines"),
    ("quit", "", "end, as Ctrl-D does"),
];

/// A command of the conversation.
#[derive(Debug, PartialEq)]
pub(crate) enum SlashCommand {
    Help,
    System(Option<String>),
    Reset,
    Regenerate,
    Save(Option<String>),
    Params(Option<(String, Option<String>)>),
    Model(Option<String>),
    Paste,
    Quit,
}

impl SlashCommand {
    /// The command in a line that begins with `/`.
    ///
    /// # Errors
    /// Kind `usage` if there is none of that name.
    pub(crate) fn parse(line: &str) -> Result<SlashCommand> {
        let (name, rest) = line[1..].split_once(char::is_whitespace).unwrap_or((&line[1..], ""));
        let argument = Some(rest.trim().to_string()).filter(|text| !text.is_empty());
        Ok(match name {
            "help" => SlashCommand::Help,
            "system" => SlashCommand::System(argument),
            "reset" => SlashCommand::Reset,
            "regenerate" => SlashCommand::Regenerate,
            "save" => SlashCommand::Save(argument),
            "params" => SlashCommand::Params(argument.map(|text| match text.split_once([' ', '=']) {
                Some((name, value)) => (name.to_string(), Some(value.trim().to_string())),
                None => (text, None),
            })),
            "model" => SlashCommand::Model(argument),
            "paste" => SlashCommand::Paste,
            "quit" | "exit" => SlashCommand::Quit,
            other => {
                let near = did_you_mean(other, NAMES.iter().map(|(name, ..)| *name));
                let fix = near.map_or_else(|| "/help lists them".to_string(), |near| format!("did you mean /{near}?"));
                return Err(error::usage(format!(
                    "there is no command /{other}; {fix} (a question that begins with / needs a space before it)"
                )));
            }
        })
    }
}

/// The list that `/help` shows.
pub(crate) fn help() -> String {
    NAMES.iter().map(|(name, argument, about)| format!("{:<22} {about}\n", format!("/{name} {argument}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_list_is_one() {
        for (name, ..) in NAMES {
            SlashCommand::parse(&format!("/{name}")).unwrap();
        }
        let parsed = |line: &str| SlashCommand::parse(line).unwrap();
        assert_eq!(parsed("/system  Be brief. "), SlashCommand::System(Some("Be brief.".into())));
        assert_eq!(parsed("/params top_p 0.5"), SlashCommand::Params(Some(("top_p".into(), Some("0.5".into())))));
        assert_eq!(parsed("/params top_p=0.5"), parsed("/params top_p 0.5"));
        assert!(SlashCommand::parse("/rest").unwrap_err().to_string().contains("did you mean /reset?"));
    }
}
