"""On a machine with CUDA: installs the package, checks every task there, and measures training beside TRL with Liger.

    python benchmarks/gpu.py --wheel pyrust_nn-0.1.0-….whl    # without --wheel it is built from this checkout
    python benchmarks/gpu.py --device cpu --tiny              # the same code on small shapes, to see that it runs

Shapes of Qwen2.5-0.5B (steps of 4 rows and of 32) and of a 7B (short rows, and rows of some 3,400 tokens), with random weights made
there and the vocabulary of ../shared/qwen2-tokenizer: LoRA of rank 16 in bf16 for both, full fine-tuning for the small one. TRL runs with
the Liger kernels if liger-kernel is installed (it is asked for) and from the same rows, weights and rates. Both sides in turn, each run a
process of its own; the clock counts optimizer steps, memory is torch's peak on the device. Results go to results/gpu.json with the device
named.
Without CUDA the script says so and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import training_inputs
from training_inputs import MAX_LENGTH, WORDS

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
LARGE = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
TINY = {
    "vocab_size": 151_936,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}


class Case(NamedTuple):
    """What one comparison trains."""

    shape: dict[str, Any]
    tasks: tuple[str, ...]
    rows: int  # of the data set, which is trained on once
    batch: int  # rows of a step
    words: tuple[int, int] = WORDS  # of a row: the fewest, the most
    max_length: int = MAX_LENGTH
    peer_rows: int | None = None  # of a step at once, where TRL's memory does not hold all; ours finds that out itself


# In steps of 4 rows a GPU waits for the process that starts its kernels; in steps of 32 it computes.
CASES = {
    "0.5B, 4 rows a step": Case(SMALL, ("lora", "full"), 160, 4),
    "0.5B, 32 rows a step": Case(SMALL, ("lora", "full"), 640, 32),
    "7B, 4 rows a step": Case(LARGE, ("lora",), 80, 4),
    "7B, rows of 3,400 tokens": Case(LARGE, ("lora",), 32, 8, (3300, 3400), 4096, peer_rows=1),
}
TINY_CASES = {"tiny": Case(TINY, ("lora", "full"), 8, 4)}


def install(wheel: Path | None) -> None:
    """The wheel into this Python, with what it needs, and the peer's packages."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, str(wheel or ROOT), "trl>=1.16", "liger-kernel"], check=True)


def has_liger() -> bool:
    """Whether transformers would find Liger's kernels."""
    from transformers.utils import is_liger_kernel_available

    return bool(is_liger_kernel_available())


def run_side(task: str, side: str, folder: Path, name: str, device: str) -> dict[str, Any]:
    """One training in this process: ours, or TRL's SFTTrainer with Liger where it is."""
    case = (CASES | TINY_CASES)[name]
    training_inputs.BATCH, training_inputs.MAX_LENGTH = case.batch, case.max_length  # before both sides take them from there
    import our_side
    import torch
    import trl_side

    if side == "ours":
        figures = our_side.run(task, folder, device)
    else:
        at_once = case.peer_rows or case.batch
        trl_side.SETTINGS["gpu"] = {
            "use_liger_kernel": device == "cuda" and has_liger(),
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": case.batch // at_once,
        }
        figures = trl_side.run(task, folder, "gpu", device)
        if device == "cuda":
            figures["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    figures.setdefault("peak_memory_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return figures


def measure(name: str, case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turn."""
    results: dict[str, Any] = {}
    cuda = arguments.device == "cuda"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        dtype = "bfloat16" if cuda else "float32"
        # In a process of its own, whose memory is free afterwards.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            make = partial(training_inputs.make, dtype=dtype, device=arguments.device, words=case.words)
            process.submit(make, folder, case.rows, case.shape).result()
        for task in case.tasks:
            runs = []
            for _ in range(arguments.rounds):
                for side in ("ours", "trl"):
                    child = [sys.executable, __file__, "--device", arguments.device, "--child", task, side, str(folder), name]
                    subprocess.run(child, check=True, stdout=subprocess.DEVNULL)
                    runs.append({"side": side, **json.loads((folder / "figures.json").read_text())})
                    print(name, task, json.dumps({key: value for key, value in runs[-1].items() if key != "params"}), flush=True)
            rate, memory = (
                {side: median(run[key] for run in runs if run["side"] == side) for side in ("ours", "trl")}
                for key in ("target_tokens_per_second", "peak_memory_bytes")
            )
            ratios = {"speed_over_trl": rate["ours"] / rate["trl"], "memory_of_trl": memory["ours"] / memory["trl"]}
            results[task] = {**ratios, "runs": runs}
            print(name, task, json.dumps(ratios), flush=True)
    return results


def main() -> None:
    """Install, check, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="the wheel to install; else it is built from this checkout")
    parser.add_argument("--no-install", action="store_true", help="take the package that is installed")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, and no results file unless --output names one")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
    parser.add_argument("--output", type=Path, help="where the results go")
    parser.add_argument("--only", choices=("checks", *CASES), help="this part alone; the rest of the output file stays")
    parser.add_argument("--child", nargs=4, metavar=("TASK", "SIDE", "FOLDER", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        task, side, folder, name = arguments.child
        figures = run_side(task, side, Path(folder), name, arguments.device)
        (Path(folder) / "figures.json").write_text(json.dumps(figures))
        return
    if not arguments.no_install:
        install(arguments.wheel)

    import torch
    from gpu_checks import check_tasks
    from machine import RESULTS, described

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here (nvidia-smi shows whether the driver does); --device cpu --tiny only tries the script")
    os.environ.setdefault("PYRUST_NN_CACHE", tempfile.mkdtemp(prefix="pyrust-nn-gpu-"))
    output = arguments.output or (None if arguments.tiny else RESULTS / "gpu.json")

    results: dict[str, Any] = json.loads(output.read_text()) if arguments.only and output and output.is_file() else {}
    results |= {"machine": described(), "device": arguments.device, "liger": has_liger()}

    def keep() -> None:
        # After each part: what was measured stays if a later part is cut off.
        if output:
            output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    if arguments.only in (None, "checks"):
        with tempfile.TemporaryDirectory() as folder:
            results["checks"] = check_tasks(arguments.device, "builtin:tiny", Path(folder))
        keep()
    for name, case in (TINY_CASES if arguments.tiny else CASES).items():
        if arguments.only in (None, name):
            results[name] = measure(name, case, arguments)
            keep()
    failed = [row["check"] for row in results.get("checks", ()) if not row["held"]]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
