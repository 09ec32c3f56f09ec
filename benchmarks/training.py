"""Our training beside TRL's and LLaMA-Factory's: target tokens a second, peak memory and losses on equal data.

    python benchmarks/training.py            # all of it; `make bench-training`
    python benchmarks/training.py --only lora --steps 4 --rounds 1 --sides ours trl
    python benchmarks/training.py --settings # which of TRL's settings is the fastest; `make bench-trl-settings`

A 103 M-parameter Qwen2 with random weights and the vocabulary of ../shared/qwen2-tokenizer, conversations made from a
seed, batches of 4 rows, at most 512 tokens each, fp32, LoRA of rank 16 without dropout and full fine-tuning. All sides
start from the same weights (also the adapter's), see the same rows with the same labels in the same order, and use
AdamW at the same constant rate, so their losses must agree step by step. Ours goes through the public functions; the
peers get rows that are encoded already. Each run is a process of its own, the sides in turn. The clock counts optimizer
steps alone, the first step included; memory is the process's peak (ru_maxrss), and beside it stands what no side can do
without: torch, transformers, peft and the weights, in full gradients and AdamW's moments too. TRL runs at the fastest of its settings
(`trl_side.py`, results/training_settings.json) and in batches of 4, LLaMA-Factory in an environment of its own (`peers.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import our_side
import peers
import trl_side
from machine import described, results_file
from training_inputs import BATCH, MAX_LENGTH, RATES, SEED, TOKENIZER, encoded, in_order, make

HERE = Path(__file__).resolve().parent
TASKS = ("lora", "full")
# TRL twice: at the fastest of its settings, and with batches as one would write them down.
TRL = {"trl": trl_side.FASTEST, "trl_in_batches": trl_side.BATCHES}
SIDES = ("ours", *TRL, "llamafactory")


def run_llamafactory(task: str, folder: Path, python: Path) -> dict[str, Any]:
    """LLaMA-Factory's run_exp by its own Python, with what makes it fastest here: no checkpointing, fused AdamW, no reports."""
    from datasets import Dataset

    rows, prepared = encoded(folder)
    ready = folder / "rows"
    if not ready.is_dir():
        dataset = Dataset.from_list([{"attention_mask": [1] * len(row["input_ids"]), **row} for row in in_order(rows)])
        dataset.save_to_disk(ready)
    settings = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(folder / "model"),
        "finetuning_type": task,
        "template": "qwen",
        "dataset": "rows",
        "tokenized_path": str(ready),
        "cutoff_len": MAX_LENGTH,
        "disable_shuffling": True,
        "disable_gradient_checkpointing": True,
        "flash_attn": "sdpa",
        "output_dir": str(folder / f"llamafactory-{task}"),
        "overwrite_output_dir": True,
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": RATES[task],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
    }
    if task == "lora":
        settings["adapter_name_or_path"] = str(folder / "adapter")
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    # The figures come from the process that trains.
    command = [python, HERE / "llamafactory_side.py", folder / "settings.json", folder / "llamafactory.json"]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})
    figures = json.loads((folder / "llamafactory.json").read_text())
    return {"target_tokens_per_second": prepared["target_tokens"] / figures.pop("training_seconds"), **figures}


