"""The whole way, from conversations to an answer of the GGUF's model: ours beside LLaMA-Factory's and llama.cpp's.

    python benchmarks/whole_way.py           # `make bench-whole-way`

8 conversations, 3 epochs of LoRA on a Qwen2 of 20 million parameters (random weights, the vocabulary of
../shared/qwen2-tokenizer), merged, written as GGUF f16, one answer of 32 tokens at most. Ours is one pipeline file and one
command. The peer is what its documentation says: llamafactory-cli train, llamafactory-cli export, llama.cpp's
convert_hf_to_gguf.py, llama.cpp on the GGUF (its Python binding). Seconds are those of whole processes, imports and all;
both sides begin with empty caches, and take turns. The peer's environments are made before the clock runs (`peers.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import peers
from machine import described, save
from training_inputs import TOKENIZER

ROOT = Path(__file__).resolve().parents[1]
BINARY = ROOT / "target/release/pyrust-nn"
QUESTION, ANSWER_TOKENS = "What is Pyrust-NN?", 32
EPOCHS, BATCH, RANK, RATE, MAX_LENGTH = 3, 4, 8, 2e-4, 512

PIPELINE = f"""\
model = "MODEL"
dataset_path = "DATA"
device = "cpu"
dtype = "fp32"
[[step]]
task = "finetune_lora"
num_epochs = {EPOCHS}
batch_size = {BATCH}
lora_rank = {RANK}
learning_rate = {RATE}
max_length = {MAX_LENGTH}
[[step]]
task = "merge"
model = "@finetune_lora"
[[step]]
task = "convert_model_to_gguf"
model = "@merge"
outtype = ["f16"]
[[step]]
task = "inference"
model = "@merge"
prompt = ["{QUESTION}"]
max_new_tokens = {ANSWER_TOKENS}
temperature = 0.0
"""

ASK = """\
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, verbose=False)
messages = [{"role": "user", "content": sys.argv[2]}]
print(model.create_chat_completion(messages, max_tokens=int(sys.argv[3]), temperature=0.0)["choices"][0]["message"]["content"])
"""


def make(folder: Path) -> int:
    """Model and data in every form that a side wants; the number of parameters."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=151_936, **sizes, max_position_embeddings=2048, tie_word_embeddings=True))
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder / "model")
    conversations = json.loads((ROOT / "data.json").read_text(encoding="utf-8"))[:8]
    (folder / "data.json").write_text(json.dumps(conversations), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    described_data = {"eight": {"file_name": "data.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}}
    (folder / "dataset_info.json").write_text(json.dumps(described_data), encoding="utf-8")
    return sum(p.numel() for p in model.parameters())


def timed(command: list[Any], log: Path, environment: dict[str, str]) -> float:
    """Seconds of a process that must succeed."""
    with log.open("w") as file:
        start = time.perf_counter()
        done = subprocess.run(list(map(str, command)), stdout=file, stderr=file, env=os.environ | environment)
        seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{log.read_text()[-3000:]}")
    return seconds


def ours(inputs: Path, work: Path) -> dict[str, Any]:
    """`pyrust-nn run` on the pipeline."""
    pipeline = work / "pipeline.toml"
    pipeline.write_text(PIPELINE.replace("MODEL", str(inputs / "model")).replace("DATA", str(inputs / "data.json")), encoding="utf-8")
    words = ["run", pipeline, "--session", "s", "--runs-dir", work / "runs", "--python-env", sys.prefix, "--offline"]
    seconds = timed([BINARY, *words], work / "log", {"PYRUST_NN_CACHE": str(work / "cache")})
    summaries = {path.parent.name: json.loads(path.read_text()) for path in (work / "runs/s").glob("*/summary.json")}
    return {
        "side": "ours",
        "seconds": seconds,
        "stages": {name: summary["duration_s"] for name, summary in summaries.items()},
        "train_loss": summaries["finetune_lora"]["metrics"]["train_loss"],
        "steps": summaries["finetune_lora"]["metrics"]["steps"],
        "gguf_bytes": sum(path.stat().st_size for path in (work / "runs/s").rglob("*.gguf")),
    }


def theirs(inputs: Path, work: Path, llamafactory: Path, llama: peers.LlamaCpp) -> dict[str, Any]:
    """Four processes, one behind the other."""
    adapter = {"model_name_or_path": str(inputs / "model"), "template": "qwen", "finetuning_type": "lora"}
    train = adapter | {
        "stage": "sft",
        "do_train": True,
        "dataset": "eight",
        "dataset_dir": str(inputs),
        "cutoff_len": MAX_LENGTH,
        "lora_rank": RANK,
        "lora_alpha": 4 * RANK,
        "lora_target": "all",
        "output_dir": str(work / "adapter"),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused",
        "disable_gradient_checkpointing": True,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }
    export = adapter | {"adapter_name_or_path": str(work / "adapter"), "export_dir": str(work / "merged"), "export_device": "cpu"}
    for name, settings in (("train", train), ("export", export)):
        (work / f"{name}.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML, too
    environment = {"HF_HOME": str(work / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    gguf = work / "model.f16.gguf"
    cli = llamafactory.with_name("llamafactory-cli")
    commands = {
        "train": [cli, "train", work / "train.yaml"],
        "export": [cli, "export", work / "export.yaml"],
        "convert": [llamafactory, llama.converter, work / "merged", "--outtype", "f16", "--outfile", gguf],
        "answer": [llama.python, "-c", ASK, gguf, QUESTION, ANSWER_TOKENS],
    }
    stages = {name: timed(command, work / f"{name}.log", environment) for name, command in commands.items()}
    result = json.loads((work / "adapter" / "train_results.json").read_text())
    losses = [json.loads(line) for line in (work / "adapter" / "trainer_log.jsonl").read_text().splitlines()]
    return {
        "side": "peer",
        "seconds": sum(stages.values()),
        "stages": stages,
        "train_loss": result["train_loss"],
        "steps": max(line["current_steps"] for line in losses),
        "gguf_bytes": gguf.stat().st_size,
    }


def main() -> None:
    """Both in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
    parser.add_argument("--environments", type=Path, default=peers.ENVIRONMENTS, help="folder of the peers' environments")
    arguments = parser.parse_args()
    if not BINARY.is_file() or not TOKENIZER.is_dir():
        parser.error(f"{BINARY} (`make build`) and {TOKENIZER} are needed")
    llamafactory, llama = peers.llama_factory(arguments.environments), peers.llama_cpp(arguments.environments)
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = make(folder)
        for number in range(arguments.rounds):
            for side in ("ours", "peer"):
                work = folder / f"{side}-{number}"
                work.mkdir()
                runs.append(ours(folder, work) if side == "ours" else theirs(folder, work, llamafactory, llama))
                print(json.dumps(runs[-1]), flush=True)
    seconds = {side: median(run["seconds"] for run in runs if run["side"] == side) for side in ("ours", "peer")}
    ratio = seconds["peer"] / seconds["ours"]
    print(json.dumps(seconds), f"ratio {ratio:.1f}")
    packages = peers.versions(llamafactory, "llamafactory", "torch", "transformers", "peft") | peers.versions(
        llama.python, "llama_cpp_python"
    )
    save(
        "whole_way",
        {"machine": described(), "peer": packages, "parameters": parameters, "median_seconds": seconds, "ratio": ratio, "runs": runs},
    )


if __name__ == "__main__":
    main()
