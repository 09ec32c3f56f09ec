"""A refused attempt leaves a line in the log of an existing session, and nothing else."""

from __future__ import annotations

import http.server
import json
import os
import platform
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

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


# Names of what does not exist, beside files that do: `good.json`, `pipeline.toml`, a whole model in `whole`, an adapter in `adapter`,
# an empty folder `empty`, and the session `s` with a step `script` that made no model.
TYPOS: dict[str, tuple[list[str], int, list[str]]] = {
    "data": (["finetune-lora", "god.json", "-m", "builtin:tiny"], 2, ["there is no data set god.json", "did you mean good.json?"]),
    "data with options": (["finetune-lora", "god.json::weight=2", "-m", "builtin:tiny"], 2, ["did you mean good.json?"]),
    "a pattern": (["finetune-full", "x*.json", "-m", "builtin:tiny"], 2, ["no file matches x*.json"]),
    "a table": (["finetune-full", "god.parquet", "-m", "builtin:tiny"], 2, ["there is no data set god.parquet", "did you mean good.json?"]),
    "a data set of the hub": (["finetune-full", "org/god", "-m", "builtin:tiny", "--offline"], 2, ["org/god here, and offline forbids"]),
    "data to evaluate on": (["finetune-lora", "good.json", "-m", "builtin:tiny", "--eval-dataset-path", "god.json"], 2, ["god.json"]),
    "data to verify on": (["verify", "whole", "-m", "whole", "--dataset-path", "god.json"], 2, ["did you mean good.json?"]),
    "prompts": (["inference", "-m", "whole", "--prompts-file", "god.json"], 2, ["there is no prompts file god.json", "good.json?"]),
    "an importance matrix": (["convert-model-to-gguf", "whole", "--imatrix", "x.gguf"], 2, ["there is no importance matrix x.gguf"]),
    "prompts that are none": (["inference", "-m", "whole", "--prompts-file", "bad.json"], 2, ["bad.json: line 1"]),
    "an importance matrix that is none": (
        ["convert-model-to-gguf", "whole", "--imatrix", "cont.py"],
        2,
        ["there is no importance matrix cont.py", "did you mean count.py?"],
    ),
    "a script": (["script", "cont.py", "--step", "new"], 2, ["script cont.py does not exist; did you mean count.py?"]),
    "a folder": (["finetune-lora", "good.json", "-m", "./nope"], 1, ["there is no model ./nope"]),
    "a near folder": (["quantize-model", "./whle"], 1, ["did you mean ./whole?"]),
    "a folder without a model": (["quantize-model", "empty"], 1, ["empty has no config.json, so it is not a model"]),
    "a folder around a model": (["quantize-model", "around"], 1, ["did you mean around/inner?"]),
    "a file": (["finetune-lora", "good.json", "-m", "good.json"], 1, ["good.json is a file; give the model's folder"]),
    "a built-in model": (["quantize-model", "bultin:tiny"], 2, ["did you mean builtin:tiny?"]),
    "a hub name offline": (
        ["inference", "-m", "qwen", "--prompt", "a", "--offline"],
        1,
        ["model qwen is not downloaded", "offline forbids"],
    ),
    "a name of no kind": (["inference", "-m", "a/b/c", "--prompt", "a"], 1, ["there is no model a/b/c"]),
    "a candidate": (["verify", "smal.gguf", "-m", "whole"], 1, ["did you mean small.gguf?"]),
    "a candidate that is none": (["verify", "good.json", "-m", "whole"], 2, ["good.json is not a GGUF file"]),
    "an empty candidate": (["verify", "empty", "-m", "whole"], 1, ["empty has no config.json, so it is not a model"]),
    "a base": (["merge", "adapter", "--base-model", "./nope"], 1, ["there is no model ./nope"]),
    "a step without a model": (["inference", "-m", "s/script", "--prompt", "a"], 2, ["s/script has no output gguf, model or adapter"]),
    "a GGUF file": (["inference", "-m", "smal.gguf", "--prompt", "a"], 1, ["there is no smal.gguf", "did you mean small.gguf?"]),
    "no GGUF file": (["inference", "-m", "good.json", "--prompt", "a"], 1, ["good.json is not a .gguf file"]),
    "no adapter": (["convert-lora-to-gguf", "empty"], 1, ["empty has no adapter_config.json, so it is not a LoRA adapter"]),
    "merging no adapter": (["merge", "empty"], 1, ["empty has no adapter_config.json"]),
    "an adapter": (["convert-lora-to-gguf", "adaptr"], 1, ["there is no adapter adaptr", "did you mean adapter?"]),
    "a checkpoint": (["finetune-lora", "good.json", "-m", "whole", "--checkpoint-lora", "./nope"], 1, ["there is no adapter ./nope"]),
    "layers": (["finetune-lora", "good.json", "-m", "builtin:tiny", "--target-modules", "qproj"], 2, ['no layer "qproj"', "mean q_proj?"]),
    "one of two layers": (
        ["finetune-lora", "good.json", "-m", "builtin:tiny", "--target-modules", "v_proj", "gate"],
        2,
        ['no layer "gate"', "did you mean gate_proj?"],
    ),
    "a pattern of tensors": (["convert-model-to-gguf", "whole", "--tensor-type", "ffn(=q8_0"], 2, ["not a regular expression"]),
    "a type": (["convert-model-to-gguf", "whole", "--outtype", "q4km"], 2, ["did you mean q4_k_m?"]),
    "the beginning of a type": (["convert-model-to-gguf", "whole", "--outtype", "q4"], 2, ["did you mean q4_0, q4_1, q4_k_s or q4_k_m?"]),
    "a type of tensors": (["convert-model-to-gguf", "whole", "--tensor-type", "ffn=q4k"], 2, ["did you mean q4_k?"]),
    "a served file": (["serve", "smal.gguf", "--port", "0"], 1, ["did you mean small.gguf?"]),
    "a served file that is none": (["serve", "small.gguf", "--port", "0"], 1, ["small.gguf is not a complete GGUF file"]),
}


