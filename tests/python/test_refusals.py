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


TRAIN = ["finetune-lora", "--model", "builtin:tiny", "--dataset-path", "x.json"]

# Each is refused in a session with a step `script`. `{model}` and the like are files.
WRONG_WORDS = {
    "unknown flag": (["merge", "--model", "builtin:tiny", "--overwite"], "--overwite"),
    "wrong value": (["finetune-lora", "--model", "builtin:tiny", "--dataset-path", "x.json", "--lora-rank", "zero"], "zero"),
    "out of bounds": (["finetune-lora", "--model", "builtin:tiny", "--dataset-path", "x.json", "--lora-rank", "0"], "--lora-rank"),
    "missing": (["finetune-lora", "--model", "builtin:tiny"], "--dataset-path"),
    "no such built-in model": (["merge", "--model", "builtin:huge"], "builtin:huge"),
    "not a script": (["script", "notes.txt"], "notes.txt"),
    "over a failed step too": (["script", "notes.txt", "--step", "script", "--overwrite"], "notes.txt"),
    "nothing to evaluate on": ([*TRAIN, "--early-stopping-patience", "2"], "--early-stopping-patience needs data"),
    "two sets to evaluate on": ([*TRAIN, "--eval-split", "0.1", "--eval-dataset-path", "x.json"], "cannot both be set"),
    "fp16 on a CPU": ([*TRAIN, "--dtype", "fp16", "--device", "cpu"], "set --dtype to bf16 or fp32"),
    "beyond the positions": ([*TRAIN, "--max-length", "4096"], "--max-length 4096 exceeds the 2048 positions"),
    "nothing to stack on": ([*TRAIN, "--checkpoint-mode", "stack"], "--checkpoint-lora"),
    "a whole model as checkpoint": ([*TRAIN, "--checkpoint-lora", "{model}"], "is a whole model, not a LoRA adapter"),
    "no prompt": (["inference", "--model", "builtin:tiny"], "--prompt (it may repeat) or --prompts-file"),
    "a parameter of llama.cpp": (["inference", "--model", "{model}", "--prompt", "hi", "--parallel", "2"], "--parallel is for a GGUF file"),
    "merging a whole model": (["merge", "-m", "builtin:tiny"], "builtin:tiny is a whole model; give an adapter"),
    "merging a folder with a whole model": (["merge", "-m", "{model}"], "is a whole model; give an adapter"),
    "flattening a whole model": (["flatten", "-m", "{model}"], "is a whole model; give an adapter"),
    "converting a whole model as an adapter": (["convert-lora-to-gguf", "--adapter", "{model}"], "is a whole model; give an adapter"),
    "the base of a whole model": (["quantize-model", "-m", "{model}", "--base-model", "builtin:tiny"], "leave it out"),
    "beyond the positions of a folder": (
        ["finetune-full", "--model", "{model}", "--dataset-path", "x.json", "--max-length", "65"],
        "--max-length 65 exceeds the 64 positions",
    ),
    "training an adapter in full": (["finetune-full", "--model", "{adapter}", "--dataset-path", "x.json"], "is a LoRA adapter"),
    "an adapter as the base": (["finetune-lora", "--model", "{adapter}", "--dataset-path", "x.json"], "is itself a LoRA adapter"),
    "quantizing twice": (["quantize-model", "-m", "{quantized}"], "is already quantized"),
    "training a quantized model in full": (["finetune-full", "--model", "{quantized}", "--dataset-path", "x.json"], "is quantized"),
    "not a type of tensors": (["convert-model-to-gguf", "-m", "builtin:tiny", "--tensor-type", "ffn=q9"], "a type must be one of f32"),
    "unknown parameter of a script": (["script", "{script}", "--step", "new", "--param", "fial=true"], "did you mean fail?"),
    "wrong value of a script's parameter": (["script", "{script}", "--step", "new", "--param", "fail=perhaps"], "must be of type bool"),
}


def folders(tmp_path: Path) -> dict[str, Path]:
    """Folders of which only the configuration is read."""
    made = {}
    for name, file, config in (
        ("model", "config.json", {"max_position_embeddings": 64}),
        ("quantized", "config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}),
        ("adapter", "adapter_config.json", {"peft_type": "LORA"}),
    ):
        made[name] = tmp_path / name
        made[name].mkdir()
        (made[name] / file).write_text(json.dumps(config))
    return made


def test_a_refused_attempt_without_a_session_leaves_nothing(runs: Path, script: Path, cli: Cli) -> None:
    attempts = [["inference", "-m", "builtin:tiny"], [*TRAIN, "--eval-steps", "1"], ["script", script, "--param", "other=1"]]
    if not any(Path(driver).exists() for driver in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")):
        attempts.append([*TRAIN, "--dtype", "fp16"])
    for words in attempts:
        done = cli(*words, "--runs-dir", runs)
        assert done.returncode == 2, done.stderr
        assert not runs.exists() or not list(runs.iterdir()), words


SCRIPTS = {
    "computed": ("PARAMS = dict(top=1)", {"top": 2}, None),
    "changed later": ("PARAMS = {}\nPARAMS['top'] = 1", {"top": 2}, None),
    "updated later": ("PARAMS = {}\nPARAMS.update(top=1)", {"top": 2}, None),
    "imported": ("from os.path import *\nPARAMS = {}", {}, None),
    "a computed default": ("import math\nPARAMS = {'top': math.pi}", {"top": "2.5"}, None),
    "read elsewhere": ("PARAMS = {'top': 1}\nNAMES = list(PARAMS)", {"tip": "2"}, "did you mean top"),
    "required": ("PARAMS = {'data': str}", {}, "needs the parameter data"),
    "none": ("", {"top": "2"}, "it has none"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_refused_only_for_what_its_text_says(name: str, runs: Path, script: Path, cli: Cli) -> None:
    head, given, refused = SCRIPTS[name]
    script.write_text(f"{head}\n\ndef run(params, session):\n    return {{'result': str(vars(params))}}\n")
    words = [word for key, value in given.items() for word in ("--param", f"{key}={value}")]
    done = cli("script", script, *words, "--session", "s", "--runs-dir", runs)
    assert done.returncode == (2 if refused else 0) and (refused or "") in done.stderr, done.stderr
    assert (runs / "s").exists() == (refused is None)


def test_the_positions_of_the_built_in_model_are_known_before_it_is_made(cli: Cli, runs: Path) -> None:
    from pyrust_nn.models.tiny import CONTEXT

    words = [word if word != "x.json" else "data.json" for word in TRAIN]
    for length, code in ((CONTEXT, 0), (CONTEXT + 1, 2)):
        (runs.parent / "data.json").write_text('[{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]')
        done = cli(*words, "--max-length", str(length), "--dry-run", "--runs-dir", runs)
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize("name", WRONG_WORDS)
def test_a_wrong_command_line(name: str, session: Path, runs: Path, cli: Cli, script: Path, tmp_path: Path) -> None:
    wanted, shown = WRONG_WORDS[name]
    named = folders(tmp_path)
    words = [word.format(script=script, **named) for word in wanted]

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
