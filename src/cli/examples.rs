//! The examples below a command's options. Those of tasks and dataset commands are in their definitions.

use crate::params::task::Examples;

/// Examples of the program as a whole.
pub(crate) const FIRST_STEPS: [(&str, &str); 3] = [
    ("Write a sample pipeline and its data, and run it:", "pyrust-nn run --init && pyrust-nn run"),
    ("Check a file of conversations before training on it:", "pyrust-nn check data.jsonl -m Qwen/Qwen3-0.6B"),
    ("Train an adapter on it, in a session with a name:", "pyrust-nn finetune-lora data.jsonl -m Qwen/Qwen3-0.6B --session s1"),
];

/// Examples of the commands that are neither tasks nor dataset commands, and of commands below them.
const OTHER_COMMANDS: [(&str, Examples); 23] = [
    (
        "run",
        [
            ("Run pipeline.toml of this folder:", "pyrust-nn run"),
            ("Run another file with another model, in a session with a name:", "pyrust-nn run mine.toml -m Qwen/Qwen3-0.6B --session s2"),
        ],
    ),
    (
        "init",
        [
            ("Write a pipeline for a data set and a model:", "pyrust-nn init data.jsonl -m Qwen/Qwen3-0.6B"),
            ("Convert the configuration of another tool:", "pyrust-nn init --from llama_factory.yaml -d data.jsonl"),
        ],
    ),
    (
        "completions",
        [
            ("Completions for bash:", "pyrust-nn completions bash \\\n      > ~/.local/share/bash-completion/completions/pyrust-nn"),
            ("Completions for fish:", "pyrust-nn completions fish > ~/.config/fish/completions/pyrust-nn.fish"),
        ],
    ),
    (
        "man",
        [
            ("Read the page of the program:", "pyrust-nn man | man -l -"),
            ("Write the pages of all commands:", "pyrust-nn man --dir ~/.local/share/man/man1"),
        ],
    ),
    (
        "resume",
        [
            ("Resume what was interrupted, and run what remains of the pipeline:", "pyrust-nn resume s1"),
            ("Resume one step only:", "pyrust-nn resume s1 --step finetune_lora"),
        ],
    ),
    (
        "reproduce",
        [
            ("Run the steps of a session again, and compare what they made:", "pyrust-nn reproduce s1"),
            ("Name the new session, and compare as JSON:", "pyrust-nn reproduce s1 --into check --json"),
        ],
    ),
    (
        "status",
        [
            ("Show the steps of a session and the end of its log:", "pyrust-nn status s1"),
            ("Show the warnings and errors of the last hour:", "pyrust-nn status s1 --level warning --since 1h"),
        ],
    ),
    (
        "watch",
        [
            ("Watch the session that runs; q leaves:", "pyrust-nn watch"),
            ("Watch a session of another folder:", "pyrust-nn watch s1 --runs-dir /data/runs"),
        ],
    ),
    (
        "report",
        [
            ("Write the report of a session and show it in the browser:", "pyrust-nn report s1 --open"),
            ("Write it, and its pictures as PNG files for a paper:", "pyrust-nn report s1 --png pictures"),
        ],
    ),
    (
        "compare",
        [
            ("Show what differs between two sessions:", "pyrust-nn compare s1 s2"),
            ("Write it as a page, with the curves over one another:", "pyrust-nn compare s1 s2 s3 --html compared.html"),
        ],
    ),
    (
        "sessions",
        [
            ("List the sessions in runs/:", "pyrust-nn sessions"),
            (
                "Remove what is no longer needed of sessions that are a month old:",
                "pyrust-nn sessions gc --checkpoints --failed --older-than 30d",
            ),
        ],
    ),
    (
        "serve stop",
        [("End the server of a session:", "pyrust-nn serve stop endpoint"), ("End the only one that runs:", "pyrust-nn serve stop")],
    ),
    (
        "sessions archive",
        [
            ("Write a session into s1.tar.zst, check it, and remove the session:", "pyrust-nn sessions archive s1"),
            ("Archive those that nobody used for a month:", "pyrust-nn sessions archive --older-than 30d --into archive --yes"),
        ],
    ),
    (
        "sessions rm",
        [
            ("Remove two sessions:", "pyrust-nn sessions rm s1 s2"),
            (
                "See which failed and are a month old, and remove nothing:",
                "pyrust-nn sessions rm --state failure --older-than 30d --dry-run",
            ),
        ],
    ),
    (
        "sessions gc",
        [
            ("Remove the checkpoints of steps that succeeded:", "pyrust-nn sessions gc --checkpoints"),
            ("Remove failed attempts beside a success too, without asking:", "pyrust-nn sessions gc --checkpoints --failed --yes"),
        ],
    ),
    ("cache list", [("List what the cache holds:", "pyrust-nn cache list"), ("The same as JSON:", "pyrust-nn cache list --json")]),
    (
        "cache clear",
        [
            ("Remove everything that no process uses:", "pyrust-nn cache clear"),
            ("Remove it, and print what is left as JSON:", "pyrust-nn cache clear --json"),
        ],
    ),
    (
        "export",
        [
            ("Write a session into s1.tar.zst:", "pyrust-nn export s1"),
            ("Write it to another place:", "pyrust-nn export s1 /backup/s1.tar.zst"),
        ],
    ),
    (
        "export-metrics",
        [
            ("Write the curves of a session for TensorBoard:", "pyrust-nn export-metrics s1 --to tensorboard"),
            ("Write the numbers of one step as a table:", "pyrust-nn export-metrics s1 --to csv --step finetune_lora --out loss.csv"),
        ],
    ),
    (
        "import",
        [
            ("Read it on another machine:", "pyrust-nn import s1.tar.zst"),
            ("Under another name:", "pyrust-nn import s1.tar.zst --session from-ana"),
        ],
    ),
    (
        "setup",
        [
            ("Find the Python environment, or create it:", "pyrust-nn setup"),
            ("Use an environment that exists:", "pyrust-nn setup --python-env /opt/venv --no-setup"),
        ],
    ),
    (
        "cache",
        [
            ("List what the cache holds, with the one used longest ago first:", "pyrust-nn cache list"),
            ("Remove everything that no process uses:", "pyrust-nn cache clear"),
        ],
    ),
    ("doctor", [("Report what is missing and how to fix it:", "pyrust-nn doctor"), ("The same as JSON:", "pyrust-nn doctor --json")]),
];

/// The examples of a command that is neither a task nor a dataset command, if it has any.
pub(crate) fn of_command(name: &str) -> Option<&'static Examples> {
    OTHER_COMMANDS.iter().find(|(command, _)| *command == name).map(|(_, examples)| examples)
}

/// Examples as text.
pub(crate) fn examples(examples: &[(&str, &str)]) -> String {
    let rows: Vec<String> = examples.iter().map(|(about, command)| format!("  {about}\n    {command}")).collect();
    format!("Examples:\n{}", rows.join("\n"))
}