def child(task: str, side: str, folder: Path, extra: str) -> None:
    """One run, in this process; its figures go to a file. `extra` is TRL's setting or LLaMA-Factory's Python."""
    if side == "least":
        our_side.least_memory(task, folder)
        figures: dict[str, Any] = {}
    elif side == "ours":
        figures = our_side.run(task, folder, dtype="fp32")
    elif side in TRL:
        figures = trl_side.run(task, folder, extra)
    else:
        figures = run_llamafactory(task, folder, Path(extra))
    figures.setdefault("peak_memory_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    (folder / "figures.json").write_text(json.dumps(figures))


def of_child(task: str, side: str, folder: Path, extra: str = "") -> dict[str, Any]:
    """The same in a process of its own."""
    (folder / "figures.json").unlink(missing_ok=True)
    # Prepared rows go to a cache of this benchmark's own.
    environment = os.environ | {"PYRUST_NN_CACHE": str(folder / "cache")}
    with (folder / f"{side}.log").open("w") as log:
        words = [sys.executable, __file__, "--child", task, side, str(folder), extra]
        done = subprocess.run(words, stdout=log, stderr=log, env=environment)
    if done.returncode or not (folder / "figures.json").is_file():
        raise RuntimeError(f"{task} by {side} {extra} failed:\n{(folder / f'{side}.log').read_text()[-3000:]}")
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return figures


def run(task: str, side: str, folder: Path, extra: str = "") -> dict[str, Any]:
    """Its figures, shown."""
    figures = of_child(task, side, folder, extra)
    rate, memory = figures["target_tokens_per_second"], figures["peak_memory_bytes"] / 1e9
    name = f"{task} {side} ({extra})" if side in TRL else f"{task} {side}"
    print(f"{name}: {rate:.1f} target tokens/s, {memory:.2f} GB, last loss {figures['losses'][-1]:.4f}", flush=True)
    return {"side": side, **figures}


def compare(runs: list[dict[str, Any]], sides: list[str]) -> dict[str, float]:
    """Medians of each side, our ratios to the others, and how far the losses are apart."""

    def of(side: str, key: str) -> float:
        return median(run[key] for run in runs if run["side"] == side)

    losses = {side: next(run["losses"] for run in runs if run["side"] == side) for side in sides}
    keys = ("target_tokens_per_second", "peak_memory_bytes")
    figures: dict[str, float] = {f"{side}_{key}": of(side, key) for key in keys for side in sides}
    figures |= {f"{side}_final_loss": losses[side][-1] for side in sides}
    for side in [side for side in sides if side != "ours" and "ours" in sides]:
        figures |= {
            f"speed_over_{side}": of("ours", keys[0]) / of(side, keys[0]),
            f"memory_of_{side}": of("ours", keys[1]) / of(side, keys[1]),
            f"largest_loss_difference_{side}": max(abs(a - b) for a, b in zip(losses["ours"], losses[side], strict=True)),
        }
    return figures


def sides_in_turn(task: str, sides: list[str], rounds: int, folder: Path, environments: Path) -> dict[str, Any]:
    """Runs of all sides, and their comparison."""
    extra = dict(TRL)
    if "llamafactory" in sides:
        extra["llamafactory"] = str(peers.llama_factory(environments))
    runs = [run(task, side, folder, extra.get(side, "")) for _ in range(rounds) for side in sides]
    least = of_child(task, "least", folder)["peak_memory_bytes"]
    return {"least_memory_bytes": least, **compare(runs, sides), "runs": runs}


def trl_settings(task: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Each of TRL's settings: median rate, memory, and its loss's distance from the first one's; or why it does not run."""
    table: dict[str, Any] = {}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in trl_side.SETTINGS}
    for _ in range(rounds):
        for name in trl_side.SETTINGS:
            try:
                if name not in table:
                    runs[name].append(run(task, "trl", folder, name))
            except RuntimeError as cause:
                table[name] = {"does_not_run": str(cause).strip().splitlines()[-1]}
                print(f"{task} trl {name}: does not run", flush=True)
    reference = next(iter(runs.values()))[0]["losses"]
    for name, made in runs.items():
        if name not in table:
            table[name] = {
                "target_tokens_per_second": median(one["target_tokens_per_second"] for one in made),
                "peak_memory_bytes": median(one["peak_memory_bytes"] for one in made),
                "largest_loss_difference": max(abs(a - b) for a, b in zip(made[0]["losses"], reference, strict=True)),
            }
    return table


def main() -> None:
    """Make the inputs, run the sides in turn, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TASKS, help="one way of training")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="who takes part")
    parser.add_argument("--settings", action="store_true", help="compare TRL's settings with one another instead")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run: 8, or 3 with --settings")
    parser.add_argument("--rounds", type=int, help="runs of each: 2, or 1 with --settings")
    parser.add_argument("--environments", type=Path, default=peers.ENVIRONMENTS, help="folder of the peers' environments")
    parser.add_argument("--output", type=Path, help="where the results go")
    parser.add_argument("--child", nargs=4, metavar=("TASK", "SIDE", "FOLDER", "EXTRA"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        task, side, folder, extra = arguments.child
        if task == "make":
            make(Path(folder), int(side))
        else:
            child(task, side, Path(folder), extra)
        return
    if not TOKENIZER.is_dir():
        parser.error(f"{TOKENIZER} is not there")

    steps = arguments.steps or (3 if arguments.settings else 8)
    rounds = arguments.rounds or (1 if arguments.settings else 2)
    results: dict[str, Any] = {"machine": described(), "steps": steps, "rounds": rounds, "trl_settings": TRL}
    if "llamafactory" in arguments.sides and not arguments.settings:
        python = peers.llama_factory(arguments.environments)
        results["llamafactory"] = peers.versions(python, "llamafactory", "torch", "transformers", "peft", "trl")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Not in this process: a child's ru_maxrss begins with what its parent had.
        subprocess.run([sys.executable, __file__, "--child", "make", str(BATCH * steps), str(folder), ""], check=True)
        for task in TASKS if arguments.only is None else (arguments.only,):
            if arguments.settings:
                results[task] = trl_settings(task, rounds, folder)
            else:
                results[task] = sides_in_turn(task, arguments.sides, rounds, folder, arguments.environments)
            print(task, json.dumps({key: value for key, value in results[task].items() if key != "runs"}, indent=1), flush=True)
    output = arguments.output or results_file("training_settings" if arguments.settings else "training")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
