"""Training by several processes: the same steps, losses and weights as by one, and no process is left when one of them ends."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disturbed
import numpy as np
import pytest
import torch
from fixtures import write
from safetensors.torch import load_file

import pyrust_nn
from pyrust_nn._runtime.processes import Processes, ProcessPlace
from pyrust_nn.training.distributed import GroupRanks, buckets, flat
from pyrust_nn.training.rows import Row

Cli = Callable[..., subprocess.CompletedProcess[str]]

# 13 rows to train on: the last of four steps an epoch has one, so that other ranks have none.
COMMON: dict[str, Any] = {
    "num_epochs": 2,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "sample_prompts": 0,
    "eval_steps": 3,
    "save_steps": 3,
}
LORA: dict[str, Any] = {"lora_rank": 4, "lora_dropout": 0.0, "load_best_model_at_end": True}
OUTPUT = {"finetune_full": "model/model.safetensors", "finetune_lora": "adapter/adapter_model.safetensors"}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Conversations to train on, and others for evaluation, of different lengths."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [(f"Question {i}?", f"Answer {i} " * (1 + 5 * i % 9)) for i in range(18)]
    return {"dataset_path": write(folder / "train.json", pairs[:13]), "eval_dataset_path": write(folder / "eval.json", pairs[13:])}


def given(task: str, data: dict[str, Path], **more: Any) -> dict[str, Any]:
    return COMMON | (LORA if task == "finetune_lora" else {}) | data | more


def flags(**params: Any) -> list[str]:
    return [f"--{name.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}" for name, value in params.items()]


def command(task: str, runs: Path, data: dict[str, Path], **more: Any) -> list[str]:
    return [task.replace("_", "-"), "-m", "builtin:tiny", "--session=s", f"--runs-dir={runs}", *flags(**given(task, data, **more))]


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Path]) -> dict[str, Path]:
    """The step's folder of each task, trained by one process."""
    runs = tmp_path_factory.mktemp("alone")
    for task in OUTPUT:
        getattr(pyrust_nn, task)("s", "builtin:tiny", **given(task, data), runs_dir=runs)
    return {task: runs / "s" / task for task in OUTPUT}


def figures(step: Path, *names: str) -> list[list[float | None]]:
    records = [json.loads(line) for line in (step / "metrics.jsonl").read_text().splitlines()]
    return [[record.get(name) for name in ("step", *names)] for record in records]


