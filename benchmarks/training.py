"""Our training against TRL's: target tokens a second, peak memory and losses on equal data.

    python benchmarks/training.py            # all of it; `make bench-training`
    python benchmarks/training.py --only lora --steps 4 --rounds 1

A 103 M-parameter Qwen2 with random weights and the vocabulary of ../shared/qwen2-tokenizer, conversations made from a
seed, batches of 4 rows, at most 512 tokens each, fp32, LoRA of rank 16 without dropout and full fine-tuning. Both sides
start from the same weights (also the adapter's), see the same rows with the same labels in the same order, and use
AdamW at the same constant rate, so their losses must agree step by step. Ours goes through the public functions; TRL
gets rows that are encoded already. Each run is a process of its own, ours and TRL's in turn. The clock counts optimizer
steps alone (the same callback on both sides), the first step included; memory is the process's peak (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from machine import RESULTS, described

HERE = Path(__file__).resolve().parent
TOKENIZER = HERE.parents[1] / "shared" / "qwen2-tokenizer"
TASKS = ("lora", "full")
SIDES = ("ours", "trl")
BATCH, MAX_LENGTH, SEED = 4, 512, 11
RATES = {"lora": 1e-3, "full": 1e-4}
WORDS = [
    "the",
    "a",
    "of",
    "river",
    "stone",
    "winter",
    "market",
    "clock",
    "garden",
    "letter",
    "engine",
    "window",
    "harbour",
    "paper",
    "silver",
    "morning",
    "road",
    "answer",
    "question",
    "teacher",
    "number",
    "simple",
    "quick",
    "heavy",
    "quiet",
    "bright",
    "remembers",
    "carries",
    "finds",
    "builds",
    "opens",
    "counts",
    "because",
    "although",
    "between",
    "under",
    "after",
    "before",
    "with",
    "without",
    "through",
    "every",
    "seldom",
    "often",
    "perhaps",
    "never",
]


def make(folder: Path, rows: int) -> None:
    """The model, the adapter that both sides start from, and the conversations."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=151_936,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.save_pretrained(folder / "model")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets)
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "model")
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)

    draw = random.Random(SEED)

    def text(words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(words))

    conversations = []
    for _ in range(rows):
        words = round(40 * (460 / 40) ** draw.random())  # short ones are more frequent than long ones
        question = round(words * draw.uniform(0.2, 0.5))
        messages = [{"role": "user", "content": text(question)}, {"role": "assistant", "content": text(words - question)}]
        conversations.append({"messages": messages})
    (folder / "data.json").write_text(json.dumps(conversations), encoding="utf-8")


def run_ours(task: str, folder: Path) -> dict[str, Any]:
    """Through `finetune_lora` or `finetune_full`."""
    import pyrust_nn

    settings = {
        "dataset_path": folder / "data.json",
        "num_epochs": 1,
        "batch_size": BATCH,
        "max_length": MAX_LENGTH,
        "learning_rate": RATES[task],
        "scheduler": "constant",
        "seed": SEED,
        "logging_steps": 1,
        "dtype": "fp32",
        "device": "cpu",
        "runs_dir": folder / "runs",
        "offline": True,
        "session": f"{task}-{os.getpid()}",
        "model": str(folder / "model"),
    }
    if task == "lora":
        summary = pyrust_nn.finetune_lora(**settings, checkpoint_lora=folder / "adapter")
    else:
        summary = pyrust_nn.finetune_full(**settings)
    step = folder / "runs" / settings["session"] / f"finetune_{task}"
    lines = [json.loads(line) for line in (step / "metrics.jsonl").read_text().splitlines()]
    metrics = summary["metrics"]
    return {
        "target_tokens_per_second": metrics["target_tokens_per_second"],
        "tokens": metrics["tokens"],
        "target_tokens": metrics["target_tokens"],
        "losses": [line["loss"] for line in lines],
    }


def run_trl(task: str, folder: Path) -> dict[str, Any]:
    """TRL's SFTTrainer, with what makes it fastest here: no checkpointing of activations, fused AdamW, no reports."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    import pyrust_nn
    from pyrust_nn.callbacks import ETACallback
    from pyrust_nn.rows import Rows
    from pyrust_nn.training import EpochSampler

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prepared = pyrust_nn.prepare_dataset(folder / "model", dataset_path=folder / "data.json", max_length=MAX_LENGTH)
    rows = [{"input_ids": s.input_ids.tolist(), "labels": s.labels.tolist()} for s in Rows(prepared["path"])]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    if task == "lora":
        model = PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True)

    class Ordered(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
            return EpochSampler(self.train_dataset if train_dataset is None else train_dataset, SEED)

    clock = ETACallback()
    trainer = Ordered(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=[clock],
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            max_length=MAX_LENGTH,
            learning_rate=RATES[task],
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        ),
    )
    trainer.train()
    return {
        "target_tokens_per_second": prepared["target_tokens"] / clock.training_seconds,
        "tokens": prepared["tokens"],
        "target_tokens": prepared["target_tokens"],
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
    }


def child(task: str, side: str, folder: Path) -> None:
    """One run, in this process; its figures go to a file."""
    figures = (run_ours if side == "ours" else run_trl)(task, folder)
    figures["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (folder / "figures.json").write_text(json.dumps(figures))


def compare(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Medians of both sides, their ratios, and how far the losses are apart."""

    def of(side: str, key: str) -> float:
        return median(run[key] for run in runs if run["side"] == side)

    ours, theirs = (next(run["losses"] for run in runs if run["side"] == side) for side in SIDES)
    return {
        **{f"{side}_{key}": of(side, key) for key in ("target_tokens_per_second", "peak_memory_bytes") for side in SIDES},
        "speed_ratio": of("ours", "target_tokens_per_second") / of("trl", "target_tokens_per_second"),
        "memory_ratio": of("ours", "peak_memory_bytes") / of("trl", "peak_memory_bytes"),
        "ours_final_loss": ours[-1],
        "trl_final_loss": theirs[-1],
        "largest_loss_difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
    }


def main() -> None:
    """Make the inputs, run both sides in turn, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TASKS, help="one way of training")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of a run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
    parser.add_argument("--output", type=Path, default=RESULTS / "training.json")
    parser.add_argument("--child", nargs=3, metavar=("TASK", "SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], arguments.child[1], Path(arguments.child[2]))
        return
    if not TOKENIZER.is_dir():
        parser.error(f"{TOKENIZER} is not there")

    results: dict[str, Any] = {"machine": described(), "steps": arguments.steps, "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, BATCH * arguments.steps)
        for task in TASKS if arguments.only is None else (arguments.only,):
            runs = []
            for _ in range(arguments.rounds):
                for side in SIDES:
                    command = [sys.executable, __file__, "--child", task, side, str(folder)]
                    # Prepared rows go to a cache of this benchmark's own.
                    environment = {**os.environ, "PYRUST_NN_CACHE": str(folder / "cache")}
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
                    runs.append({"side": side, **json.loads((folder / "figures.json").read_text())})
                    run = runs[-1]
                    rate, memory = run["target_tokens_per_second"], run["peak_memory_bytes"] / 1e9
                    print(f"{task} {side}: {rate:.1f} target tokens/s, {memory:.2f} GB, last loss {run['losses'][-1]:.4f}", flush=True)
            results[task] = {**compare(runs), "runs": runs}
            figures = {key: value for key, value in results[task].items() if key != "runs"}
            print(task, json.dumps(figures, indent=1), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
