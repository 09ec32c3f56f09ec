"""Seconds a token of the training loop, from a thousand samples to a hundred thousand.

    python benchmarks/scaling.py            # `make bench-scaling`, about three minutes

A Qwen2 of one layer, so small that the loop itself (sampling, reading rows, cutting steps, logging, metrics) is most of
the time: what grows with the data set shows. Samples are short and alike in all sets. A set of 1,000 is passed ten times,
so that the first steps, which allocate, weigh no more than in the set of 10,000. Each run is a process of its own, in
turn. Seconds are those of the loop's steps with everything between them; the quarters of the largest run show whether
its end is slower than its beginning. At last the largest is interrupted at nine tenths and resumed: the time from the
command to its next line of metrics.jsonl, beside that of a training that begins.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from machine import described, save

BINARY = Path(__file__).resolve().parents[1] / "target/release/pyrust-nn"
SIZES = (1_000, 10_000, 100_000)
BATCH, LOGGING = 32, 10


def make_model(folder: Path) -> None:
    """One small layer of noise, and the tokenizer of `builtin:tiny`."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from pyrust_nn.models.tiny import tiny_model_folder

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **sizes, tie_word_embeddings=True)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_data(path: Path, samples: int) -> None:
    """Short questions and answers; the first ones are the same in every set."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(samples):
            a, b = draw.randrange(100), draw.randrange(100)
            messages = [{"role": "user", "content": f"{a} + {b}?"}, {"role": "assistant", "content": str(a + b)}]
            file.write(json.dumps({"messages": messages}) + "\n")


def command(folder: Path, session: str, samples: int, *more: str) -> list[str]:
    """Full fine-tuning on one of the sets."""
    settings = {
        "model": folder / "model",
        "dataset-path": folder / f"{samples}.jsonl",
        "num-epochs": max(1, 10_000 // samples),
        "batch-size": BATCH,
        "logging-steps": LOGGING,
        "session": session,
        "runs-dir": folder / "runs",
        "python-env": sys.prefix,
        "device": "cpu",
    }
    return [str(BINARY), "finetune-full", *(word for name, value in settings.items() for word in (f"--{name}", str(value))), *more]


def lines(folder: Path, session: str) -> list[dict[str, Any]]:
    """What metrics.jsonl has so far."""
    path = folder / "runs" / session / "finetune_full" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")] if path.is_file() else []


def measure(folder: Path, session: str, samples: int) -> dict[str, Any]:
    """One whole training."""
    subprocess.run(command(folder, session, samples), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = json.loads((folder / "runs" / session / "finetune_full" / "summary.json").read_text())["metrics"]
    rates = [line["tokens_per_second"] for line in lines(folder, session)]
    quarter = len(rates) // 4
    return {
        "samples": samples,
        "steps": metrics["steps"],
        "tokens": metrics["tokens"] * round(metrics["epochs"]),
        "microseconds_per_token": 1e6 / metrics["tokens_per_second"],
        # The median of its lines, each of ten steps: another process that is busy for a while moves it little.
        "microseconds_per_token_by_quarter": [1e6 / median(rates[q * quarter : (q + 1) * quarter]) for q in range(4)],
        "peak_memory_bytes": metrics["peak_memory_bytes"],
    }


def until_line(process: subprocess.Popen[bytes], folder: Path, session: str, step: int) -> float:
    """Seconds until metrics.jsonl has a line of at least that step."""
    start = time.perf_counter()
    while not (known := lines(folder, session)) or known[-1]["step"] < step:
        if process.poll() is not None:
            sys.exit(f"{session} ended before step {step}")
        time.sleep(0.02)
    return time.perf_counter() - start


def resume_at_nine_tenths(folder: Path, samples: int) -> dict[str, float]:
    """How long a new training, and a resumed one, take to their first line."""
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    at = samples // BATCH * 9 // 10
    process = subprocess.Popen(command(folder, "resumed", samples, "--save-steps", "1000000"), **output)
    began = until_line(process, folder, "resumed", LOGGING)
    until_line(process, folder, "resumed", at)
    process.send_signal(signal.SIGTERM)
    process.wait()
    reached = lines(folder, "resumed")[-1]["step"]
    words = [str(BINARY), "resume", "resumed", "--runs-dir", str(folder / "runs"), "--python-env", sys.prefix]
    process = subprocess.Popen(words, **output)
    resumed = until_line(process, folder, "resumed", reached + LOGGING)
    if process.wait():
        sys.exit("the resumed training failed")
    return {"samples": samples, "step": reached, "seconds_to_first_line": began, "seconds_to_first_line_resumed": resumed}


def main() -> None:
    """All sizes in turn, then the resumed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each size")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="leave out sizes above this one")
    arguments = parser.parse_args()
    if not BINARY.is_file():
        parser.error(f"{BINARY} is not there; `make build` makes it")
    sizes = [size for size in SIZES if size <= arguments.largest]
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model")
        for samples in sizes:
            write_data(folder / f"{samples}.jsonl", samples)
        for number in range(arguments.rounds):
            for samples in sizes:
                runs.append(measure(folder, f"{samples}-{number}", samples))
                print(json.dumps(runs[-1]), flush=True)
        resumed = resume_at_nine_tenths(folder, sizes[-1])
        print(json.dumps(resumed), flush=True)
    per_token = {str(size): median(run["microseconds_per_token"] for run in runs if run["samples"] == size) for size in sizes}
    ratio = per_token[str(sizes[-1])] / per_token[str(sizes[0])]
    print(json.dumps(per_token), f"largest / smallest: {ratio:.3f}")
    results = {"microseconds_per_token": per_token, "largest_over_smallest": ratio, "resume": resumed, "runs": runs}
    save("scaling", {"machine": described(), **results})


if __name__ == "__main__":
    main()
