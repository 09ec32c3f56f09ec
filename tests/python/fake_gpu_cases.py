"""What is run on a fake GPU, in a process that has one (see `fake_gpu`). Each function returns what its test compares."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fake_gpu import OnFakeGpu
from peft import LoraConfig, get_peft_model
from small_training import run_training
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, TrainerCallback

from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn.chat.folder_model import FolderModel
from pyrust_nn.chat.sampling import Sampling
from pyrust_nn.models.devices import dtype_name, pick_dtype
from pyrust_nn.models.lora_targets import lora_target_modules
from pyrust_nn.models.tiny import tiny_model_folder
from pyrust_nn.training.batches import BatchLayout, MicroBatching
from pyrust_nn.training.forgetting import mean_loss
from pyrust_nn.training.rows import IGNORED, PreparedRows, Row

CUDA = torch.device("cuda")
CLASSES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
SIZES = {
    "vocab_size": 1280,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def rows_of(lengths: list[int], questions: int = 4) -> list[Row]:
    """Rows of these lengths, whose first `questions` tokens are not trained on."""
    rows = []
    for length in lengths:
        ids = np.arange(length, dtype=np.int32) % 1000
        rows.append(Row(ids, np.where(np.arange(length) < questions, IGNORED, ids).astype(np.int32)))
    return rows


def made(kind: str, lora: bool, dtype: torch.dtype, **sizes: Any) -> Any:
    """A model as the scripts have it before training: trained weights in fp32, a frozen base in `dtype`; still on the CPU."""
    config, model_class = CLASSES[kind]
    model = model_class(config(**SIZES | sizes))
    if not lora:
        return model
    targets = lora_target_modules(model)
    return get_peft_model(model.to(dtype), LoraConfig(r=4, lora_dropout=0.05, target_modules=targets))


class WaitsOfSteps(TrainerCallback):
    """What waited for the GPU in each step, with its log, evaluation and checkpoint."""

    def __init__(self, gpu: OnFakeGpu) -> None:
        self.gpu = gpu
        self.counts: list[Any] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.counts.append(self.gpu.waits.copy())

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts.append(self.gpu.waits.copy())

    def waits(self) -> list[dict[str, int]]:
        return [dict(after - before) for before, after in zip(self.counts, self.counts[1:], strict=False)]


def train(
    kind: str, *, lora: bool = False, dtype: str = "bfloat16", value: float = 1.0, evaluate: bool = False, **given: Any
) -> dict[str, Any]:
    """Four steps of four rows, logged every second. `value`: what Python reads from tensors."""
    computed = getattr(torch, dtype)
    rows = rows_of(list(range(9, 25)))
    with OnFakeGpu(value) as gpu:
        model = made(kind, lora, computed)
        steps = WaitsOfSteps(gpu)
        more = {"held_out": rows[:6], "callbacks": [steps], "dtype": computed, "device": CUDA, "logging_steps": 2}
        if not evaluate:
            del more["held_out"]
        metrics = run_training(model, None, rows, Path(tempfile.mkdtemp()), **more | given)  # type: ignore[arg-type]
        devices = {str(parameter.device) for parameter in model.parameters()}
        trained = {str(parameter.dtype) for parameter in model.parameters() if parameter.requires_grad}
    return {
        "waits": steps.waits(),
        "metrics": metrics,
        "operations": dict(gpu.operations),
        "devices": devices,
        "trained": trained,
        "peak_bytes": gpu.peak_bytes,
    }


def train_for_memory(kind: str, sizes: dict[str, Any], rows: list[Row], lora: bool, dtype: str, device: str) -> None:
    """Two steps with all of these rows."""
    computed = getattr(torch, dtype)
    config, model_class = CLASSES[kind]
    with torch.device(device):
        model = model_class(config(**sizes))
        if lora:
            model = get_peft_model(model.to(computed), LoraConfig(r=8, lora_dropout=0.05, target_modules=lora_target_modules(model)))
    given: dict[str, Any] = {"batch_size": len(rows), "max_tokens_per_batch": 16_384, "packing": "off", "num_epochs": 2}
    if device == "cuda":
        del given["packing"]
    run_training(model, None, rows, Path(tempfile.mkdtemp()), dtype=computed, device=torch.device(device), **given)


def counted_peak(kind: str, sizes: dict[str, Any], rows_path: str, lora: bool, dtype: str) -> int:
    """The peak of such a training on the GPU, in bytes, by the sizes of its tensors."""
    rows = list(PreparedRows(rows_path))
    with OnFakeGpu() as gpu:
        train_for_memory(kind, sizes, rows, lora, dtype, "cuda")
    return gpu.peak_bytes


def counted_peak_on_a_cpu(*given: Any) -> int:
    """The same on a CPU."""
    with OnFakeGpu(device="cpu") as gpu:
        train_for_memory(*given, "cpu")
    return gpu.peak_bytes


def measured_peak_on_a_cpu(*given: Any) -> int:
    """The same by the system's count of the process's memory, with what the process had before taken off."""
    kind, sizes, rows, lora, dtype = given
    tiny = {**sizes, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}
    train_for_memory(kind, tiny, rows[:1], lora, dtype, "cpu")  # what is loaded and made once
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_of_this_process("VmHWM")
    train_for_memory(*given, "cpu")
    return memory_of_this_process("VmHWM") - before


def memory_of_this_process(what: str) -> int:
    """A line of /proc/self/status in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def forget(kind: str) -> float:
    """The loss of earlier stages' rows, as before and after a stage."""
    batching = MicroBatching(BatchLayout.PACKED, 64)
    with OnFakeGpu():
        model = made(kind, True, torch.bfloat16).to(CUDA)
        return mean_loss(model, rows_of([9, 14, 30]), CUDA, torch.bfloat16, batching, Ranks())


