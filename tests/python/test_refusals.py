"""A refused attempt leaves a line in the log of an existing session, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyrust_nn

Cli = Callable[..., Any]

SCRIPT = """
PARAMS = {"fail": False}

def run(params, session):
    (session.step_folder / "made.txt").write_text("whole")
    if params.fail:
        raise RuntimeError("no luck")
    return {"outputs": {"answers": "made.txt"}}
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a session except its log and the content of its lock."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def assert_only_a_line(session: Path, attempt: Callable[[], None], words: str) -> None:
    """The attempt adds one record to the log and changes no other file."""
    before = contents(session)
    attempt()
    after = contents(session)
    old, new = before.pop("pipeline.log"), after.pop("pipeline.log")
    assert after == before
    assert new.startswith(old)
    added = new[len(old) :].decode()
    assert len([line for line in added.splitlines() if line[:2] == "20"]) == 1 and words in added and "refused (usage)" in added, added


@pytest.fixture(params=["success", "failure", "damaged"])
def session(request: pytest.FixtureRequest, runs: Path, script: Path, cli: Cli) -> Path:
    """A session with one step, which ended so."""
    fail = "true" if request.param == "failure" else "false"
    done = cli("script", script, "--session", "s", "--runs-dir", runs, "--param", f"fail={fail}")
    assert done.returncode == (1 if request.param == "failure" else 0), done.stderr
    if request.param == "damaged":
        (runs / "s/script/summary.json").write_text("{")
    return runs / "s"


# Each is refused in a session with a step `script`. `{path}` is the script.
WRONG_WORDS = {
    "unknown flag": (["merge", "--model", "builtin:tiny", "--overwite"], "--overwite"),
    "wrong value": (["finetune-lora", "--model", "builtin:tiny", "--dataset-path", "x.json", "--lora-rank", "zero"], "zero"),
    "out of bounds": (["finetune-lora", "--model", "builtin:tiny", "--dataset-path", "x.json", "--lora-rank", "0"], "--lora-rank"),
    "missing": (["finetune-lora", "--model", "builtin:tiny"], "--dataset-path"),
    "no such built-in model": (["merge", "--model", "builtin:huge"], "builtin:huge"),
    "not a script": (["script", "notes.txt"], "notes.txt"),
    "over a failed step too": (["script", "notes.txt", "--step", "script", "--overwrite"], "notes.txt"),
}


@pytest.mark.parametrize("name", WRONG_WORDS)
def test_a_wrong_command_line(name: str, session: Path, runs: Path, cli: Cli) -> None:
    words, shown = WRONG_WORDS[name]

    def attempt() -> None:
        done = cli(*words, "--session", "s", "--runs-dir", runs)
        assert done.returncode == 2 and shown in done.stderr, done.stderr

    assert_only_a_line(session, attempt, shown)
    state = json.loads(cli("sessions", "--json", "--runs-dir", runs).stdout)
    assert [step["step"] for step in (state if isinstance(state, list) else state["sessions"])[0]["steps"]] == ["script"]
    cli(*words, "--session", "new", "--runs-dir", runs)
    assert not (runs / "new").exists()


def test_a_step_that_exists(runs: Path, script: Path, cli: Cli) -> None:
    words = ["script", script, "--session", "s", "--runs-dir", runs]
    assert cli(*words).returncode == 0

    def from_cli() -> None:
        assert cli(*words).returncode == 2

    def from_python() -> None:
        with pytest.raises(pyrust_nn.UsageError, match="script exists"):
            pyrust_nn.run_script("s", script, runs_dir=runs)

    for attempt in (from_cli, from_python):
        assert_only_a_line(runs / "s", attempt, "step script exists")
    assert pyrust_nn.list_sessions(runs_dir=runs)[0]["state"] == "success"


def test_a_step_with_checkpoints_keeps_them(runs: Path, data_json: str, cli: Cli) -> None:
    words = ["finetune-lora", "--model", "builtin:tiny", "--dataset-path", data_json, "--session", "s", "--runs-dir", runs]
    assert cli(*words, "--num-epochs", "1", "--save-steps", "2").returncode == 0
    summary = runs / "s/finetune_lora/summary.json"
    summary.write_text(summary.read_text().replace('"Success"', '"Failure"'))
    assert list((runs / "s/finetune_lora/checkpoints").iterdir())
    for more, words_shown in (([], "has checkpoints"), (["--overwrite", "--lora-rank", "0"], "--lora-rank")):

        def attempt(more: list[str] = more) -> None:
            assert cli(*words, *more).returncode == 2

        assert_only_a_line(runs / "s", attempt, words_shown)