def summary_of(step: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((step / "summary.json").read_text())
    return summary


def assert_same_training(step: Path, alone: Path, task: str) -> None:
    for name in ("loss", "eval_loss", "learning_rate", "grad_norm"):
        ours, theirs = (np.array([[x if x is not None else np.nan for x in row] for row in figures(f, name)]) for f in (step, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=name)
    ours, theirs = (summary_of(folder)["metrics"] for folder in (step, alone))
    for name in ("train_loss", "first_loss", "last_loss", "eval_loss", "best_eval_loss", "best_step", "steps", "epochs", "tokens"):
        assert ours.get(name) == pytest.approx(theirs.get(name), rel=1e-5), name
    trained, expected = load_file(step / OUTPUT[task]), load_file(alone / OUTPUT[task])
    assert trained.keys() == expected.keys()
    for name, weights in expected.items():
        # AdamW divides by the gradient's size, so a gradient of nearly 0 has a step of any size up to the learning rate.
        assert (trained[name] - weights).abs().mean() < 1e-5, name


def pids(step: Path) -> dict[str, int]:
    """The processes of a running step, by rank."""
    disturbed.wait_for(step / "workers.json")
    found: dict[str, int] = json.loads((step / "workers.json").read_text())
    return found


def runs_on(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_all_end(processes: dict[str, int]) -> None:
    until = time.monotonic() + 60
    while left := [rank for rank, pid in processes.items() if runs_on(pid)]:
        assert time.monotonic() < until, f"ranks {left} are left"
        time.sleep(0.05)


def wait_for_step(step: Path, number: int, process: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until and process.poll() is None:
        file = step / "metrics.jsonl"
        if file.exists() and f'"step": {number},' in file.read_text():
            return
        time.sleep(0.005)
    pytest.fail(f"step {number} never came (exit code {process.poll()})")


@pytest.mark.parametrize("count", [2, 3])
def test_full_fine_tuning_by_the_command_is_that_of_one_process(
    count: int, runs: Path, data: dict[str, Path], alone: dict[str, Path], cli: Cli
) -> None:
    done = cli(*command("finetune_full", runs, data, nproc_per_node=count))
    assert done.returncode == 0, done.stderr
    step = runs / "s/finetune_full"
    assert_same_training(step, alone["finetune_full"], "finetune_full")
    assert [path.name for path in sorted(step.glob("rank-*.log"))] == [f"rank-{rank}.log" for rank in range(1, count)]
    assert "step 8 of 8" in (step / "rank-1.log").read_text()
    assert "rank" not in done.stderr and done.stderr.count("step 8 of 8, epoch") <= 1  # only rank 0 speaks to the user
    assert not (step / "workers.json").exists()
    assert summary_of(step)["params"]["nproc_per_node"] == count


@pytest.mark.parametrize("count", [2, 3])
def test_lora_in_a_python_host_is_that_of_one_process(count: int, runs: Path, data: dict[str, Path], alone: dict[str, Path]) -> None:
    threads = torch.get_num_threads()
    pyrust_nn.finetune_lora("s", "builtin:tiny", **given("finetune_lora", data, nproc_per_node=count), runs_dir=runs)
    assert_same_training(runs / "s/finetune_lora", alone["finetune_lora"], "finetune_lora")
    assert torch.get_num_threads() == threads and not torch.distributed.is_initialized()


def test_what_an_adapter_forgets_is_measured_by_all(runs: Path, data: dict[str, Path], alone: dict[str, Path]) -> None:
    more = {"checkpoint_lora": alone["finetune_lora"] / "adapter", "runs_dir": runs, "num_epochs": 1}
    tables = []
    for count in (1, 2):
        summary = pyrust_nn.finetune_lora(
            f"s{count}", "builtin:tiny", **given("finetune_lora", data, nproc_per_node=count) | {"lora_dropout": None} | more
        )
        tables.append(summary["result"]["forgetting"])
    (one,), (two,) = tables
    assert one["rows"] == two["rows"] == 13
    for name in ("loss_before", "loss_after"):
        assert one[name] == pytest.approx(two[name], rel=1e-5)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Path]) -> Path:
    """The step's folder of a training with dropout by two processes, from beginning to end."""
    runs = tmp_path_factory.mktemp("undisturbed")
    pyrust_nn.finetune_lora("s", "builtin:tiny", **given("finetune_lora", data, **LONG, nproc_per_node=2), runs_dir=runs)
    return runs / "s/finetune_lora"


LONG: dict[str, Any] = {"lora_dropout": 0.2, "num_epochs": 6}


def assert_bit_identical(step: Path, other: Path) -> None:
    names = ("epoch", "loss", "eval_loss", "learning_rate", "grad_norm")
    assert figures(step, *names) == figures(other, *names)
    assert (step / OUTPUT["finetune_lora"]).read_bytes() == (other / OUTPUT["finetune_lora"]).read_bytes()


def start(binary: Path, runs: Path, data: dict[str, Path], **more: Any) -> subprocess.Popen[Any]:
    words = [str(binary), *command("finetune_lora", runs, data, **LONG | {"nproc_per_node": 2} | more)]
    return disturbed.start(list(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_killed_training_resumes_with_as_many_processes_bit_for_bit_and_leaves_none(
    runs: Path, data: dict[str, Path], undisturbed: Path, binary: Path
) -> None:
    step = runs / "s/finetune_lora"
    process = start(binary, runs, data)
    wait_for_step(step, random.randint(4, 20), process)
    known = pids(step)
    assert known["0"] == process.pid and len(known) == 2
    process.kill()
    process.wait()
    assert_all_end(known)
    (summary,) = pyrust_nn.resume("s", runs_dir=runs)
    assert summary["status"] == "Success"
    assert_bit_identical(step, undisturbed)


def test_a_training_resumes_with_another_number_of_processes(
    runs: Path, data: dict[str, Path], alone: dict[str, Path], binary: Path, cli: Cli
) -> None:
    step = runs / "s/finetune_lora"
    process = start(binary, runs, data, lora_dropout=0.0, num_epochs=2)
    wait_for_step(step, 4, process)
    process.kill()
    process.wait()
    done = cli("resume", "s", f"--runs-dir={runs}", "--nproc-per-node=1")
    assert done.returncode == 0, done.stderr
    assert_same_training(step, alone["finetune_lora"], "finetune_lora")
    assert summary_of(step)["params"]["nproc_per_node"] == 1
    assert "the number of processes was 2 and is 1" in (runs / "s/pipeline.log").read_text()


def test_a_worker_that_is_killed_ends_the_step_and_all_processes(runs: Path, data: dict[str, Path], binary: Path) -> None:
    step = runs / "s/finetune_lora"
    process = start(binary, runs, data, nproc_per_node=3, num_epochs=50)
    wait_for_step(step, 4, process)
    known = pids(step)
    os.kill(known["1"], signal.SIGKILL)
    assert process.wait(timeout=120) == 1
    assert_all_end(known)
    error = summary_of(step)["error"]
    assert error["kind"] == "script"
    assert error["message"].startswith(f"rank 1 (process {known['1']}) was ended by SIGKILL; its log is {step}/rank-1.log")


def test_within_max_restarts_it_goes_on_from_the_last_checkpoint(
    runs: Path, data: dict[str, Path], undisturbed: Path, binary: Path
) -> None:
    step = runs / "s/finetune_lora"
    process = start(binary, runs, data, max_restarts=1)
    wait_for_step(step, random.randint(4, 20), process)
    os.kill(pids(step)["1"], signal.SIGKILL)
    assert process.wait(timeout=300) == 0
    assert summary_of(step)["metrics"]["restarts"] == 1
    log = (runs / "s/pipeline.log").read_text()
    assert "was ended by SIGKILL" in log and "restart 1 of 1" in log
    assert_bit_identical(step, undisturbed)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_signal_to_any_rank_stops_all_at_one_step_and_it_resumes(
    rank: str, runs: Path, data: dict[str, Path], undisturbed: Path, binary: Path
) -> None:
    step = runs / "s/finetune_lora"
    process = start(binary, runs, data, save_steps=1000)
    wait_for_step(step, 7, process)
    known = pids(step)
    os.kill(known[rank], signal.SIGINT if rank == "0" else signal.SIGTERM)
    assert process.wait(timeout=120) == (130 if rank == "0" else 143)
    assert_all_end(known)
    assert summary_of(step)["error"]["kind"] == "interrupted"
    assert not (step / "workers.json").exists()
    (summary,) = pyrust_nn.resume("s", runs_dir=runs)
    assert summary["status"] == "Success"
    assert_bit_identical(step, undisturbed)


def test_a_signal_ends_all_processes_where_nothing_is_saved(runs: Path, data: dict[str, Path], binary: Path) -> None:
    step = runs / "s/finetune_lora"
    process = start(binary, runs, data, save_steps=0, num_epochs=50, load_best_model_at_end=False)
    wait_for_step(step, 4, process)
    known = pids(step)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    assert_all_end(known)
    assert summary_of(step)["error"]["kind"] == "interrupted"


def test_a_training_that_diverges_ends_in_all_ranks(runs: Path, data: dict[str, Path]) -> None:
    params = given("finetune_full", data, nproc_per_node=2)
    with pytest.raises(pyrust_nn.ModelError, match=r"training diverged: .* at step \d+") as raised:
        pyrust_nn.finetune_full(
            "s", "builtin:tiny", **params | {"learning_rate": 10.0, "weight_decay": 10.0, "num_epochs": 60}, runs_dir=runs
        )
    assert not (runs / "s/finetune_full/workers.json").exists()  # both have ended
    failed = re.search(r"at step (\d+)", str(raised.value))
    assert failed
    assert f"step {failed[1]} of" not in (runs / "s/finetune_full/rank-1.log").read_text(), "and at the same step"


def test_a_worker_fails_by_itself(runs: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRUST_NN_CACHE", os.environ["PYRUST_NN_CACHE"])
    monkeypatch.setattr("pyrust_nn._runtime.launcher.worker_command", lambda: [sys.executable, "-c", "raise SystemExit('no worker')"])
    with pytest.raises(pyrust_nn.ScriptError, match=r"rank 1 \(process \d+\) ended with status 1; its log is .*rank-1.log"):
        pyrust_nn.finetune_lora("s", "builtin:tiny", **given("finetune_lora", data, nproc_per_node=2), runs_dir=runs)
    assert "no worker" in (runs / "s/finetune_lora/rank-1.log").read_text()


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def test_the_command_joins_the_processes_of_torchrun(
    runs: Path, data: dict[str, Path], alone: dict[str, Path], binary: Path, tmp_path: Path
) -> None:
    words = [*TORCHRUN, "--no-python", str(binary), *command("finetune_lora", runs, data)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_training(runs / "s/finetune_lora", alone["finetune_lora"], "finetune_lora")
    assert [path.name for path in runs.iterdir() if path.is_dir()] == ["s"]
    assert done.stdout.count("session s, step finetune_lora") == 1
    assert "step 8 of 8" in (runs / "s/finetune_lora/rank-1.log").read_text()


def test_a_script_of_several_steps_joins_the_processes_of_torchrun(runs: Path, data: dict[str, Path], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, pyrust_nn\n"
        f"given = json.loads({json.dumps(json.dumps(given('finetune_lora', data) | {'runs_dir': str(runs)}, default=str))})\n"
        "first = pyrust_nn.finetune_lora('s', 'builtin:tiny', **given)\n"
        "merged = pyrust_nn.merge('s', 's/finetune_lora', runs_dir=given['runs_dir'])\n"
        "open(f'rank-{os.environ[\"RANK\"]}.json', 'w').write(json.dumps([first, merged]))\n"
        "try:\n"
        "    pyrust_nn.finetune_full('s', 'nothing/here', **given | {'offline': True})\n"
        "except pyrust_nn.PyrustNNError as error:\n"
        "    open(f'error-{os.environ[\"RANK\"]}', 'w').write(error.kind)\n"
    )
    done = subprocess.run([*TORCHRUN, str(script)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and [one["task"] for one in first] == ["finetune_lora", "merge"]
    assert (tmp_path / "error-0").read_text() == (tmp_path / "error-1").read_text()


def test_another_number_is_refused(runs: Path, data: dict[str, Path]) -> None:
    for wrong in (0, "two", 1.5):
        with pytest.raises(pyrust_nn.UsageError, match="nproc_per_node"):
            pyrust_nn.finetune_lora("s", "builtin:tiny", **given("finetune_lora", data, nproc_per_node=wrong), runs_dir=runs)


def row(length: int) -> Row:
    ids = np.arange(length, dtype=np.int32)
    return Row(ids, ids)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_rows_are_dealt_to_all_ranks_with_similar_numbers_of_tokens(count: int) -> None:
    numbers = random.Random(count)
    rows = [row(numbers.randint(2, 300)) for _ in range(count)]
    for size in (2, 3, 8):
        parts = [GroupRanks(Processes(ProcessPlace(rank, size, rank, size)), None).shard(rows) for rank in range(size)]  # type: ignore[arg-type]
        dealt = [id(one) for part in parts for one in part]
        assert sorted(dealt) == sorted(map(id, rows))
        tokens = [sum(len(one.input_ids) for one in part) for part in parts]
        assert max(tokens) - min(tokens) <= 300


def test_dropout_differs_by_rank() -> None:
    seeds = {GroupRanks(Processes(ProcessPlace(rank, 8, rank, 8)), None).seed(42) for rank in range(8)}  # type: ignore[arg-type]
    assert len(seeds) == 8 and 42 in seeds


def test_gradients_are_summed_in_buckets_of_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrust_nn.training.distributed.BUCKET_BYTES", 64)
    sizes = [3, 5, 100, 8, 1, 15, 2]
    tensors = [torch.arange(size, dtype=torch.float64 if size == 1 else torch.float32) for size in sizes]
    tensors[3] = torch.arange(16.0)[::2]  # not contiguous
    found = list(buckets(tensors))
    assert [[len(one) for one in bucket] for bucket in found] == [[3, 5], [100], [8], [1], [15], [2]]
    expected = [tensor * 2 for tensor in tensors]
    for bucket in found:
        with flat(bucket) as values:
            values *= 2
    assert all(torch.equal(tensor, doubled) for tensor, doubled in zip(tensors, expected, strict=True))