def answer(kind: str, lora: bool, temperature: float) -> dict[str, Any]:
    """An answer of eight tokens by a model in bf16."""
    asked = FolderModel(str(tiny_model_folder()), device="cuda", dtype="bf16", parallel=2)
    sampling = Sampling(max_new_tokens=8, temperature=temperature, top_p=0.9, top_k=20, seed=3)
    with OnFakeGpu(7.0, lambda gpu: gpu.operations["embedding"] >= 8) as gpu:  # whether all answers are complete
        model = made(kind, lora, torch.bfloat16).to(CUDA, torch.bfloat16).eval()
        asked.__dict__["_model"] = model
        answers = asked._batch([[5, 6, 7], [8, 9]], sampling, [lambda text: None] * 2)
    return {"tokens": [one["completion_tokens"] for one in answers], "waits": dict(gpu.waits), "passes": gpu.operations["embedding"]}


def automatic_dtype() -> str:
    """The dtype that `auto` means."""
    return dtype_name(pick_dtype("auto", CUDA))


class Halved(torch.autograd.Function):
    """Its gradient is made on the wrong device."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values / 2

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return torch.full(grads[0].shape, 0.5)


def wrong(what: str) -> None:
    """A mistake that a GPU would refuse."""
    with OnFakeGpu():
        there, here = torch.ones(4, 4, device=CUDA), torch.ones(4, 4)
        if what == "device":
            there @ here
        elif what == "dtype":
            there.bfloat16() @ there
        elif what == "mask":
            there[there > 0]
        elif what == "gather":
            there.index_select(0, torch.zeros(2, dtype=torch.int64))
        elif what == "backward":
            Halved.apply(there.requires_grad_() * there.detach()).sum().backward()


def copies() -> dict[str, int]:
    """How many waits are counted for copies of each kind."""
    counted = {}
    with OnFakeGpu() as gpu:
        there, here = torch.ones(4, device=CUDA), torch.ones(4)
        pinned = here.pin_memory()
        for name, copy in {
            "pageable to GPU": lambda: here.to(CUDA),
            "pageable to GPU, not blocking": lambda: here.to(CUDA, non_blocking=True),
            "pinned to GPU": lambda: pinned.to(CUDA),
            "pinned to GPU, not blocking": lambda: pinned.to(CUDA, non_blocking=True),
            "from GPU": lambda: there.cpu(),
            "from GPU, not blocking": lambda: there.to("cpu", non_blocking=True),
            "on the GPU": lambda: there.to(torch.bfloat16),
            "a value": lambda: there[0].item(),
            "a value on the CPU": lambda: here[0].item(),
            "a list to GPU": lambda: torch.tensor([1.0, 2.0], device=CUDA),
        }.items():
            before = gpu.waits.total()
            copy()
            counted[name] = gpu.waits.total() - before
    return counted


def peak(layers: int) -> tuple[int, int]:
    """The counted peak of a chain of matrix products and their backward pass, and what it is by reckoning."""
    with OnFakeGpu() as gpu:
        weights = [torch.ones(256, 256, device=CUDA, requires_grad=True) for _ in range(layers)]
        hidden = torch.ones(128, 256, device=CUDA)
        for weight in weights:
            hidden = torch.tanh(hidden @ weight)
        hidden.sum().backward()
    return gpu.peak_bytes, gpu.bytes
