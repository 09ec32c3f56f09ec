//! Commands and flags that people look for under the names of other tools. Flags of parameters are in `params/names_of_other_tools.rs`.

use crate::base::error::did_you_mean;

/// A word and our commands for it.
const OTHER_COMMANDS: &[(&[&str], &[&str])] = &[
    (&["train", "finetune", "fine-tune", "fit", "sft", "tune"], &["finetune-lora", "finetune-full"]),
    (&["lora", "qlora", "peft", "adapter"], &["finetune-lora"]),
    (&["full"], &["finetune-full"]),
    (&["generate", "infer", "predict", "ask", "complete", "prompt", "test"], &["inference", "chat"]),
    (&["server", "api"], &["serve"]),
    (&["quantise", "quant"], &["quantize-model", "convert-model-to-gguf"]),
    (&["convert", "gguf", "to-gguf", "export-gguf", "convert-to-gguf"], &["convert-model-to-gguf", "convert-lora-to-gguf"]),
    (&["fuse", "merge-lora", "merge-adapter"], &["merge"]),
    (&["validate", "lint", "inspect", "data", "dataset", "tokenize", "preprocess"], &["check", "prepare"]),
    (&["evaluate", "eval", "proof", "prove"], &["verify"]),
    (&["list", "ls", "ps", "history", "session", "runs"], &["sessions", "cache list"]),
    (&["log", "logs", "show", "tail"], &["status"]),
    (&["monitor", "top", "progress"], &["watch", "status"]),
    (&["ui", "web", "webui", "studio", "dashboard", "gui"], &["board"]),
    (&["continue", "restart"], &["resume"]),
    (&["diff"], &["compare"]),
    (&["install"], &["setup"]),
    (&["new", "config", "create"], &["init"]),
    (&["rm", "remove", "delete", "clean", "gc", "prune"], &["sessions rm", "sessions gc", "cache clear"]),
    (&["completion"], &["completions"]),
    (&["info", "env"], &["doctor"]),
];

/// Our commands for a word that is none.
pub(crate) fn our_commands(word: &str) -> &'static [&'static str] {
    let word = word.to_lowercase().replace('_', "-");
    OTHER_COMMANDS.iter().find(|(others, _)| others.contains(&word.as_str())).map_or(&[], |(_, ours)| ours)
}

/// Our commands for a misspelled word of another tool, such as `trian`.
pub(crate) fn our_commands_nearly(word: &str) -> &'static [&'static str] {
    let others = OTHER_COMMANDS.iter().flat_map(|(others, _)| others.iter().copied());
    did_you_mean(&word.to_lowercase().replace('_', "-"), others).map_or(&[], our_commands)
}

/// A command, flags that it does not have, and the one that is meant.
const OTHER_FLAGS: &[(&str, &[&str], &str)] = &[
    ("status", &["tail", "last", "head", "count"], "--lines"),
    ("status", &["watch", "w", "live"], "--follow"),
    ("status", &["log-level"], "--level"),
    ("sessions", &["order", "sort-by", "order-by"], "--sort"),
    ("sessions", &["status", "where", "state"], "--filter"),
    ("sessions rm", &["force", "f"], "--yes"),
    ("sessions gc", &["force", "f"], "--yes"),
    ("serve", &["listen", "bind", "address"], "--host"),
    ("report", &["browser", "show", "view"], "--open"),
    ("merge", &["adapter", "lora", "checkpoint-lora"], "--model"),
    ("flatten", &["adapter", "lora", "checkpoint-lora"], "--model"),
    ("convert-lora-to-gguf", &["model", "m", "lora"], "--adapter"),
    ("init", &["force", "f"], "--overwrite"),
    ("init", &["convert", "config", "c"], "--from"),
    ("man", &["output", "o", "out"], "--dir"),
];

/// Flags of ours that a command has, or commands (none: all of them); flags of other tools that it does not have, and what to do here.
const OTHER_TIPS: &[(&[&str], &[&str], &str)] = &[
    (
        &["--session"],
        &["output-dir", "output", "out", "o", "save-dir"],
        "'--session' names this session, '--runs-dir' the folder of all sessions",
    ),
    (&["--dataset-path"], &["max-samples", "max-rows", "limit"], "'FILE::max_rows=N' reads so many rows of a file"),
    (&["--packing"], &["no-packing"], "'--packing off' switches it off"),
    (&["cache clear"], &["dry-run", "n"], "`pyrust-nn cache list` shows what there is"),
    (
        &["inference", "chat", "serve"],
        &["quantization", "quant", "load-in-4bit", "load-in-8bit", "4bit"],
        "`pyrust-nn quantize-model` makes a quantized model, which '--model' takes",
    ),
    (
        &[],
        &["config", "c", "yaml", "config-file"],
        "a pipeline file is given without a flag: `pyrust-nn run FILE.toml`; \
        `pyrust-nn init --from FILE.yaml` converts one of another tool",
    ),
];

/// What to do in place of a flag of another tool.
pub(crate) fn our_tip(command: &str, has: impl Fn(&str) -> bool, flag: &str) -> Option<&'static str> {
    let meant = |of: &&str| *of == command || of.strip_prefix("--").is_some_and(&has);
    OTHER_TIPS.iter().find(|(of, others, _)| (of.is_empty() || of.iter().any(meant)) && others.contains(&flag)).map(|(.., tip)| *tip)
}

/// Our flag for one that a command does not have.
pub(crate) fn our_flag(command: &str, flag: &str) -> Option<&'static str> {
    OTHER_FLAGS.iter().find(|(name, others, _)| *name == command && others.contains(&flag)).map(|(.., ours)| *ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::one_of::one_of;
    use crate::cli::args::command_line;

    #[test]
    fn other_names_lead_to_commands_and_are_none() {
        let root = command_line();
        for (others, ours) in OTHER_COMMANDS {
            for name in *ours {
                let mut words = name.split(' ');
                let command = root.find_subcommand(words.next().unwrap()).unwrap_or_else(|| panic!("{name}"));
                assert!(words.all(|inner| command.find_subcommand(inner).is_some()), "{name}");
            }
            assert!(others.iter().all(|name| root.find_subcommand(name).is_none()), "{others:?}");
        }
        for (command, others, ours) in OTHER_FLAGS {
            let found = command.split(' ').fold(&root, |inner, word| inner.find_subcommand(word).unwrap_or_else(|| panic!("{command}")));
            let has = |flag: &str| {
                found.get_arguments().any(|arg| arg.get_long() == Some(flag) || arg.get_short().map(String::from).as_deref() == Some(flag))
            };
            assert!(has(ours.trim_start_matches("--")), "{command} {ours}");
            assert!(!others.iter().any(|flag| has(flag)), "{command} {others:?}");
        }
        assert_eq!(one_of(our_commands("train")), "finetune-lora or finetune-full");
        assert_eq!(one_of(our_commands("RM")), "sessions rm, sessions gc or cache clear");
        assert!(our_commands("nothing").is_empty());
        assert_eq!(one_of(our_commands_nearly("Trian")), "finetune-lora or finetune-full");
        assert_eq!(one_of(our_commands_nearly("evalute")), "verify");
        assert!(our_commands_nearly("xyzzy").is_empty());
    }
}
