"""The memory that `check` estimates for a GPU, beside the sizes of the tensors of a training there (`fake_gpu`).

That count itself is compared with the memory that the system measures for the same training on a CPU.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fake_gpu_cases
import pytest
import torch
from fake_gpu import FakeGpu, fake_gpu, missing

import pyrust_nn
from pyrust_nn.models.tiny import tiny_model_folder

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": False,
}

SHORT_NAMES = {"bfloat16": "bf16", "float32": "fp32"}


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGpu]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with fake_gpu(tmp_path_factory.mktemp("gpu")) as process:
        yield process


def write_shape(folder: Path, kind: str, sizes: dict[str, Any]) -> Path:
    """A model's folder whose weights are a hole in a file."""
    config_class, model_class = fake_gpu_cases.CLASSES[kind]
    shutil.copytree(tiny_model_folder(), folder)
    with torch.device("meta"):
        model = model_class(config_class(**sizes, max_position_embeddings=2048, dtype="bfloat16"))
    header, end = {}, 0
    for name, parameter in model.named_parameters():
        size = 2 * parameter.numel()
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    model.config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rows", [2, 40], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_the_estimate_for_a_gpu(
    gpu: FakeGpu, cli: Callable[..., Any], tmp_path: Path, kind: str, lora: bool, dtype: str, rows: int
) -> None:
    """Within a tenth of the peak of a training, whether weights or activations take most of it."""
    folder = write_shape(tmp_path / "model", kind, SIZES)
    data = tmp_path / "data.json"
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is a number. " * 20}]
    data.write_text(json.dumps([{"messages": messages}] * rows))
    words = [
        "--task",
        "finetune_lora" if lora else "finetune_full",
        "--device",
        "cuda",
        "--dtype",
        SHORT_NAMES[dtype],
    ]
    done = cli("check", data, "--model", folder, *words, "--batch-size", str(rows), "--show", "0", "--json")
    estimate = json.loads(done.stdout)["estimate"]["memory"]
    prepared = pyrust_nn.prepare_dataset(folder, dataset_path=data)
    peak = gpu.run(fake_gpu_cases.counted_peak, kind, SIZES, prepared["path"], lora, dtype)
    assert estimate["total"] == pytest.approx(peak, rel=0.1), estimate


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read as on Linux")
def test_tensors_are_counted_as_a_process_takes_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full fine-tuning in bf16 on a CPU, where every operation is torch's own."""
    # The C library gives memory back at once, as torch's allocator for GPUs uses it again.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(64 << 10))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sizes = SIZES | {"vocab_size": 16_384, "hidden_size": 384, "num_attention_heads": 12}
    given = ("qwen2", sizes, fake_gpu_cases.rows_of([128] * 12), False, "bfloat16")
    peaks = []
    for function in (fake_gpu_cases.counted_peak_on_a_cpu, fake_gpu_cases.measured_peak_on_a_cpu):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            peaks.append(process.submit(function, *given).result())
    assert peaks[0] == pytest.approx(peaks[1], rel=0.1)