@pytest.mark.parametrize("given", [{"lora_rnk": 8}, {"lora_rank": 0}, {"step": "../other"}, {"model": "builtin:huge"}])
def test_from_python(given: dict[str, Any], session: Path, runs: Path, data_json: str) -> None:
    given = {"model": "builtin:tiny"} | given

    def attempt(name: str = "s") -> None:
        with pytest.raises(pyrust_nn.UsageError) as raised:
            pyrust_nn.finetune_lora(
                name, given["model"], dataset_path=data_json, runs_dir=runs, **{k: v for k, v in given.items() if k != "model"}
            )
        assert raised.value.summary["status"] == "Failure" and raised.value.summary["error"]["kind"] == "usage"

    assert_only_a_line(session, attempt, "refused")
    attempt("new")
    assert not (runs / "new").exists()


def pipeline(tmp_path: Path, script: Path, second: str) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(f'[[step]]\ntask = "script"\nscript = "{script}"\nname = "first"\n[[step]]\n{second}\n')
    return path


PIPELINES = {
    "unknown task": ('task = "mrege"', "mrege"),
    "wrong value in a later step": ('task = "merge"\nmodel = "builtin:tiny"\noverwrite = "perhaps"', "overwrite"),
    "later step exists": ('task = "script"\nscript = "{script}"\nname = "script"', "step script exists"),
    "not TOML": ("task = ", "TOML"),
}


@pytest.mark.parametrize("interface", ["CLI", "Python"])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline(name: str, interface: str, tmp_path: Path, runs: Path, script: Path, cli: Cli) -> None:
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    second, shown = PIPELINES[name]
    path = pipeline(tmp_path, script, second.format(script=script))

    def attempt(session: str = "s") -> None:
        if interface == "CLI":
            assert cli("run", path, "--session", session, "--runs-dir", runs).returncode == 2
        else:
            with pytest.raises(pyrust_nn.UsageError):
                pyrust_nn.run_pipeline(path, session=session, runs_dir=str(runs))

    assert_only_a_line(runs / "s", attempt, shown)
    if name != "later step exists":
        attempt("new")
        assert not (runs / "new").exists()


def test_resume_with_nothing_to_resume(runs: Path, script: Path, cli: Cli) -> None:
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0

    def attempt() -> None:
        assert cli("resume", "s", "--step", "scrip", "--runs-dir", runs).returncode == 2

    assert_only_a_line(runs / "s", attempt, "did you mean script?")


def test_a_refusal_while_the_session_runs_leaves_its_log_whole(tmp_path: Path, runs: Path, cli: Cli) -> None:
    """The running step's script makes a refused call in its own session, from its own process and from another."""
    script = tmp_path / "long.py"
    script.write_text(
        "import logging, pyrust_nn\n"
        "def run(params, session):\n"
        "    logging.info('before')\n"
        "    try:\n"
        f"        pyrust_nn.merge('s', 'builtin:huge', runs_dir={str(runs)!r})\n"
        "    except pyrust_nn.UsageError:\n"
        "        pass\n"
        "    logging.info('after')\n"
        "    return {}\n"
    )
    done = cli("script", script, "--session", "s", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    log = (runs / "s/pipeline.log").read_text()
    places = [log.index(words) for words in ("before", "step merge refused", "after", "step script succeeded")]
    assert places == sorted(places)


def test_a_real_failure_keeps_its_record(runs: Path, cli: Cli) -> None:
    for words, kind in (
        (["finetune-lora", "--model", "builtin:tiny", "--dataset-path", "nowhere.json"], "input"),
        (["merge", "--model", "./no/model"], "model"),
    ):
        assert cli(*words, "--session", kind, "--runs-dir", runs).returncode != 0
        step = runs / kind / words[0].replace("-", "_")
        assert json.loads((step / "summary.json").read_text())["error"]["kind"] == kind
        assert json.loads((runs / kind / "session.json").read_text())["state"] == "failure"


def test_an_input_error_leaves_an_earlier_success_and_its_own_summary_beside_it(runs: Path, data_json: str, cli: Cli) -> None:
    words = ["finetune-lora", "--model", "builtin:tiny", "--num-epochs", "1", "--session", "s", "--runs-dir", runs]
    assert cli(*words, "--dataset-path", data_json).returncode == 0
    before = contents(runs / "s/finetune_lora")
    assert cli(*words, "--dataset-path", "nowhere.json", "--overwrite").returncode == 2
    assert contents(runs / "s/finetune_lora") == before
    assert json.loads((runs / "s/finetune_lora.failed/summary.json").read_text())["error"]["kind"] == "input"