@pytest.fixture
def things(tmp_path: Path, script: Path) -> None:
    """Files and folders beside which the names above are typing errors."""
    named = folders(tmp_path)
    named["model"].rename(tmp_path / "whole")
    for folder in ("empty", "around/inner"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "around/inner/config.json").write_text("{}")
    (tmp_path / "small.gguf").write_text("GGUF")
    (tmp_path / "count.py").write_text(SCRIPT)
    (tmp_path / "bad.json").write_text("[{")
    (tmp_path / "good.json").write_text('[{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]')


@pytest.mark.parametrize("name", TYPOS)
def test_a_name_of_nothing_leaves_a_line(name: str, things: None, runs: Path, script: Path, cli: Cli) -> None:
    """Whatever its kind: no session, no step, no state."""
    words, code, shown = TYPOS[name]
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    step = "" if words[0] == "serve" else "step "

    def attempt() -> None:
        done = cli(*words, "--session", "s", "--runs-dir", runs)
        assert done.returncode == code and all(words in done.stderr for words in shown), done.stderr

    kind = {"usage", "input"} if code == 2 else {"model"}
    before, log = contents(runs / "s"), (runs / "s/pipeline.log").read_text()
    attempt()
    added = (runs / "s/pipeline.log").read_text().removeprefix(log)
    assert (
        len([line for line in added.splitlines() if line[0] != " "]) == 1
        and any(f"refused ({one})" in added for one in kind)
        and step in added
    ), added
    assert {file: text for file, text in contents(runs / "s").items() if file != "pipeline.log"} == {
        file: text for file, text in before.items() if file != "pipeline.log"
    }
    for session in (["--session", "new"], []):
        assert cli(*words, *session, "--runs-dir", runs).returncode == code
    assert [entry.name for entry in runs.iterdir()] == ["s"]


