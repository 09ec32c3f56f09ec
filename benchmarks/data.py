"""Data preparation against TRL: `make bench-data`, or `python benchmarks/data.py [conversations ...]`.

From a JSON file to token ids and masks, with Qwen2's vocabulary of 151,936 (`../shared/qwen2-tokenizer`) and Qwen2.5's template,
which TRL knows to the letter. Every process is fresh, caches are empty, and peers take turns on the same file:

* ours: the whole process `pyrust-nn prepare`, from start to exit, the file of rows written. What a user pays once for each model, the
  parsed form of tokenizer.json in the cache, is made before (its time stands in the results as `first_tokenizer_seconds`).
* TRL: `SFTTrainer._prepare_dataset` with the file's loading by `datasets`, its imports not counted (`seconds`), and the whole
  process (`process_seconds`). Its settings are tried on the smallest file, and the fastest goes on to the others.

Two million conversations (2.3 GB) are prepared by ours alone, for the memory that it takes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from conversations import write
from machine import described, save

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared"
BINARY = CHECKOUT / "target/release/pyrust-nn"
SIZES = (20_000, 200_000)
MANY = 2_000_000
ROUNDS = 3  # of ours; TRL's are minutes long, so it has one a size after the settings are tried
SETTINGS = [
    {"dataset_num_proc": processes, "packing": packing, "assistant_only_loss": True} for processes in (1, 2) for packing in (False, True)
]


def model_folder(folder: Path) -> Path:
    """A folder with the tokenizer and the template, as a model has them."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHARED / "qwen2-tokenizer" / name, folder)
    shutil.copy(SHARED / "chat-templates/Qwen-Qwen2.5-7B-Instruct.jinja", folder / "chat_template.jinja")
    return folder


def run(words: list[str], **environment: str) -> tuple[str, float, int]:
    """Standard output, seconds and peak memory (bytes) of a process."""
    begun = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    assert process.stdout
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return output, time.perf_counter() - begun, usage.ru_maxrss * 1024


def ours(data: Path, model: Path, cache: Path) -> dict[str, Any]:
    """One fresh preparation."""
    shutil.rmtree(cache / "data", ignore_errors=True)
    output, seconds, memory = run(
        [str(BINARY), "prepare", str(data), "--model", str(model), "--json", "--quiet"], PYRUST_NN_CACHE=str(cache)
    )
    made = json.loads(output)
    return {
        "rows": made["rows"],
        "tokens": made["tokens"],
        "target_tokens": made["target_tokens"],
        "process_seconds": seconds,
        "tokens_per_second": made["tokens"] / seconds,
        "peak_memory_bytes": memory,
    }


def checked(data: Path, model: Path, cache: Path) -> dict[str, float]:
    """One `check` of the file."""
    _, seconds, memory = run([str(BINARY), "check", str(data), "--model", str(model), "--json", "--quiet"], PYRUST_NN_CACHE=str(cache))
    return {"process_seconds": seconds, "peak_memory_bytes": memory}


def trl(data: Path, model: Path, setting: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """TRL in a process of its own, with an empty cache."""
    shutil.rmtree(scratch, ignore_errors=True)
    words = [sys.executable, __file__, "--trl", str(data), str(model), json.dumps(setting), str(scratch)]
    output, seconds, memory = run(words, HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(scratch / "datasets"))
    made = json.loads(output.splitlines()[-1])
    return made | {"process_seconds": seconds, "tokens_per_second": made["tokens"] / made["seconds"], "peak_memory_bytes": memory}


def trl_child(data: str, model: str, setting: str, scratch: str) -> None:
    """What `trl` starts: prints one line of JSON."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from trl import SFTConfig, SFTTrainer

    begun = time.perf_counter()
    dataset = load_dataset("json", data_files=data, split="train")
    loading = time.perf_counter() - begun

    class Timed(SFTTrainer):  # type: ignore[misc]
        seconds = 0.0

        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            prepared = super()._prepare_dataset(*args, **kwargs)
            self.seconds = time.perf_counter() - begun
            return prepared

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    trainer = Timed(
        model=Qwen2ForCausalLM(Qwen2Config(**size)),
        args=SFTConfig(output_dir=scratch, max_length=2048, report_to="none", use_cpu=True, bf16=False, **json.loads(setting)),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    tokens = sum(len(ids) for ids in trainer.train_dataset.with_format("numpy")["input_ids"])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps({"seconds": loading + trainer.seconds, "tokens": tokens, "largest_child_bytes": children}))


def main(sizes: list[int]) -> None:
    """Everything, and the results as JSON."""
    if not SHARED.is_dir():
        raise SystemExit(f"{SHARED} is not there; it has the vocabulary of 151,936 that this benchmark is about")
    results: dict[str, Any] = {"sizes": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, cache = model_folder(folder / "model"), folder / "cache"
        best = None
        for size in sizes:
            data = write(size, folder / f"{size}.json")
            if best is None:
                results["first_tokenizer_seconds"] = ours(data, model, cache)["process_seconds"]
            mine = [ours(data, model, cache)]
            if best is None:
                tried = [{"setting": setting, **trl(data, model, setting, folder / "trl")} for setting in SETTINGS]
                results["trl_settings"] = tried
                best = max(tried, key=lambda one: one["tokens_per_second"])["setting"]
                # Without masks it has less to do, and is measured too, although it then trains on every word.
                tried.append(
                    {
                        "setting": best | {"assistant_only_loss": False},
                        **trl(data, model, best | {"assistant_only_loss": False}, folder / "trl"),
                    }
                )
                best = max(tried, key=lambda one: one["tokens_per_second"])["setting"]
            theirs = trl(data, model, best, folder / "trl")
            mine += [ours(data, model, cache) for _ in range(ROUNDS - 1)]
            middle = sorted(mine, key=lambda one: one["process_seconds"])[ROUNDS // 2]
            results["sizes"][size] = {
                "file_bytes": data.stat().st_size,
                "ours": mine,
                "trl": {"setting": best, **theirs},
                "check": [checked(data, model, cache) for _ in range(ROUNDS)],
                "rate_ratio": middle["tokens_per_second"] / theirs["tokens_per_second"],
                "process_ratio": theirs["process_seconds"] / middle["process_seconds"],
            }
            print(size, json.dumps(results["sizes"][size], indent=1))
            data.unlink()
        results["many"] = {"conversations": MANY, **ours(write(MANY, folder / "many.json"), model, cache)}
    # Asked last: it imports torch, and a process begins with the peak memory of the one that started it.
    save("data", {"machine": described(), **results})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trl"]:
        trl_child(*sys.argv[2:])
    else:
        main([int(size) for size in sys.argv[1:]] or list(SIZES))
