"""What a terminal shows in the end: streamed answers, the bar, the first minute of a training; and plain lines elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal

Cli = Callable[..., subprocess.CompletedProcess[str]]
BAR = re.compile("[━─█░]")


def script(folder: Path, body: str) -> Path:
    """A user's script with this body of `run`."""
    path = folder / "mine.py"
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    path.write_text(f"import logging, os, pathlib, sys, time, warnings\n\ndef run(params, session):\n{lines}", encoding="utf-8")
    return path


def next_command(terminal: Terminal, label: str = "next: ") -> str:
    """The command that the program suggests after a label, as it is copied from the terminal."""
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.raw.decode()).replace("\r\n", "\n")
    after = written.rpartition(label)[2]
    found = re.match(r"(?:[^\n]*\\\n)*[^\n]*", after)
    return found[0] if found else after


def shell_words(command: str) -> list[str]:
    """The words of a command for a shell."""
    done = subprocess.run(
        ["sh", "-c", f"for word in {command}; do printf '%s\\0' \"$word\"; done"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


HOLD = """
pathlib.Path("reached").touch()
while not os.path.exists("go on"):
    time.sleep(0.02)
"""


def test_a_streamed_answer_is_text_without_a_bar_beside_it(binary: Path, runs: Path, tmp_path: Path) -> None:
    sentence = "It fine-tunes Qwen models from a file of conversations, in one program, and keeps a record of everything it did."
    words = sentence.split()
    body = f"""
session.progress(0, 2)
for answer in range(2):
    session.stream("> question\\n")
    for word in {words!r}:
        session.stream(word + " ")
        time.sleep(0.03)
    session.stream("\\n\\n")
    session.progress(answer + 1, 2)
"""
    terminal = Terminal(binary, "script", script(tmp_path, body), "--session", "s", "--runs-dir", runs)
    assert terminal.finish() == 0
    assert not BAR.search(terminal.text), terminal.text
    assert terminal.unwrapped.count("> question " + sentence) == 2, terminal.text
    # Lines are broken between words, and no sooner than needed.
    assert not terminal.broken
    first = next(i for i, line in enumerate(terminal.lines) if line == "> question")
    assert len(terminal.lines[first + 1]) > 70


def test_a_log_line_in_the_middle_of_an_answer_has_a_line_of_its_own(binary: Path, runs: Path, tmp_path: Path) -> None:
    body = 'session.stream("half of it")\nlogging.warning("something odd")\nsession.stream("the rest\\n")'
    terminal = Terminal(binary, "script", script(tmp_path, body), "--session", "s", "--runs-dir", runs)
    assert terminal.finish() == 0
    at = terminal.lines.index("half of it")
    assert terminal.lines[at + 1 : at + 3] == ["warning: something odd", "the rest"]


def test_an_answer_of_the_model_is_shown_as_it_is(binary: Path, runs: Path, trained: dict[str, str], conversations: Any) -> None:
    question, answer = (conversations[0][i]["content"] for i in (0, 1))
    words = ["--model", trained["full"], "--prompt", question, "--temperature", "0"]
    terminal = Terminal(binary, "inference", *words, "--session", "s", "--runs-dir", runs)
    assert terminal.finish() == 0
    assert answer in " ".join(terminal.text.split()) and len(answer) > 80, terminal.text
    assert not terminal.broken
    assert not BAR.search(terminal.text)


@pytest.mark.parametrize("columns", [20, 40, 80, 140])
def test_the_bar_is_one_line_of_any_width(binary: Path, runs: Path, tmp_path: Path, columns: int) -> None:
    text = "loss 0.1605  1,234 tokens/s  18 s left"
    body = f'for i in range(101):\n    session.progress(i, 200, "{text}")\n    time.sleep(0.3 if i == 99 else 0.004)\n' + HOLD
    terminal = Terminal(binary, "script", script(tmp_path, body), "--session", "s", "--runs-dir", runs, columns=columns, cwd=tmp_path)
    terminal.wait_for(tmp_path / "reached")
    shown = [line for line in terminal.lines if "50%" in line]
    assert shown == terminal.lines[-1:], terminal.text
    assert terminal.text.count("%") == 1, "no redraw was left on the screen"
    assert ("━" in shown[0]) == (columns >= 80) and len(shown[0]) < columns
    assert "loss" in shown[0] and ("18 s left" in shown[0]) == (columns >= 80)
    (tmp_path / "go on").touch()
    assert terminal.finish() == 0
    assert "%" not in terminal.text


@pytest.mark.parametrize("columns", [60, 80])
def test_ctrl_c_leaves_no_bar_on_the_screen(binary: Path, runs: Path, tmp_path: Path, columns: int) -> None:
    """The terminal itself writes `^C` behind the bar."""
    body = 'session.progress(9, 200, "loss 0.1605  1,234 tokens/s  2 min and 18 s left")\n' + HOLD
    terminal = Terminal(binary, "script", script(tmp_path, body), "--session", "s", "--runs-dir", runs, columns=columns, cwd=tmp_path)
    terminal.wait_for(tmp_path / "reached")
    assert "4%" in terminal.lines[-1]
    os.write(terminal.parent, b"\x03")
    assert terminal.read(60) and "^C" in terminal.text, terminal.text
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert "interrupted by Ctrl-C" in terminal.text and "%" not in terminal.text, terminal.text


def test_what_libraries_say_is_in_the_log_alone(binary: Path, cli: Cli, runs: Path, tmp_path: Path) -> None:
    body = """
import sysconfig
library = sysconfig.get_path("purelib") + "/library.py"
text = "import logging\\nlogging.getLogger('library').info('noise of a library')\\nlogging.getLogger('library').warning('its warning')"
exec(compile(text, library, "exec"))
warnings.warn_explicit("will change", FutureWarning, library, 1)
warnings.warn_explicit("look out", UserWarning, library, 1)
warnings.warn_explicit("IProgress not found. Please update jupyter and ipywidgets.", UserWarning, library, 1)
for share in (0, 50, 100):
    sys.stderr.write(f"\\rLoading: {share}%|{'#' * (share // 10):10}|")
sys.stderr.write("\\n")
logging.getLogger("mine").info("my own line")
print("printed")
"""
    mine = script(tmp_path, body)
    terminal = Terminal(binary, "script", mine, "--session", "s", "--runs-dir", runs)
    assert terminal.finish() == 0
    for absent in ("noise of a library", "will change", "Loading: 100%"):
        assert absent not in terminal.text
        assert absent in (runs / "s/pipeline.log").read_text()
    for present in ("warning: its warning", "look out", "my own line", "printed"):
        assert present in terminal.text, terminal.text
    assert "IProgress" not in terminal.text
    assert "noise of a library" in cli("script", mine, "--session", "v", "--runs-dir", runs, "--verbose").stderr
    piped = cli("script", mine, "--session", "p", "--runs-dir", runs).stderr
    assert "Loading: " not in piped and "IProgress" not in piped and "my own line" in piped, piped


@pytest.mark.parametrize("columns", [80, 140])
def test_the_first_minute(binary: Path, cli: Cli, runs: Path, data_json: str, columns: int) -> None:
    words = ["--model", "builtin:tiny", "--dataset-path", data_json, "--num-epochs", "2", "--device", "cpu"]
    terminal = Terminal(binary, "finetune-lora", *words, "--session", "s", "--runs-dir", runs, columns=columns)
    assert terminal.finish() == 0
    text = terminal.text
    metrics = json.loads((runs / "s/finetune_lora/summary.json").read_text())["metrics"]
    for wanted in (
        f"builtin:tiny: {metrics['all_parameters']:,} parameters, {metrics['trainable_parameters']:,} of them trained (",
        "device    cpu, fp32",
        f"data      31 rows, {metrics['tokens']:,} tokens, {metrics['target_tokens']:,} of them trained on",
        "training  16 steps of 4 rows, 2 epochs",
        "time      estimated after 4 steps",
        "memory    about ",
        "remaining time: about ",
        " for 12 steps",
        f"result                       loss {metrics['first_loss']:.3f} → {metrics['last_loss']:.3f}",
        str(runs / "s/finetune_lora/adapter"),
    ):
        assert " ".join(wanted.split()) in terminal.unwrapped, text
    assert "loading torch" in terminal.raw.decode()
    assert not BAR.search(text) and "[INFO" not in text and "Loading weights" not in text
    assert not re.search(r" 0(\.0*)?$", text, re.MULTILINE), "zeros tell nothing"
    assert max(map(len, terminal.lines)) <= columns and not any(line.endswith("-") for line in terminal.lines)
    log = (runs / "s/pipeline.log").read_text()
    assert "Loading weights" in log and "step 10 of 16" in log
    # The next command is one that works.
    program, *rest = shell_words(next_command(terminal))
    assert program == "pyrust-nn"
    done = cli(*rest, "--max-new-tokens", "2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_the_commands_for_a_new_pipeline_can_be_copied(binary: Path, tmp_path: Path, data_json: str, columns: int) -> None:
    file = "a folder/a-pipeline-with-a-long-name.toml"
    (tmp_path / file).parent.mkdir()
    terminal = Terminal(binary, "init", data_json, "-m", "builtin:tiny", "-o", file, columns=columns)
    assert terminal.finish() == 0
    assert shell_words(next_command(terminal, "check: ")) == ["pyrust-nn", "run", file, "--dry-run"], terminal.text
    assert shell_words(next_command(terminal, "run:   ")) == ["pyrust-nn", "run", file], terminal.text
    # In an error too, what is in backticks is not broken.
    error = Terminal(binary, "run", "nowhere.toml", columns=columns)
    assert error.finish() == 2
    assert "`pyrust-nn init`" in error.text.replace("error:\n", ""), error.text


def test_early_stopping_says_so(cli: Cli, runs: Path, data_json: str) -> None:
    words = ["--dataset-path", data_json, "--eval-split", "0.2", "--eval-steps", "1", "--early-stopping-patience", "1"]
    words += ["--learning-rate", "9", "--num-epochs", "3"]
    done = cli("finetune-lora", "--model", "builtin:tiny", *words, "--session", "s", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((runs / "s/finetune_lora/summary.json").read_text())["metrics"]
    assert metrics["stopped_early"] is True and metrics["steps"] < 21
    assert f"stopped early at step {metrics['steps']} of 21: no lower evaluation loss than" in done.stderr
    assert f"stopped early at step {metrics['steps']}" in done.stdout


def test_colours_are_for_terminals_that_want_them(binary: Path, runs: Path, tmp_path: Path) -> None:
    mine = script(tmp_path, 'logging.warning("odd")\nsession.progress(1, 2)\ntime.sleep(0.3)')
    colours = re.compile(rb"\x1b\[[0-9;]*m")
    for i, (environment, coloured) in enumerate([({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]):
        terminal = Terminal(binary, "script", mine, "--session", f"s{i}", "--runs-dir", runs, **environment)
        assert terminal.finish() == 0
        # Resetting a colour that was never set is what the library of the bar does.
        found = [code for code in colours.findall(terminal.raw) if code not in (b"\x1b[0m", b"\x1b[m")]
        assert bool(found) == coloured, (environment, found)
        # Neither black nor white, which one of a light and a dark terminal would not show.
        assert not [code for code in found if re.search(rb"[\[;](30|37|90|97|4[0-7])[;m]", code)]


def test_elsewhere_the_lines_are_plain(cli: Cli, runs: Path, tmp_path: Path) -> None:
    mine = script(tmp_path, 'session.progress(1, 2, "half")\nsession.progress(2, 2, "whole")\nlogging.info("mine")')
    done = cli("script", mine, "--session", "s", "--runs-dir", runs)
    lines = done.stderr.splitlines()
    assert all(line.startswith("[INFO ] ") for line in lines) and "\x1b" not in done.stderr
    assert "[INFO ] script 2/2 whole" in lines and "[INFO ] mine" in lines
    assert lines[-1].startswith("[INFO ] step script succeeded in ")


@pytest.mark.parametrize("columns", [80, 140])
def test_no_word_of_an_error_is_broken_at_the_edge(binary: Path, runs: Path, tmp_path: Path, columns: int) -> None:
    """Of a step's error with causes, of a usage error found by clap, and of one found by us."""
    words = "the quantization of experts in a mixture needs considerably more memory than this machine has available, unfortunately; "
    (tmp_path / "mine.py").write_text(f"def run(params, session):\n    raise ValueError({words * 3!r}) from KeyError({words * 2!r})\n")
    for arguments, said in (
        (["script", "mine.py", "--session", "s", "--runs-dir", runs], [words.strip(), "caused by: KeyError"]),
        (["finetune-lora", "-m", "builtin:tiny"], ["finetune-lora needs --dataset-path: files"]),
        (["finetune-lora", "-m", "builtin:tiny", "--lora-rnk", "8"], ["--lora-rank"]),
        (["finetune-lora", "-m", "builtin:tiny", "-d", "x.json", "--checkpoint-mode", "stack"], ["give it as --checkpoint-lora"]),
        (["convert-model-to-gguf", "-m", "builtin:tiny", "--outtype", "q9"], ["q5_k_m"]),
    ):
        terminal = Terminal(binary, *arguments, columns=columns, cwd=tmp_path)
        assert terminal.finish() != 0
        for part in said:
            assert part in " ".join(" ".join(terminal.lines).split()), terminal.text
        assert not terminal.broken, terminal.text


@pytest.mark.parametrize("columns", [80, 140])
def test_the_next_command_can_be_copied(binary: Path, tmp_path: Path, data_json: str, columns: int) -> None:
    """Into a shell: where it is longer than a line, the lines end in backslashes."""
    runs = tmp_path / "a folder with a long name for the sessions of this model"
    words = ["-m", "builtin:tiny", "-d", data_json, "--num-epochs", "0.1", "--session", "s", "--runs-dir", runs]
    terminal = Terminal(binary, "finetune-lora", *words, columns=columns)
    assert terminal.finish() == 0
    command = next_command(terminal)
    assert shell_words(command) == shell_words(f"pyrust-nn inference --model s/finetune_lora --prompt Hello --runs-dir '{runs}'")
    assert command.startswith("pyrust-nn inference --model s/finetune_lora --prompt Hello --runs-dir \\\n    '")


ASKING = """
model = {model}
max_new_tokens = 24
temperature = 0
[[step]]
task = "inference"
name = "ask"
prompt = ["How do I run the sample?", "What is Pyrust-NN?"]
[[step]]
task = "inference"
name = "ask_one"
prompt = "What is Pyrust-NN?"
prompts_file = "more.txt"
"""


def test_a_pipeline_shows_the_answers_to_the_prompts_in_it(binary: Path, cli: Cli, trained: dict[str, str], tmp_path: Path) -> None:
    """Each below its prompt when the step has ended; those to a file of prompts are for its own file."""
    (tmp_path / "p.toml").write_text(ASKING.format(model=json.dumps(trained["full"])))
    (tmp_path / "more.txt").write_text("Which models?\n")
    terminal = Terminal(binary, "run", "p.toml", "--session", "s", cwd=tmp_path)
    assert terminal.finish() == 0
    asked, one = (json.loads((tmp_path / f"runs/s/{step}/summary.json").read_text())["result"] for step in ("ask", "ask_one"))
    # After the step's heading and before the next one.
    text = terminal.unwrapped
    shown = [
        "[1/2] ask (session s)",
        f"> How do I run the sample? {asked[0]['text']}",
        f"> What is Pyrust-NN? {asked[1]['text']}",
        "[2/2] ask_one (session s)",
        f"> What is Pyrust-NN? {one[0]['text']}",
        "step state",
    ]
    places = [text.rfind(" ".join(part.split())) for part in shown]
    assert -1 not in places[:2] and places[3:] == sorted(places[3:]) and places[0] < places[1] < places[3], terminal.text
    assert len(one) == 2 and "Which models?" not in text
    piped = cli("run", "p.toml", "--session", "t", "--quiet", cwd=tmp_path).stdout
    assert piped.startswith(f"> How do I run the sample?\n{asked[0]['text']}\n\n> What is Pyrust-NN?\n{asked[1]['text']}\n\n"), piped
    assert json.loads(cli("run", "p.toml", "--session", "u", "--json", cwd=tmp_path).stdout)["session"] == "u"


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_no_command_breaks_a_word_at_the_edge(
    binary: Path, cli: Cli, trained: dict[str, str], data_json: str, tmp_path: Path, columns: int
) -> None:
    """What is printed at the end, the tables, the lists, and the help of every command."""
    long = "a line of a log that a script has written, with a list of the modules that it has found: "
    (tmp_path / "own.py").write_text(f"def run(params, session):\n    print({long * 3!r} + 'q_proj, k_proj, v_proj, o_proj')\n")
    for name in ("20261126-202300-first", "20261126-202301-second"):
        assert cli("script", "own.py", "--session", name, cwd=tmp_path).returncode == 0
    (tmp_path / "p.toml").write_text(ASKING.format(model=json.dumps(trained["full"])))
    (tmp_path / "more.txt").write_text("Which models?\n")
    commands = [
        ["status", "20261126-202300-first"],
        ["sessions"],
        ["compare", "20261126-202300-first", "20261126-202301-second"],
        ["check", data_json, "-m", "builtin:tiny", "--max-length", "60", "--overlong", "truncate_left"],
        ["run", "p.toml", "--dry-run", "--verbose"],
        ["prepare", data_json, "-m", "builtin:tiny"],
        ["cache", "list"],
        ["init", data_json, "-m", "builtin:tiny"],
        ["export", "20261126-202300-first"],
    ]
    names = re.findall(r"^  ([a-z][a-z-]+) ", cli("--help").stdout, re.MULTILINE)
    assert {"run", "check", "finetune-lora", "serve", "sessions"} <= set(names)
    names.remove("help")
    commands += [["--help"], ["sessions", "rm", "--help"], ["sessions", "gc", "--help"], *([name, "--help"] for name in names)]
    for words in commands:
        terminal = Terminal(binary, *words, columns=columns, lines=400, cwd=tmp_path)
        assert terminal.finish() == 0, terminal.text
        assert not terminal.broken, f"{words}:\n{terminal.text}"


def test_a_quiet_pipeline_has_no_headings(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def run(params, session):\n    return {}\n")
    (tmp_path / "p.toml").write_text('[[step]]\ntask = "script"\nscript = "a.py"\n')
    for words, shown in (([], "[1/1] script"), (["-q"], "")):
        done = cli("run", "p.toml", *words, "--runs-dir", runs)
        assert done.returncode == 0 and (shown in done.stderr if shown else not done.stderr), done.stderr


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_an_answer_that_was_cut_off_says_so_on_a_terminal(binary: Path, cli: Cli, runs: Path, quiet: list[str]) -> None:
    words = ["inference", "-m", "builtin:tiny", "What?", "--max-new-tokens", "3", "--device", "cpu", *quiet]
    terminal = Terminal(binary, *words, "--runs-dir", runs)
    assert terminal.finish() == 0
    assert ("the answer was cut off at 3 tokens; --max-new-tokens changes that" in terminal.unwrapped) == (not quiet), terminal.text
    done = cli(*words, "--runs-dir", runs)
    assert "cut off" not in done.stderr + done.stdout


def test_training_on_another_family_says_what_that_means(cli: Cli, runs: Path, tmp_path: Path, data_json: str) -> None:
    from pyrust_nn.models.tiny import tiny_model_folder

    llama = tmp_path / "small"
    shutil.copytree(tiny_model_folder(), llama)
    config = json.loads((llama / "config.json").read_text()) | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (llama / "config.json").write_text(json.dumps(config))
    words = ["finetune-lora", data_json, "--num-epochs", "0.1", "--device", "cpu", "--runs-dir", runs]
    for model, is_said in ((llama, True), ("builtin:tiny", False)):
        done = cli(*words, "-m", model)
        assert ("is of the family llama, not Qwen" in done.stderr and "cannot be converted to GGUF" in done.stderr) == is_said, done.stderr