def test_a_gpu_that_is_not_there(things: None, runs: Path, cli: Cli) -> None:
    for words in (
        ["finetune-lora", "good.json", "-m", "builtin:tiny"],
        ["inference", "-m", "whole", "--prompt", "a"],
        ["quantize-model", "whole"],
        ["serve", "small.gguf"],
    ):
        for device in ("cuda", "cuda:7"):
            done = cli(*words, "--device", device, "--runs-dir", runs, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
            assert done.returncode == 2 and f"--device {device}: there is no GPU here" in done.stderr, done.stderr
    assert not runs.exists()


def test_torch_is_asked_for_a_gpu_that_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyrust_nn.models import devices

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(pyrust_nn.InputError, match="cuda:77"):
        devices.check_device("cuda:77")


def test_the_layers_of_the_built_in_model_are_known_before_it_is_made(things: None, runs: Path, cli: Cli) -> None:
    from transformers import AutoModelForCausalLM

    from pyrust_nn.models.tiny import tiny_model_folder

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder())
    matrices = {name.rpartition(".")[2] for name, module in model.named_modules() if getattr(module, "weight", None) is not None}
    matrices -= {name for name in matrices if "norm" in name}
    done = cli("finetune-lora", "good.json", "-m", "builtin:tiny", "--target-modules", "x", "--runs-dir", runs, "--dry-run")
    assert f"it has {', '.join(sorted(matrices))}" in done.stderr, done.stderr
    done = cli("finetune-lora", "good.json", "-m", "builtin:tiny", "--target-modules", *sorted(matrices), "--runs-dir", runs, "--dry-run")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("function", "given", "kind"),
    [
        ("finetune_lora", {"model": "builtin:tiny", "dataset_path": "god.json"}, pyrust_nn.InputError),
        ("finetune_lora", {"model": "./nope", "dataset_path": "good.json"}, pyrust_nn.ModelError),
        ("finetune_lora", {"model": "builtin:tiny", "dataset_path": "good.json", "target_modules": ["qproj"]}, pyrust_nn.InputError),
        ("inference", {"model": "qwen", "prompt": "a", "offline": True}, pyrust_nn.ModelError),
        ("convert_lora_to_gguf", {"adapter": "empty"}, pyrust_nn.ModelError),
        ("run_script", {"script": "cont.py"}, pyrust_nn.InputError),
    ],
)
def test_a_name_of_nothing_from_python(function: str, given: dict[str, Any], kind: type[Exception], things: None, runs: Path) -> None:
    name, value = next(iter(given.items()))
    for session in (None, "new"):
        with pytest.raises(kind, match=r"did you mean|has no|not downloaded|there is no") as raised:
            getattr(pyrust_nn, function)(session, value, **{key: one for key, one in given.items() if key != name}, runs_dir=runs)
        assert raised.value.summary["status"] == "Failure"  # type: ignore[attr-defined]
        assert not runs.exists()


