"""The command line's forms: short flags, positional arguments, flags of `run`, dry runs. And what Python shares with them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Terminal

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]

PIPELINE = """
model = "builtin:tiny"
dataset_path = "data.json"
[[step]]
task = "finetune_lora"
num_epochs = 1
[[step]]
task = "quantize_model"
model = "@finetune_lora"
bits = {bits}
"""


@pytest.fixture
def pipeline(tmp_path: Path, data_json: str) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(PIPELINE.format(bits=8).replace('"data.json"', json.dumps(data_json)))
    return path


def test_a_flag_of_run_replaces_a_step_s_own_value_but_no_reference(cli: Cli, runs: Path, pipeline: Path) -> None:
    done = cli("run", pipeline, "--runs-dir", runs, "-m", "m", "--num-epochs", "2", "--bits", "16", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    lora, quantize = (step["params"] for step in json.loads(done.stdout)["steps"])
    assert (lora["model"], lora["num_epochs"]) == ("m", 2)
    assert (quantize["model"], quantize["bits"]) == ("@finetune_lora", 16)
    summaries = pyrust_nn.run_pipeline(pipeline, model="m", num_epochs=2, bits=16, dry_run=True, runs_dir=str(runs))
    assert [one["params"]["model"] for one in summaries] == ["m", "@finetune_lora"]
    assert (summaries[0]["params"]["num_epochs"], summaries[1]["params"]["bits"]) == (2, 16)
    assert not runs.exists() or not list(runs.iterdir()), "a dry run makes nothing"


def test_a_dry_run_refuses_what_the_run_would_refuse(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def run(params, session):\n    pass\n")
    words = ["script", "own.py", "--session", "s", "--runs-dir", runs]
    assert cli(*words).returncode == 0
    for more in ([], ["--dry-run"]):
        done = cli(*words, *more)
        assert done.returncode == 2 and "step script exists" in done.stderr, done.stderr
    assert cli(*words, "--dry-run", "--overwrite").returncode == 0


def test_a_dry_run_of_a_pipeline_shows_every_step_and_finds_what_is_missing(cli: Cli, runs: Path, pipeline: Path) -> None:
    done = cli("run", pipeline, "--runs-dir", runs, "--dry-run", "--session", "s")
    assert done.returncode == 0, done.stderr
    assert "finetune_lora would run as session s" in done.stdout and "quantize_model would run as session s" in done.stdout
    shown = [line.split() for line in done.stdout.splitlines() if line.startswith("  ") and "other parameters" not in line]
    own = ["model", "dataset_path", "num_epochs", "runs_dir", "model", "bits", "runs_dir"]
    assert [words[0] for words in shown] == own, "what is no default"
    assert done.stdout.count("other parameters have their defaults (--verbose shows all)") == 2
    every = cli("run", pipeline, "--runs-dir", runs, "--dry-run", "--session", "s", "--verbose").stdout
    assert len(every.splitlines()) > 50 and re.search(r"^  lora_rank +null  \(default\)$", every, re.MULTILINE), every
    assert re.search(r"^  num_epochs +1.0$", every, re.MULTILINE), every
    unnamed = cli("run", pipeline, "--runs-dir", runs, "--dry-run").stdout
    # The run will have an id that is not known yet.
    assert "finetune_lora would run in a new session, step finetune_lora\n" in unnamed, unnamed
    assert "quantize_model would run in a new session, step quantize_model\n" in unnamed
    assert "would run in a new session" in cli("quantize-model", "builtin:tiny", "--runs-dir", runs, "--dry-run").stdout
    dry = json.loads(cli("run", pipeline, "--runs-dir", runs, "--dry-run", "--json").stdout)
    assert [dry["session"], *(step["session"] for step in dry["steps"])] == ["", "", ""]
    assert pyrust_nn.run_pipeline(pipeline, session="s", dry_run=True, runs_dir=str(runs))[1]["session"] == "s"
    done = cli("run", pipeline, "--runs-dir", runs, "--dry-run", "-d", "nowhere.jsonl")
    assert done.returncode == 2 and "nowhere.jsonl" in done.stderr, done.stderr


def test_a_wrong_value_of_a_later_step_stops_the_pipeline_at_the_start(cli: Cli, runs: Path, tmp_path: Path, data_json: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(PIPELINE.format(bits=5).replace('"data.json"', json.dumps(data_json)))
    done = cli("run", path, "--runs-dir", runs, "--session", "s")
    assert done.returncode == 2 and "step quantize_model: bits must be one of 4, 8, 16, not 5" in done.stderr, done.stderr
    with pytest.raises(pyrust_nn.UsageError, match="step quantize_model: bits must be one of 4, 8, 16, not 5"):
        pyrust_nn.run_pipeline(path, session="s", runs_dir=str(runs))
    assert not (runs / "s").exists(), "no step has run"


def test_data_and_prompts_need_no_flag(cli: Cli, runs: Path, data_json: str) -> None:
    done = cli("check", data_json, "-m", "builtin:tiny", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ok"], done.stderr
    done = cli("inference", "-m", "builtin:tiny", "one", "two", "--max-new-tokens", "2", "--runs-dir", runs, "--session", "s", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["params"]["prompt"] == ["one", "two"]


SCRIPT = """
def run(params, session):
    (session.step_folder / "model").mkdir()
    return {"outputs": {"model": session.step_folder / "model"}}
