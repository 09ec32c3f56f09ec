"""The machine that a benchmark ran on, and where its results are kept."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "tokenizers", "bitsandbytes")


def described() -> dict[str, Any]:
    """Processor, cores, memory, GPU, versions."""
    import torch

    information = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("model name")), platform.machine())
    return {
        "processor": model,
        "avx512": has_avx512(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }


def has_avx512() -> bool:
    """Whether the processor has what the core's fastest kernels need."""
    return " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def results_file(name: str) -> Path:
    """`results/<name>.json`; of a processor without AVX-512, where other kernels run, `results/<name>_avx2.json`."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{name}{'' if has_avx512() else '_avx2'}.json"


def save(name: str, results: dict[str, Any]) -> None:
    """Write the results."""
    path = results_file(name)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"results are in {path}")
