"""From the command to the first optimizer step, beside the imports alone.

    python benchmarks/startup.py            # `make bench-startup`, about a minute

Ours is the binary: `pyrust-nn finetune-lora` on `builtin:tiny` and four conversations, until metrics.jsonl has its first
line, which is written when the first optimizer step is done. The peers are processes of Python that import the libraries
and end: torch, transformers and peft as they come, and the same with the names that a training needs, since transformers
loads most of its modules when they are first asked for. All in turn, after one round that warms the caches of files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import described, save

BINARY = Path(__file__).resolve().parents[1] / "target/release/pyrust-nn"
IMPORTS = {
    "imports": "import torch, transformers, peft",
    "imports_with_names": (
        "import torch, transformers, peft; from peft import PeftModel; "
        "from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM, Trainer, TrainingArguments"
    ),
}


def imports(code: str) -> float:
    """Seconds of a Python process that executes `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_step(folder: Path, session: str) -> tuple[float, float]:
    """Seconds from the command to the first optimizer step, and to the end of the process."""
    conversations = [
        {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"A number, {n}."}]} for n in range(4)
    ]
    data = folder / "data.json"
    data.write_text(json.dumps(conversations), encoding="utf-8")
    words = f"finetune-lora --model builtin:tiny --num-epochs 1 --batch-size 4 --logging-steps 1 --session {session} --offline".split()
    command = [BINARY, *words, "--dataset-path", data, "--runs-dir", folder / "runs", "--python-env", Path(sys.prefix)]
    metrics = folder / "runs" / session / "finetune_lora" / "metrics.jsonl"
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (metrics.is_file() and metrics.stat().st_size):
        if process.poll() is not None and not metrics.is_file():
            sys.exit(f"the training failed; see {folder}/runs/{session}/pipeline.log")
        time.sleep(0.002)
    seen = time.perf_counter() - start
    if process.wait():
        sys.exit("the training failed after its first step")
    return seen, time.perf_counter() - start


def main() -> None:
    """Run all of them in turn, print and keep medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each, after one that is not counted")
    arguments = parser.parse_args()
    if not BINARY.is_file():
        parser.error(f"{BINARY} is not there; `make build` makes it")
    seconds: dict[str, list[float]] = {"first_step": [], "whole_process": [], **{name: [] for name in IMPORTS}}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds + 1):
            step, whole = first_step(Path(folder), f"s{number}")
            taken = {"first_step": step, "whole_process": whole} | {name: imports(code) for name, code in IMPORTS.items()}
            if number:
                for name, value in taken.items():
                    seconds[name].append(value)
                print("  ".join(f"{name} {value:.2f} s" for name, value in taken.items()), flush=True)
    middle = {name: median(values) for name, values in seconds.items()}
    over = {f"beyond_{name}": middle["first_step"] - middle[name] for name in IMPORTS}
    print(json.dumps({**middle, **over}, indent=1))
    save("startup", {"machine": described(), "median_seconds": middle, "seconds_beyond": over, "all_seconds": seconds})


if __name__ == "__main__":
    main()