def test_a_later_step_of_a_pipeline_may_name_what_an_earlier_one_makes(things: None, tmp_path: Path, runs: Path, cli: Cli) -> None:
    (tmp_path / "make.py").write_text("import shutil\ndef run(params, session):\n    shutil.copy('good.json', 'made.json')\n")
    train = 'task = "finetune_lora"\nmodel = "builtin:tiny"\nnum_epochs = 1\n'
    (tmp_path / "p.toml").write_text(f'[[step]]\ntask = "script"\nscript = "make.py"\n[[step]]\n{train}dataset_path = "made.json"\n')
    done = cli("run", "p.toml", "--session", "s", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    # A training writes no data set.
    (tmp_path / "q.toml").write_text(
        f'[[step]]\n{train}dataset_path = "good.json"\n[[step]]\n{train}name = "second"\ndataset_path = "god.json"\n'
    )
    done = cli("run", "q.toml", "--session", "t", "--runs-dir", runs)
    assert done.returncode == 2 and "q.toml, line 6, step second: there is no data set god.json" in done.stderr, done.stderr
    assert not (runs / "t").exists()
    with pytest.raises(pyrust_nn.InputError, match=r"did you mean good\.json"):
        pyrust_nn.run_pipeline("q.toml", session="t", runs_dir=str(runs))
    done = cli("run", "pp.toml", "--runs-dir", runs)
    assert done.returncode == 2 and "there is no pipeline file pp.toml; did you mean p.toml?" in done.stderr, done.stderr


def test_a_step_of_this_session_needs_one(runs: Path, script: Path, cli: Cli) -> None:
    done = cli("merge", "@script", "--runs-dir", runs)
    assert done.returncode == 2 and "no session is given; give --session, or <session>/script" in done.stderr, done.stderr
    assert not runs.exists()
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    (runs.parent / "x.json").write_text("[]")
    for words in (["merge", "@script"], ["serve", "@script"], ["chat", "@script"], ["check", "x.json", "-m", "@script"]):
        done = cli(*words, "--runs-dir", runs)
        assert done.returncode == 2 and "<session>/script, such as s/script" in done.stderr, done.stderr
    with pytest.raises(pyrust_nn.UsageError, match="no session is given; give session, or <session>/script, such as s/script"):
        pyrust_nn.merge(None, "@script", runs_dir=runs)
    done = cli("chat", "s/nope", "--runs-dir", runs)
    assert done.returncode == 2 and "session s has no step nope, its steps: script" in done.stderr, done.stderr


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub without models."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *words: object) -> None:
        pass


def test_a_name_that_the_hub_does_not_know(things: None, runs: Path, cli: Cli, tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}
        for words in (["finetune-lora", "good.json", "-m", "qwen"], ["inference", "-m", "org/qwen", "--prompt", "a"]):
            done = cli(*words, "--runs-dir", runs, env=env)
            assert done.returncode == 1 and "neither a local folder nor a hub model" in done.stderr, done.stderr
        server.shutdown()
    assert Hub.asked
    done = cli("quantize-model", "qwen", "--runs-dir", runs, env=env)
    assert done.returncode == 1 and "the hub is not reachable" in done.stderr, done.stderr
    assert not runs.exists()


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


def test_a_real_failure_keeps_its_record(tmp_path: Path, runs: Path, cli: Cli) -> None:
    """What a script finds wrong with a model is no typing error."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    assert cli("merge", "--model", broken, "--session", "s", "--runs-dir", runs).returncode == 1
    assert json.loads((runs / "s/merge/summary.json").read_text())["error"]["kind"] == "model"
    record = json.loads((runs / "s/session.json").read_text())
    assert record["state"] == "failure"
    assert record["packages"]["torch"] == version("torch") and record["python"] == platform.python_version(), "versions, also of a failure"


# Data that are refused for what is in them, and words of the message. `table.parquet` is read in the step, by Python.
REFUSED_DATA = {
    "no JSON": ("bad.json", [], "the file is truncated"),
    "nothing to train on": ("empty.json", [], "contains no conversations"),
    "all too long": ("good.json", ["--max-length", "8", "--overlong", "drop"], "no sample is left to train on"),
    "too long": ("good.json", ["--max-length", "8"], "overlong to drop"),
    "read by Python": ("table.parquet", [], "contains no conversations"),
    "to evaluate on": ("good.json", ["--eval-dataset-path", "bad.json"], "the file is truncated"),
}


@pytest.mark.parametrize("name", REFUSED_DATA)
def test_data_that_cannot_be_trained_on_refuse_the_attempt(
    name: str, things: None, tmp_path: Path, runs: Path, script: Path, cli: Cli
) -> None:
    """As in a dry run: a new session is not made, and a good one keeps its record."""
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "empty.json").write_text("[]")
    pyarrow.parquet.write_table(pyarrow.table({"messages": pyarrow.array([], pyarrow.list_(pyarrow.string()))}), "table.parquet")
    data, more, shown = REFUSED_DATA[name]
    words = ["finetune-lora", data, "-m", "builtin:tiny", *more, "--runs-dir", runs]
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    before = contents(runs / "s")
    for session in (["--session", "s"], ["--session", "s", "--step", "script", "--overwrite"], ["--session", "new"], []):
        done = cli(*words, *session)
        assert done.returncode == 2 and shown in done.stderr, done.stderr
    # A dry run prepares no data for a model that is not a folder.
    found = name in ("no JSON", "nothing to train on", "to evaluate on")
    assert cli(*words, "--session", "s", "--dry-run").returncode == (2 if found else 0)
    with pytest.raises(pyrust_nn.InputError) as raised:
        pyrust_nn.finetune_lora("new", "builtin:tiny", dataset_path="bad.json", runs_dir=runs)
    assert raised.value.summary is not None and raised.value.summary["status"] == "Failure"
    assert [entry.name for entry in runs.iterdir() if entry.is_dir()] == ["s"]
    after = contents(runs / "s")
    before.pop("pipeline.log")
    assert "step finetune_lora refused (input)" in after.pop("pipeline.log").decode()
    assert after == before
    assert pyrust_nn.list_sessions(runs_dir=runs)[0]["state"] == "success"


def test_a_pipeline_whose_first_data_are_refused_leaves_no_session_and_a_later_one_fails(
    tmp_path: Path, runs: Path, things: None, cli: Cli
) -> None:
    train = '[[step]]\ntask = "finetune_lora"\nmodel = "builtin:tiny"\nnum_epochs = 1\n'
    first, second = (f'{train}name = "{name}"\ndataset_path = "{name}.json"\n' for name in ("good", "bad"))
    (tmp_path / "p.toml").write_text(second + first)
    done = cli("run", "p.toml", "--session", "s", "--runs-dir", runs)
    assert done.returncode == 2 and "the file is truncated" in done.stderr and "session s in" not in done.stdout, done.stdout
    assert not (runs / "s").exists()
    (tmp_path / "q.toml").write_text(first + second)
    assert cli("run", "q.toml", "--session", "s", "--runs-dir", runs).returncode == 2
    assert json.loads((runs / "s/session.json").read_text())["state"] == "failure"
    assert json.loads((runs / "s/bad/summary.json").read_text())["error"]["kind"] == "input"
    (tmp_path / "bad.json").write_bytes((tmp_path / "good.json").read_bytes())
    assert cli("resume", "s", "--runs-dir", runs).returncode == 0


def test_what_the_environment_lacks_refuses_the_attempt(tmp_path: Path, runs: Path, things: None, script: Path, cli: Cli) -> None:
    train = ["finetune-lora", "good.json", "-m", "builtin:tiny"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("")
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    before = contents(runs / "s")
    for words, code, shown in (
        (
            [*train, "--report-to", "wandb"],
            2,
            "--report-to: wandb is not installed; install it into this Python environment (pip install wandb)",
        ),
        ([*train, "--python-env", "nowhere"], 1, "nowhere does not exist; check the path, or create it with `pyrust-nn setup --python-env"),
        ([*train, "--python-env", "mine"], 1, "mine exists and was not created by `pyrust-nn setup`"),
        ([*train, "--python-env", "nowhere", "--no-setup"], 1, "nowhere does not exist"),
        (["merge", "adapter", "--python-env", "nowhere"], 1, "nowhere does not exist"),
    ):
        for session in (["--session", "s"], ["--session", "new"], []):
            done = cli(*words, *session, "--runs-dir", runs)
            assert done.returncode == code and shown in done.stderr, done.stderr
    assert not (tmp_path / "nowhere").exists()
    assert [entry.name for entry in runs.iterdir() if entry.is_dir()] == ["s"]
    after = contents(runs / "s")
    assert "refused (setup)" in after.pop("pipeline.log").decode()
    before.pop("pipeline.log")
    assert after == before


def test_a_refused_replacement_leaves_an_earlier_success(runs: Path, data_json: str, cli: Cli) -> None:
    words = ["finetune-lora", "--model", "builtin:tiny", "--num-epochs", "1", "--session", "s", "--runs-dir", runs]
    assert cli(*words, "--dataset-path", data_json).returncode == 0
    before = contents(runs / "s")
    (runs.parent / "bad.json").write_text("[{")
    for data in ("nowhere.json", "bad.json"):
        assert cli(*words, "--dataset-path", data, "--overwrite").returncode == 2
    after = contents(runs / "s")
    assert {name for name in after if after[name] != before.get(name)} == {"pipeline.log"} and after.keys() == before.keys()


FLAGS = {
    "finetune-lora": {
        "quant": "load-in-4bit",
        "qlora": "load-in-4bit",
        "name": "step",
        "gpu": "device",
        "gpus": "nproc-per-node",
        "steps": "num-epochs",
        "max-steps": "num-epochs",
        "val-ratio": "eval-split",
        "precision": "dtype",
        "force": "overwrite",
        "output": "runs-dir",
    },
    "merge": {"adapter": "model"},
    "convert-lora-to-gguf": {"model": "adapter"},
    "convert-model-to-gguf": {"type": "outtype", "quant": "outtype"},
    "quantize-model": {"quant": "bits", "load-in-8bit": "bits"},
    "inference": {"max-tokens": "max-new-tokens", "question": "prompt"},
}


@pytest.mark.parametrize(("command", "theirs", "ours"), [(one, *pair) for one, flags in FLAGS.items() for pair in flags.items()])
def test_a_name_of_another_tool_leads_to_that_of_this_command(cli: Cli, command: str, theirs: str, ours: str) -> None:
    done = cli(command, f"--{theirs}", "x")
    assert done.returncode == 2 and f"'--{ours}'" in done.stderr, done.stderr


def test_a_rank_that_the_continued_adapter_has_not_is_refused(cli: Cli, runs: Path, tmp_path: Path, data_json: str) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    words = ["finetune-lora", data_json, "-m", "builtin:tiny", "--checkpoint-lora", adapter, "--lora-rank", "16", "--runs-dir", runs]
    done = cli(*words)
    assert done.returncode == 2 and "lora_rank is 4 in the checkpoint, not 16" in done.stderr, done.stderr
    assert not runs.exists() or not list(runs.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def run(params, session)\n    return {}\n", "mine.py, line 1: expected ':'; correct it"),
        ("def main(params, session):\n    return {}\n", "mine.py has no function run(params, session); define one"),
    ],
)
def test_a_script_that_cannot_run_is_refused_under_its_own_name(cli: Cli, runs: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    done = cli("script", tmp_path / "mine.py", "--runs-dir", runs)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not runs.exists() or not list(runs.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.path.insert(0, FOLDER)\nfrom other import run\n",
        "run = lambda params, session: {}\n",
        "globals()['run'] = lambda params, session: {}\n",
    ],
)
def test_a_function_run_of_any_origin_is_found(cli: Cli, runs: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "other.py").write_text("def run(params, session):\n    return {}\n")
    (tmp_path / "mine.py").write_text(text.replace("FOLDER", repr(str(tmp_path))))
    done = cli("script", tmp_path / "mine.py", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr


BROKEN = {"fails": "raise SystemExit('broken on purpose')", "dies": "import os; os._exit(3)"}


def environment(folder: Path, at_start: str) -> Path:
    """A Python environment with all packages, whose Python executes this when it starts."""
    own = Path(sys.prefix)
    packages = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    packages.mkdir(parents=True)
    for entry in (own / packages.relative_to(folder)).iterdir():
        (packages / entry.name).symlink_to(entry)
    (packages / "sitecustomize.py").write_text(at_start)
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to(own / "bin/python")
    (folder / "pyvenv.cfg").write_bytes((own / "pyvenv.cfg").read_bytes())
    return folder


@pytest.mark.parametrize("name", BROKEN)
def test_a_python_that_cannot_start_refuses_the_attempt(
    name: str, tmp_path: Path, runs: Path, script: Path, things: None, cli: Cli
) -> None:
    broken = environment(tmp_path / "broken", BROKEN[name])
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    before = contents(runs / "s")
    for words in (["finetune-lora", "good.json", "-m", "builtin:tiny"], ["script", script, "--step", "second"]):
        for session in ("s", "new"):
            done = cli(*words, "--session", session, "--python-env", broken, "--runs-dir", runs)
            assert done.returncode == (1 if name == "fails" else 3), done.stderr
            if name == "fails":
                assert "Python cannot start from" in done.stderr, done.stderr
    after = contents(runs / "s")
    assert name == "dies" or "refused (setup)" in after["pipeline.log"].decode()
    assert after | {"pipeline.log": b""} == before | {"pipeline.log": b""}
    assert [entry.name for entry in runs.iterdir() if entry.is_dir()] == ["s"]


def test_compile_without_a_compiler_refuses_the_attempt(tmp_path: Path, runs: Path, script: Path, things: None, cli: Cli) -> None:
    (tmp_path / "bin").mkdir()
    without = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")} | {"PATH": str(tmp_path / "bin")}
    assert cli("script", script, "--session", "s", "--runs-dir", runs).returncode == 0
    before = contents(runs / "s")
    for session in ("s", "new"):
        words = ["finetune-lora", "good.json", "-m", "builtin:tiny", "--compile", "--device", "cpu", "--python-env", sys.prefix]
        done = cli(*words, "--session", session, "--runs-dir", runs, env=without)
        assert done.returncode == 1 and "it needs a C++ compiler" in done.stderr and "starts" not in done.stderr, done.stderr
    after = contents(runs / "s")
    assert "step finetune_lora refused (setup)" in after["pipeline.log"].decode()
    assert after | {"pipeline.log": b""} == before | {"pipeline.log": b""}
    assert [entry.name for entry in runs.iterdir() if entry.is_dir()] == ["s"]


@pytest.mark.parametrize("name", ["too long", "read by Python", "no JSON"])
def test_a_refused_repetition_of_a_failed_step_leaves_it_as_it_was(name: str, tmp_path: Path, runs: Path, things: None, cli: Cli) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"messages": pyarrow.array([], pyarrow.list_(pyarrow.string()))}), "table.parquet")
    data, more, shown = REFUSED_DATA[name]
    words = ["finetune-lora", "-m", "builtin:tiny", "--session", "s", "--runs-dir", runs, "--save-steps", "1"]
    wild = ["--learning-rate", "10", "--max-grad-norm", "0", "--weight-decay", "10", "--num-epochs", "100"]
    failed = cli(*words, "-d", "good.json", *wild)
    assert failed.returncode == 1 and "diverged" in failed.stderr, failed.stderr
    before = contents(runs / "s")
    assert any("checkpoint-" in file for file in before)
    done = cli(*words, "-d", data, *more, "--overwrite")
    assert done.returncode == 2 and shown in done.stderr, done.stderr
    after = contents(runs / "s")
    assert "step finetune_lora refused (input)" in after["pipeline.log"].decode()
    assert after | {"pipeline.log": b""} == before | {"pipeline.log": b""}
    # One that is not refused replaces it, and leaves nothing of it.
    assert cli(*words, "-d", "good.json", "--overwrite", "--num-epochs", "1").returncode == 0
    assert sorted(entry.name for entry in (runs / "s").iterdir() if entry.is_dir()) == ["finetune_lora"]
    assert json.loads((runs / "s/session.json").read_text())["state"] == "success"
