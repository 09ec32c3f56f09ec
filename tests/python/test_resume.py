"""Resuming: a training that was killed, stopped or damaged ends with the bytes of an undisturbed one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disturbed
import pytest
import torch
import transformers

import pyrust_nn
from pyrust_nn.models.model_folder import model_folder

Cli = Callable[..., subprocess.CompletedProcess[str]]

# Six steps an epoch; lines of metrics.jsonl, checkpoints and epochs end at different steps, and sometimes at the same.
COMMON: dict[str, Any] = {
    "num_epochs": 3,
    "batch_size": 1,
    "gradient_accumulation_steps": 2,
    "logging_steps": 3,
    "learning_rate": 1e-3,
    "warmup": 0.2,
}
LORA: dict[str, Any] = {"lora_rank": 4, "lora_dropout": 0.2, "eval_split": 0.1}
OUTPUT = {"finetune_full": "model/model.safetensors", "finetune_lora": "adapter/adapter_model.safetensors"}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve conversations of different lengths."""
    path = tmp_path_factory.mktemp("data") / "few.json"
    pairs = [(f"Question {i}?", f"Answer {i} " * (1 + 3 * i % 7)) for i in range(12)]
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder of the user's."""
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(model_folder("builtin:tiny"), folder)
    return folder


def flags(**params: Any) -> list[str]:
    return [word for name, value in params.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def start(binary: Path, task: str, **params: Any) -> subprocess.Popen[bytes]:
    words = [binary, *([task] if task == "resume" else [task.replace("_", "-")])]
    if task == "resume":
        words.append(params.pop("session"))
    return disturbed.start([*words, *flags(**params)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_step(step: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    """Until metrics.jsonl speaks of a training step, as far as `logging_steps` shows it."""
    until = time.monotonic() + 600
    while time.monotonic() < until and process.poll() is None:
        file = step / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        if lines and json.loads(lines[-1].rpartition("}")[0] + "}")["step"] >= number:
            return
        time.sleep(0.002)
    pytest.fail(f"step {number} never came (exit code {process.poll()})")


def kill_at(step: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    wait_for_step(step, number, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def figures(step: Path) -> list[tuple[Any, ...]]:
    """metrics.jsonl without what depends on the clock."""
    records = [json.loads(line) for line in (step / "metrics.jsonl").read_text().splitlines()]
    return [tuple(one.get(name) for name in ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")) for one in records]


def same_end(step: Path, undisturbed: Path, task: str) -> bool:
    assert figures(step) == figures(undisturbed)
    ours, theirs = (json.loads((folder / "summary.json").read_text())["metrics"] for folder in (step, undisturbed))
    for name in ("train_loss", "first_loss", "last_loss", "eval_loss", "steps", "epochs", "tokens"):
        assert ours.get(name) == theirs.get(name), name
    return (step / OUTPUT[task]).read_bytes() == (undisturbed / OUTPUT[task]).read_bytes()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, dataset: Path, base: Path) -> dict[str, Path]:
    """Both ways of fine-tuning from beginning to end: the step's folder by task."""
    runs = tmp_path_factory.mktemp("undisturbed")
    pyrust_nn.finetune_full("s", base, dataset_path=dataset, save_steps=4, **COMMON, runs_dir=runs)
    pyrust_nn.finetune_lora("s", base, dataset_path=dataset, save_steps=4, **COMMON, **LORA, runs_dir=runs)
    return {task: runs / "s" / task for task in OUTPUT}


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory, dataset: Path, base: Path, binary: Path) -> Path:
    """A runs folder with the LoRA training killed after its 12th step."""
    runs = tmp_path_factory.mktemp("killed")
    given = COMMON | LORA | {"save_steps": 4, "model": base, "dataset_path": dataset, "session": "s", "runs_dir": runs}
    kill_at(runs / "s/finetune_lora", 12, start(binary, "finetune_lora", **given))
    return runs


@pytest.fixture
def copy(killed: Path, runs: Path) -> Path:
    """A copy of it: the step's folder."""
    shutil.copytree(killed, runs, symlinks=True)
    return runs / "s/finetune_lora"


@pytest.mark.parametrize("task", list(OUTPUT))
def test_killed_at_any_steps_a_training_ends_as_if_nothing_had_happened(
    task: str, runs: Path, dataset: Path, base: Path, binary: Path, undisturbed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = runs / "s" / task
    first, second = sorted(random.sample(range(2, 15), 2))
    given = COMMON | (LORA if task == "finetune_lora" else {}) | {"save_steps": 4, "model": base, "dataset_path": dataset}
    kill_at(step, first, start(binary, task, session="s", runs_dir=runs, **given))
    assert pyrust_nn.list_sessions(runs_dir=runs)[0]["state"] == "interrupted"
    kill_at(step, second, start(binary, "resume", session="s", runs_dir=runs))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # another number than the training began with, which it takes back
    try:
        (summary,) = pyrust_nn.resume("s", runs_dir=runs)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert summary["status"] == "Success" and (summary["task"], summary["step"]) == (task, task)
    assert same_end(step, undisturbed[task], task), f"killed at {first} and {second}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_running_step_and_it_resumes_from_there(
    number: int, runs: Path, dataset: Path, base: Path, binary: Path, cli: Cli, undisturbed: dict[str, Path]
) -> None:
    step = runs / "s/finetune_lora"
    given = COMMON | LORA | {"save_steps": 1000, "model": base, "dataset_path": dataset, "session": "s", "runs_dir": runs}
    process = start(binary, "finetune_lora", **given)
    wait_for_step(step, 6, process)
    process.send_signal(number)
    assert process.wait(300) == 128 + number
    error = json.loads((step / "summary.json").read_text())["error"]
    assert error["kind"] == "interrupted" and "pyrust-nn resume" in error["message"]
    saved = max((step / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    assert 6 <= int(saved.name.removeprefix("checkpoint-")) < 18
    assert "interrupted" in cli("status", "s", "--runs-dir", runs).stdout
    again = cli("finetune-lora", *flags(**given))
    assert again.returncode == 2 and "`pyrust-nn resume s`" in again.stderr and saved.name in again.stderr
    done = cli("resume", "s", "--runs-dir", runs, "--json")
    assert done.returncode == 0, done.stderr
    assert [one["status"] for one in json.loads(done.stdout)["steps"]] == ["Success"]
    assert f"resumes from {saved.name}" in (runs / "s/pipeline.log").read_text()
    assert same_end(step, undisturbed["finetune_lora"], "finetune_lora")


def break_half_written(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "optimizer.pt").unlink()


def break_bit(checkpoint: Path) -> None:
    file = checkpoint / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (break_half_written, "it has no manifest.json"),
        (break_bit, "adapter_model.safetensors has a different content"),
        (lambda checkpoint: (checkpoint / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda checkpoint: (checkpoint / "rng_state.pth").write_bytes(b""), "rng_state.pth has 0 bytes"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_for_an_older_one(
    copy: Path, runs: Path, undisturbed: dict[str, Path], breaking: Callable[[Path], None], words: str
) -> None:
    checkpoints = sorted((copy / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    breaking(checkpoints[-1])
    pyrust_nn.resume("s", runs_dir=runs)
    log = (runs / "s/pipeline.log").read_text()
    assert f"{checkpoints[-1].name} is damaged and skipped: {words}" in log
    assert f"resumes from {checkpoints[-2].name}" in log
    assert same_end(copy, undisturbed["finetune_lora"], "finetune_lora")


def test_without_a_complete_checkpoint_the_step_restarts(copy: Path, runs: Path, undisturbed: dict[str, Path]) -> None:
    for checkpoint in (copy / "checkpoints").glob("checkpoint-*"):
        (checkpoint / "scheduler.pt").unlink()
    pyrust_nn.resume("s", "finetune_lora", runs_dir=runs)
    assert "no complete checkpoint, so the step restarts" in (runs / "s/pipeline.log").read_text()
    assert same_end(copy, undisturbed["finetune_lora"], "finetune_lora")


def edited(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_changed_input_is_refused_by_name_and_once_restored_the_step_resumes(
    copy: Path, runs: Path, dataset: Path, base: Path, undisturbed: dict[str, Path]
) -> None:
    weights = base / "model.safetensors"
    for file, change, words in (
        (dataset, lambda: edited(dataset, "Answer 3", "Answer 4"), "dataset_path has changed: .*few.json"),
        (dataset, dataset.unlink, "dataset_path has changed: .*few.json no longer exists"),
        (weights, lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"\1"), "model has changed: .*model.safetensors"),
        (copy / "begun.json", lambda: edited(copy / "begun.json", "0.001", "0.002"), r"learning_rate \(was 0.001, is 0.002\)"),
    ):
        before = file.read_bytes()
        change()
        try:
            with pytest.raises(pyrust_nn.InputError, match=words):
                pyrust_nn.resume("s", runs_dir=runs)
        finally:
            file.write_bytes(before)
    pyrust_nn.resume("s", runs_dir=runs)
    assert same_end(copy, undisturbed["finetune_lora"], "finetune_lora")


def test_a_mistyped_attempt_costs_no_checkpoint(copy: Path, runs: Path, cli: Cli, dataset: Path, undisturbed: dict[str, Path]) -> None:
    words = "finetune-lora", "--session", "s", "--runs-dir", runs, "--model", "builtin:tiny", "--dataset-path"
    for wrong in (("nowhere.json", "--overwrite"), (dataset, "--lora-rnk", "8"), (dataset, "--lora-rank", "0", "--overwrite"), (dataset,)):
        assert cli(*words, *wrong).returncode == 2
    pyrust_nn.resume("s", runs_dir=runs)
    assert same_end(copy, undisturbed["finetune_lora"], "finetune_lora")


def test_nothing_to_resume_is_said(copy: Path, runs: Path, cli: Cli) -> None:
    with pytest.raises(pyrust_nn.UsageError, match="there is no such step; did you mean finetune_lora"):
        pyrust_nn.resume("s", "finetune_lore", runs_dir=runs)
    with pytest.raises(pyrust_nn.UsageError, match="there is no session t"):
        pyrust_nn.resume("t", runs_dir=runs)
    pyrust_nn.resume("s", runs_dir=runs)
    for words in ((), ("--step", "finetune_lora")):
        done = cli("resume", "s", *words, "--runs-dir", runs)
        assert done.returncode == 2 and "nothing to resume" in done.stderr and "succeeded" in done.stderr, done.stderr


def test_a_step_that_failed_before_it_began_is_run_again_and_not_resumed(runs: Path, tmp_path: Path, cli: Cli) -> None:
    """docs/resume.md says the same. Another step's failure has begun, so it is this one that is taken away."""
    (tmp_path / "bad.py").write_text("def run(params, session):\n    raise ValueError('no luck')\n")
    words = ["script", "bad.py", "--step", "finetune_lora", "--session", "s", "--runs-dir", str(runs)]
    assert cli(*words).returncode == 1
    (runs / "s/finetune_lora/begun.json").unlink()
    command = f"it failed before it began, so nothing of it can be resumed; run it again: `pyrust-nn {' '.join(words)}`"
    for step in ([], ["--step", "finetune_lora"]):
        done = cli("resume", "s", *step, "--runs-dir", runs)
        assert done.returncode == 2 and command in done.stderr, done.stderr
    done = cli("resume", "s", "--step", "merge", "--runs-dir", runs)
    assert "there is no such step; the session has finetune_lora" in done.stderr, done.stderr


def test_a_step_of_the_pipeline_that_has_not_run_can_be_named(runs: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "stop.py").write_text("def run(params, session):\n    raise ValueError('stop')\n")
    (tmp_path / "go.py").write_text("def run(params, session):\n    return {}\n")
    step = '[[step]]\ntask = "script"\n'
    (tmp_path / "p.toml").write_text(f'{step}name = "first"\nscript = "stop.py"\n{step}name = "later"\nscript = "go.py"\n')
    assert cli("run", "p.toml", "--session", "s", "--runs-dir", runs).returncode == 1
    done = cli("resume", "s", "--step", "latr", "--runs-dir", runs)
    assert done.returncode == 2 and "there is no such step; did you mean later?" in done.stderr, done.stderr
    done = cli("resume", "s", "--step", "later", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    assert json.loads((runs / "s/later/summary.json").read_text())["status"] == "Success"
    done = cli("resume", "s", "--step", "later", "--runs-dir", runs)
    assert done.returncode == 2 and "has succeeded" in done.stderr, done.stderr


def test_killed_after_its_last_checkpoint_a_training_makes_no_further_step(runs: Path, dataset: Path, base: Path) -> None:
    """The last step lies within an epoch."""
    given = COMMON | LORA | {"num_epochs": 2.5, "save_steps": 4}
    pyrust_nn.finetune_lora("whole", base, dataset_path=dataset, **given, runs_dir=runs)
    shutil.copytree(runs / "whole", runs / "s", symlinks=True)
    step = runs / "s/finetune_lora"
    shutil.rmtree(step / "adapter")
    (step / "summary.json").unlink()
    edited(runs / "s/session.json", '"status": "Success"', '"status": null')
    pyrust_nn.resume("s", runs_dir=runs)
    assert same_end(step, runs / "whole/finetune_lora", "finetune_lora")


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def back_to(step: Path, number: int) -> None:
    """As if it had been killed behind the checkpoint of that training step."""
    for name in ("summary.json", "model", "adapter"):
        path = step / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for checkpoint in (step / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > number:
            checkpoint.unlink() if checkpoint.is_symlink() else shutil.rmtree(checkpoint)


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "moments in 8 bit": ("finetune_full", {"optimizer": "adamw_8bit"}),
    "bf16": ("finetune_full", {"dtype": "bf16"}),
    "noise on the embeddings": ("finetune_full", {"neftune_alpha": 5}),
    "early stopping": ("finetune_full", {"eval_split": 0.2, "eval_steps": 2, "early_stopping_patience": 20}),
    "QLoRA": ("finetune_lora", LORA | {"load_in_4bit": True}),
    "DoRA": ("finetune_lora", LORA | {"use_dora": True}),
    "LoRA+": ("finetune_lora", LORA | {"loraplus_ratio": 4}),
    "a stack": ("finetune_lora", LORA | {"checkpoint_mode": "stack"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_resumes_exactly(way: str, runs: Path, dataset: Path, base: Path, undisturbed: dict[str, Path]) -> None:
    task, given = WAYS[way]
    if way == "a stack":
        given = given | {"checkpoint_lora": undisturbed["finetune_lora"] / "adapter"}
    getattr(pyrust_nn, task)("s", base, dataset_path=dataset, **COMMON | given, save_steps=4, runs_dir=runs)
    whole = runs / "whole"
    step = runs / "s" / task
    shutil.copytree(step, whole, symlinks=True)
    back_to(step, random.choice([4, 8, 12]))
    pyrust_nn.resume("s", task, runs_dir=runs)
    assert same_end(step, whole, task)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_experts_whose_files_name_them_otherwise_than_memory_does_go_on_exactly(
    runs: Path, dataset: Path, tmp_path: Path, dtype: str
) -> None:
    folder = Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path / "experts"))
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(vocab_size=vocabulary, max_position_embeddings=2048, **SIZES, **EXPERTS)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    given = COMMON | {"num_epochs": 2, "save_steps": 5, "dtype": dtype, "device": "cpu"}
    pyrust_nn.finetune_full("whole", folder, dataset_path=dataset, **given, runs_dir=runs)
    shutil.copytree(runs / "whole", runs / "s", symlinks=True)
    step = runs / "s/finetune_full"
    for made in ("model", "checkpoints/checkpoint-10", "checkpoints/checkpoint-12"):
        shutil.rmtree(step / made)
    (step / "summary.json").unlink()
    edited(runs / "s/session.json", '"status": "Success"', '"status": null')
    pyrust_nn.resume("s", runs_dir=runs)
    assert "resumes from checkpoint-5" in (runs / "s/pipeline.log").read_text()
    assert same_end(step, runs / "whole/finetune_full", "finetune_full")


def test_an_attempt_to_replace_a_success_is_resumed_beside_it(runs: Path, dataset: Path, base: Path, binary: Path) -> None:
    given = COMMON | {"save_steps": 4, "model": base, "dataset_path": dataset, "session": "s", "runs_dir": runs}
    first = pyrust_nn.finetune_full("s", base, dataset_path=dataset, num_epochs=1, runs_dir=runs)
    process = disturbed.start(
        [binary, "finetune-full", *flags(**given), "--overwrite"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    wait_for_step(runs / "s/finetune_full.new", 6, process)
    process.terminate()
    assert process.wait(300) == 143
    assert json.loads((runs / "s/finetune_full/summary.json").read_text())["params"] == first["params"]
    (summary,) = pyrust_nn.resume("s", runs_dir=runs)
    assert summary["metrics"]["steps"] == 18 and (runs / "s/finetune_full/model").is_dir()
    assert not list((runs / "s").glob("finetune_full.*"))


PIPELINE = """
[[step]]
task = "script"
script = "count.py"
[[step]]
task = "finetune_lora"
name = "tune"
model = "builtin:tiny"
dataset_path = "data.json"
num_epochs = 10
save_steps = 5
logging_steps = 1
[[step]]
task = "merge"
model = "@tune"
"""


def test_a_pipeline_resumes_where_it_was_interrupted(
    runs: Path, dataset: Path, binary: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "count.py").write_text("def run(params, session):\n    open('ran', 'a').write('x')\n")
    (tmp_path / "p.toml").write_text(PIPELINE)
    shutil.copy(dataset, tmp_path / "data.json")
    process = disturbed.start([binary, "run", "p.toml", "--session", "s", "--runs-dir", runs], stderr=subprocess.DEVNULL)
    kill_at(runs / "s/tune", 12, process)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = cli("resume", "s", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:3]] == [["tune", "success"], ["merge", "success"]]
    assert "resumes from checkpoint-1" in (runs / "s/pipeline.log").read_text()
    assert (tmp_path / "ran").read_text() == "x"
    assert (runs / "s/merge/model/model.safetensors").is_file()
    assert [json.loads(line)["step"] for line in (runs / "s/tune/metrics.jsonl").read_text().splitlines()] == list(range(1, 31))
