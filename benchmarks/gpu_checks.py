"""Every task on one device through the public functions, with what must be true of its result."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUESTION = "What is Pyrust-NN?"


def check_tasks(device: str, model: str, folder: Path) -> list[dict[str, Any]]:
    """Run all of them in one session; a list of what was run, how long it took and whether it held. Failures do not stop it."""
    import pyrust_nn

    conversations = [
        {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"A number, {n}. " * (1 + n % 5)}]}
        for n in range(16)
    ]
    data = folder / "data.json"
    data.write_text(json.dumps(conversations), encoding="utf-8")
    common: dict[str, Any] = {"runs_dir": folder / "runs", "overwrite": True, "device": device}
    teach = common | {"dataset_path": data, "num_epochs": 4, "max_length": 256, "logging_steps": 1}
    cuda = device != "cpu"
    done: list[dict[str, Any]] = []

    def run(name: str, task: Callable[..., Any], subject: str | Path, holds: Callable[[dict[str, Any]], bool], **given: Any) -> None:
        start = time.perf_counter()
        row: dict[str, Any] = {"check": name}
        try:
            summary = task("checks", subject, step=name, **given)
            row |= {"held": holds(summary), "device": summary["params"].get("device"), "metrics": summary["metrics"]}
        except Exception as error:
            row |= {"held": False, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-2000:]}
        row["seconds"] = time.perf_counter() - start
        done.append(row)
        print(f"{'ok  ' if row['held'] else 'FAIL'} {name} {row['seconds']:.1f} s {row.get('error', '')}", flush=True)

    def learned(summary: dict[str, Any]) -> bool:
        return summary["metrics"]["last_loss"] < summary["metrics"]["first_loss"] and summary["params"]["device"].startswith(device)

    def made(summary: dict[str, Any]) -> bool:
        return summary["status"] == "Success" and bool(summary["outputs"])

    def answered(summary: dict[str, Any]) -> bool:
        return len(summary["result"]) == 1 and isinstance(summary["result"][0]["text"], str)

    def step(name: str) -> Path:
        return folder / "runs" / "checks" / name

    # fp16 scales its loss, which is refused on a CPU.
    dtypes = ("bf16", "fp16", "fp32") if cuda else ("bf16", "fp32")
    for dtype in dtypes:
        run(f"full_{dtype}", pyrust_nn.finetune_full, model, learned, dtype=dtype, learning_rate=1e-3, **teach)
        run(f"lora_{dtype}", pyrust_nn.finetune_lora, model, learned, dtype=dtype, learning_rate=5e-3, **teach)
    for name, given in {
        "qlora": {"load_in_4bit": True},
        "dora": {"use_dora": True},
        "adamw_8bit": {"optimizer": "adamw_8bit"},
        "gradient_checkpointing": {"gradient_checkpointing": True},
        "packing_off": {"packing": "off"},
        "small_micro_batches": {"max_tokens_per_batch": 128},
        "compile": {"compile": True},
        "checkpoints": {"save_steps": 4, "eval_split": 0.2, "load_best_model_at_end": True},
        "stack": {"checkpoint_lora": step("lora_fp32"), "checkpoint_mode": "stack"},
    }.items():
        run(f"lora_{name}", pyrust_nn.finetune_lora, model, learned, learning_rate=5e-3, **teach, **given)
    run("flatten", pyrust_nn.flatten, step("lora_stack"), made, **common)
    run("merge", pyrust_nn.merge, step("lora_fp32"), made, **common)
    for bits in (4, 8, 16):
        run(f"quantize_{bits}", pyrust_nn.quantize_model, step("merge"), made, bits=bits, **common)
    run("gguf", pyrust_nn.convert_model_to_gguf, step("merge"), made, outtype=["f16", "q8_0"], **common)
    run("gguf_lora", pyrust_nn.convert_lora_to_gguf, step("lora_fp32"), made, **common)
    if cuda:
        # What CUDA's kernels replaced must not reach a model on the CPU of the same process.
        run(
            "cpu_after_cuda",
            pyrust_nn.finetune_lora,
            model,
            lambda summary: summary["params"]["device"] == "cpu",
            **teach | {"device": "cpu"},
        )
    ask = common | {"prompt": QUESTION, "max_new_tokens": 16, "temperature": 0.0}
    for name in ("full_bf16", "lora_fp32", "lora_qlora", "merge", "quantize_4", "quantize_8", "quantize_16"):
        run(f"ask_{name}", pyrust_nn.inference, step(name), answered, **ask)
    return done