"""


@pytest.fixture
def first(runs: Path, tmp_path: Path) -> Path:
    """A folder of sessions with the session `first`, which has a step `finetune_full`."""
    (tmp_path / "make.py").write_text(SCRIPT)
    pyrust_nn.run_script("first", tmp_path / "make.py", step="finetune_full", runs_dir=runs)
    return runs


def test_a_misspelled_session_is_answered_as_one_at_every_interface(first: Path, cli: Cli, tmp_path: Path, data_json: str) -> None:
    wrong, words = "frist/finetune_full", "there is no session frist"
    flags = ["--runs-dir", first, "--session", "s"]
    for command in (
        ["finetune-lora", data_json, "-m", wrong, *flags],
        ["finetune-lora", data_json, "-m", "builtin:tiny", "--checkpoint-lora", wrong, *flags],
        ["convert-lora-to-gguf", "--adapter", wrong, *flags],
        ["check", data_json, "-m", wrong, "--runs-dir", first],
        ["prepare", data_json, "-m", wrong, "--runs-dir", first],
    ):
        done = cli(*command)
        assert done.returncode == 2 and words in done.stderr and "did you mean first/finetune_full?" in done.stderr, done.stderr
    with pytest.raises(pyrust_nn.UsageError, match="did you mean first/finetune_full"):
        pyrust_nn.inference("s", wrong, prompt="a", runs_dir=first)
    with pytest.raises(pyrust_nn.UsageError, match="did you mean first/finetune_full"):
        pyrust_nn.check_dataset(wrong, dataset_path=data_json, runs_dir=first)
    with pytest.raises(pyrust_nn.UsageError, match="did you mean @finetune_full"):
        pyrust_nn.inference("first", "@finetune_ful", prompt="a", runs_dir=first)


def test_a_misspelled_session_in_a_later_step_stops_the_pipeline_at_the_start(first: Path, cli: Cli, tmp_path: Path) -> None:
    step = '[[step]]\ntask = "script"\nscript = "make.py"\n'
    (tmp_path / "p.toml").write_text(f'{step}[[step]]\ntask = "merge"\nmodel = "frist/finetune_full"\n')
    done = cli("run", "p.toml", "--session", "new", "--runs-dir", first)
    assert done.returncode == 2 and "step merge: there is no session frist" in done.stderr, done.stderr
    with pytest.raises(pyrust_nn.UsageError, match="step merge: there is no session frist"):
        pyrust_nn.run_pipeline("p.toml", session="new", runs_dir=str(first))
    assert not (first / "new").exists()


@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl.gz", "mine.csv"])
def test_a_data_set_as_pipeline_file_is_answered_with_the_commands_for_it(name: str, cli: Cli) -> None:
    Path(name).write_text("[]")
    for words in ([name], ["run", name]):
        done = cli(*words)
        assert done.returncode == 2 and "TOML parse error" not in done.stderr, done.stderr
        for part in (
            f"{name} is a data set",
            "pipeline.toml",
            f"pyrust-nn finetune-lora {name} -m MODEL",
            f"pyrust-nn init -m MODEL -d {name}",
        ):
            assert part in " ".join(done.stderr.split()), done.stderr
    with pytest.raises(pyrust_nn.UsageError, match="is a data set"):
        pyrust_nn.run_pipeline(name)


def test_a_misspelled_path_of_a_pipeline_file_is_answered_with_it(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for words in (["../p.tom"], ["run", "../p.tom"], ["run", "../p.tom", "--dry-run"]):
        done = cli(*words, cwd=tmp_path / "inner")
        assert done.returncode == 2 and "there is no pipeline file ../p.tom; did you mean ../p.toml?" in done.stderr, done.stderr


def test_a_folder_of_sessions_that_is_not_there_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    missing = "the folder rnus does not exist; did you mean runs?"
    done = cli("sessions", "--runs-dir", "rnus")
    assert done.returncode == 0 and done.stdout == f"no sessions: {missing}\n"
    assert json.loads(cli("sessions", "--runs-dir", "rnus", "--json").stdout) == []
    assert cli("sessions", "--runs-dir", "runs").stdout == "no sessions in runs\n"
    for words in (["status", "s"], ["report", "s"], ["compare", "s", "t"], ["resume", "s"], ["export", "s"], ["sessions", "rm", "s"]):
        done = cli(*words, "--runs-dir", "rnus")
        assert done.returncode == 2 and f"there is no session s: {missing}" in done.stderr, (words, done.stderr)
        done = cli(*words, "--runs-dir", "runs")
        assert done.returncode == 2 and "there is no session s in runs;" in done.stderr, (words, done.stderr)
    assert missing in cli("sessions", "gc", "--failed", "--runs-dir", "rnus").stdout


def test_help_is_a_command_too(cli: Cli) -> None:
    assert cli("help").stdout == cli("--help").stdout
    assert cli("help", "status").stdout == cli("status", "--help").stdout
    assert cli("help", "sessions", "rm").returncode == 0


@pytest.mark.parametrize(
    ("words", "tip"),
    [
        (["finetune-lora", "--wandb"], "'--report-to'"),
        (["finetune-lora", "--config", "x.yaml"], "`pyrust-nn run FILE.toml`"),
        (["run", "--config", "x.toml"], "`pyrust-nn run FILE.toml`"),
        (["finetune-full", "-o", "out"], "'--session' names this session, '--runs-dir'"),
        (["finetune-full", "--output-dir", "out"], "'--session' names this session, '--runs-dir'"),
        (["finetune-lora", "--max-samples", "4"], "'FILE::max_rows=N'"),
        (["finetune-lora", "--num-layers", "8"], "'--target-modules'"),
        (["finetune-lora", "--packing"], "'--packing' takes one of auto, on, off"),
        (["finetune-lora", "--num-epochs"], "'--num-epochs' takes a number above 0"),
        (["inference", "--load-in-4bit"], "`pyrust-nn quantize-model`"),
        (["convert-model-to-gguf", "--quantization", "q4_k_m"], "'--outtype'"),
        (["cache", "clear", "--dry-run"], "`pyrust-nn cache list`"),
    ],
)
def test_a_flag_of_another_tool_gets_the_way_here(cli: Cli, words: list[str], tip: str) -> None:
    done = cli(*words)
    (shown,) = [line for line in done.stderr.splitlines() if "tip: " in line]
    assert done.returncode == 2 and tip in shown, done.stderr


def test_a_session_that_is_not_there_is_answered_with_those_that_are(cli: Cli, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text("def run(params, session):\n    return {}\n")
    for name in ("a1", "b"):
        assert cli("script", str(script), "--session", name, "--runs-dir", "runs").returncode == 0
    for wrong, words in (("zzz", "it has b, a1"), ("a2", "it has b, a1"), ("a1x", "did you mean a1?")):
        done = cli("status", wrong, "--runs-dir", "runs")
        assert done.returncode == 2 and f"there is no session {wrong} in runs; {words}" in done.stderr, done.stderr
    for name in ("c", "d", "e", "f"):
        assert cli("script", str(script), "--session", name, "--runs-dir", "runs").returncode == 0
    assert "the newest of its 6 are f, e, d, c, b" in cli("status", "zzz", "--runs-dir", "runs").stderr


def test_all_that_is_wrong_in_a_pipeline_is_said_at_once_with_its_line(cli: Cli, runs: Path, tmp_path: Path, data_json: str) -> None:
    step = '[[step]]\ntask = "finetune_lora"\nlora_rank = "8"\nlr = 0.1\n[[step]]\ntask = "merge"\nmodel = "@finetune_lra"\n'
    (tmp_path / "p.toml").write_text(f'model = "builtin:tiny"\ndataset_path = "{data_json}"\n{step}')
    wanted = [
        'p.toml, line 5, step finetune_lora: lora_rank must be an integer from 1 to 65536, not "8"',
        "p.toml, line 6, step finetune_lora: finetune_lora has no parameter lr; did you mean learning_rate?",
        "p.toml, line 9, step merge: @finetune_lra is not an earlier step; did you mean @finetune_lora?",
    ]
    done = cli("run", "p.toml", "--runs-dir", runs)
    assert done.returncode == 2 and done.stderr.splitlines() == [f"error: {wanted[0]}", *wanted[1:]], done.stderr
    with pytest.raises(pyrust_nn.UsageError) as raised:
        pyrust_nn.run_pipeline("p.toml", runs_dir=str(runs))
    assert str(raised.value).splitlines()[:3] == wanted
    (tmp_path / "q.toml").write_text('model = "x"\n[[step]\n')
    done = cli("run", "q.toml", "--runs-dir", runs)
    assert done.returncode == 2 and "error: q.toml, line 2: invalid TOML: " in done.stderr, done.stderr


def test_without_a_name_the_session_that_runs_or_the_newest_is_shown(cli: Cli, tmp_path: Path) -> None:
    for words in (["status"], ["report"], ["export-metrics", "--to", "csv"]):
        done = cli(*words, "--runs-dir", "none")
        assert done.returncode == 2 and "there is no session in none" in done.stderr, done.stderr
    script = tmp_path / "work.py"
    script.write_text("def run(params, session):\n    session.metric({'step': 1, 'loss': 0.5})\n    return {}\n")
    for name in ("older", "newer"):
        assert cli("script", str(script), "--session", name, "--runs-dir", "runs").returncode == 0
    done = cli("status", "--runs-dir", "runs")
    assert done.returncode == 0 and done.stdout.startswith("session newer\n"), (done.stdout, done.stderr)
    assert json.loads(cli("status", "--runs-dir", "runs", "--json").stdout)["session"] == "newer"
    assert not cli("status", "newer", "--runs-dir", "runs").stdout.startswith("session")
    assert cli("report", "--runs-dir", "runs").stdout.endswith("runs/newer/report.html\n")
    assert cli("export-metrics", "--to", "csv", "--runs-dir", "runs").stdout == "newer.csv\n"


def test_a_prompt_that_is_a_model_is_answered_with_the_flag(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    for model in ("s1/x", "model.gguf", "builtin:tiny"):
        done = cli("inference", model, "Hello", "--runs-dir", runs)
        assert done.returncode == 2 and f"did you mean `-m {model}`?" in done.stderr, done.stderr
    done = cli("inference", "What is this?", "--runs-dir", runs)
    assert done.returncode == 2 and "did you mean" not in done.stderr, done.stderr


def test_serve_offers_no_folder_in_place_of_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("[]")
    done = cli("serve", "-m", "data.json")
    assert done.returncode == 1 and "data.json is not a GGUF file; give one" in done.stderr, done.stderr
    assert "did you mean" not in done.stderr, done.stderr


def test_prepare_prints_what_there_is(cli: Cli, data_json: str) -> None:
    text = cli("prepare", data_json, "-m", "builtin:tiny").stdout
    assert "2,786" in text and "digest" in text and not re.search(r" (0|false)$", text, re.MULTILINE), text


@pytest.mark.parametrize(
    "words", [["chat", "-m"], ["check", "x.jsonl", "-m"], ["inference", "--prompt", "a", "-m"], ["prepare", "x.jsonl", "-m"]]
)
def test_a_hub_name_offline_has_the_same_answer_everywhere(words: list[str], cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}')
    done = cli(*words, "org/none", "--offline", "--runs-dir", runs)
    told = "model org/none is not downloaded, and offline forbids the download; run once without offline, or give the model's folder"
    assert done.returncode == 1 and done.stderr.strip().endswith(told), done.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "the command finetune-lora or finetune-full"),
        (["fintune"], "the command finetune-lora"),
        (["evalute", "x"], "the command verify"),
        (["sessions", "remvoe", "x"], "`pyrust-nn sessions rm`"),
    ],
)
def test_a_misspelled_command_leads_to_ours(cli: Cli, words: list[str], meant: str) -> None:
    """Also if it is one of another tool."""
    done = cli(*words)
    assert done.returncode == 2 and "did you mean " + meant in done.stderr, done.stderr


def test_a_word_that_is_a_flag_elsewhere_and_help_for_nothing(cli: Cli) -> None:
    assert "did you mean --version?" in cli("version").stderr
    shown = " ".join(cli("help", "finetunelora").stderr.split())
    assert "there is no command finetunelora to help with; did you mean the command finetune-lora?" in shown


def test_a_long_name_of_a_session_leaves_the_list_a_table(cli: Cli, runs: Path, binary: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def run(params, session):\n    return {}\n")
    long = "a-name-" * 11 + "end"
    for session in ("short", long):
        assert cli("script", tmp_path / "mine.py", "--session", session, "--runs-dir", runs).returncode == 0
    terminal = Terminal(binary, "sessions", "--runs-dir", runs)
    assert terminal.finish() == 0
    assert len(terminal.lines) == 3 and {line.index("success") for line in terminal.lines[1:]} == {34}, terminal.text
    assert terminal.lines[2].startswith("…") and long[-20:] in terminal.lines[2]
    assert long in cli("sessions", "--runs-dir", runs).stdout, "whoever pipes the list gets the names"


def test_resume_alone_names_the_sessions_that_were_interrupted(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\ndef run(params, session):\n    if params.end: os.kill(os.getpid(), 9)\nPARAMS = {'end': True}\n"
    )
    done = cli("resume", "--runs-dir", runs)
    assert done.returncode == 2 and f"resume needs the name of a session; none in {runs} is interrupted" in done.stderr
    for session, end in (("well", "false"), ("cut", "true"), ("off", "true")):
        cli("script", tmp_path / "mine.py", "--session", session, "--param", f"end={end}", "--runs-dir", runs)
    done = cli("resume", "--runs-dir", runs)
    assert done.returncode == 2
    assert "interrupted: cut, off. For example: pyrust-nn resume off" in " ".join(done.stderr.split())
