"""The code for CUDA on a GPU that computes nothing (`fake_gpu`): devices, dtypes, and what waits for the GPU.

No value is right there, so nothing is said of losses. They are compared on a CPU (test_training, test_target_loss).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import fake_gpu_cases
import pytest
from fake_gpu import FakeGpu, RemoteError, fake_gpu, missing

if (reason := missing()) is not None:
    pytest.skip(reason, allow_module_level=True)

FAKE_ERRORS = "same device|different dtypes|nonzero"
READ_WHEN_LOGGED = "_to_copy from cuda to cpu in TrainingLoop.log_evaluate_save"
READ_LOSS_SCALE = "_local_scalar_dense in TrainingLoop.train_step"


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGpu]:
    """A process with a fake GPU of the generation of an H100."""
    with fake_gpu(tmp_path_factory.mktemp("gpu")) as process:
        yield process


def without_lines(waits: dict[str, int]) -> dict[str, int]:
    """The same without file and line."""
    return {re.sub(r" \(.*", "", name): count for name, count in waits.items()}


@pytest.mark.parametrize("what", ["device", "dtype", "gather", "backward", "mask"])
def test_the_fake_gpu_refuses_what_a_gpu_refuses(gpu: FakeGpu, what: str) -> None:
    with pytest.raises(RemoteError, match=FAKE_ERRORS):
        gpu.run(fake_gpu_cases.wrong, what)


def test_waits_are_counted(gpu: FakeGpu) -> None:
    """By CUDA's rules: a copy does not wait if it need not and if the memory of the CPU is pinned."""
    counted = gpu.run(fake_gpu_cases.copies)
    waiting = {name for name, count in counted.items() if count}
    assert waiting == {"pageable to GPU", "pageable to GPU, not blocking", "pinned to GPU", "from GPU", "a value", "a list to GPU"}
    assert all(count <= 1 for count in counted.values())


def test_memory_is_counted(gpu: FakeGpu) -> None:
    """Weights and gradients to the byte, and at the peak each layer's result."""
    weight, hidden, layers = 256 * 256 * 4, 128 * 256 * 4, 3
    peak, left = gpu.run(fake_gpu_cases.peak, layers)
    assert left == 2 * layers * weight + hidden  # the last result
    assert layers * weight + (layers + 1) * hidden < peak <= 2 * layers * weight + (layers + 2) * hidden


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_step_waits_for_the_gpu_once_at_most(gpu: FakeGpu, kind: str, dtype: str, lora: bool) -> None:
    """The real loop, in packed micro-batches of two rows: it waits in none of them, and once for the log of a step.

    fp16 has to know whether its gradients have overflowed before it goes on.
    """
    done = gpu.run(fake_gpu_cases.train, kind, lora=lora, dtype=dtype, max_tokens_per_batch=40)
    assert done["devices"] == {"cuda:0"} and done["trained"] == {"torch.float32"}
    assert done["metrics"]["steps"] == 4 and done["operations"]["_fused_adamw_"] % 4 == 0
    scale = {READ_LOSS_SCALE: 1} if dtype == "float16" else {}
    first, second, third, _ = map(without_lines, done["waits"])
    assert first == third == scale
    assert second == scale | {READ_WHEN_LOGGED: 1}
    # One kernel for all rows of a layer, except in fp32.
    operations = done["operations"]
    assert ("_varlen_attn" in operations) == (dtype != "float32")
    assert operations["_log_softmax"] >= 8, "there are several micro-batches"


@pytest.mark.parametrize(
    "given",
    [
        {"packing": "off"},
        {"neftune_alpha": 5.0},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "packing": "off", "lora": True},
        {"loraplus_ratio": 4.0, "lora": True},
        {"optimizer": "adamw_8bit"},
        {"max_grad_norm": 0.0, "weight_decay": 0.1},
        {"scheduler": "cosine", "warmup": 2},
    ],
    ids="-".join,
)
def test_settings_need_no_more_waiting(gpu: FakeGpu, given: dict[str, Any]) -> None:
    """The same for settings that have code of their own.

    One wait is not seen: with padded rows transformers asks whether its mask hides anything, but not of a fake tensor.
    """
    done = gpu.run(fake_gpu_cases.train, "qwen2", max_tokens_per_batch=64, **given)
    first, second, third, _ = map(without_lines, done["waits"])
    # bitsandbytes makes its tables in the first step.
    assert {name for name in first if "Optimizer2State.init_state" not in name} == set()
    assert (second, third) == ({READ_WHEN_LOGGED: 1}, {})


def test_an_evaluation_waits_once(gpu: FakeGpu) -> None:
    """For all its rows, of which a step is one micro-batch."""
    done = gpu.run(fake_gpu_cases.train, "qwen3", lora=True, evaluate=True, eval_steps=1)
    waits = without_lines(done["waits"][0])
    assert waits == {"_local_scalar_dense in TrainingLoop.evaluate": 1}
    assert done["metrics"]["eval_loss"] > 0


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_forgetting_is_measured(gpu: FakeGpu, kind: str) -> None:
    assert gpu.run(fake_gpu_cases.forget, kind) > 0


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_answers_are_generated(gpu: FakeGpu, kind: str, lora: bool, temperature: float) -> None:
    """Two prompts of different lengths at once, in bf16, with a cache of keys and values."""
    done = gpu.run(fake_gpu_cases.answer, kind, lora, temperature)
    assert done["tokens"] == [8, 8] and done["passes"] == 8


@pytest.mark.parametrize("logging_steps", [1, 10])
def test_a_loss_that_is_no_number_ends_the_training(gpu: FakeGpu, logging_steps: int) -> None:
    """It is found one step late where nothing is logged, and the message names the step that it belongs to."""
    with pytest.raises(RemoteError, match=r"ModelError: .*the loss became nan at step 1;"):
        gpu.run(fake_gpu_cases.train, "qwen2", value=math.nan, logging_steps=logging_steps)


def test_attention_by_flash_attention(tmp_path_factory: pytest.TempPathFactory) -> None:
    """If the package is installed, transformers calls it with what it wants."""
    with fake_gpu(tmp_path_factory.mktemp("flash"), flash_attention=True) as gpu:
        for kind in ("qwen2", "qwen3"):
            for lora in (False, True):
                done = gpu.run(fake_gpu_cases.train, kind, lora=lora, max_tokens_per_batch=40)
                first, second, third, _ = map(without_lines, done["waits"])
                assert (first, second, third) == ({}, {READ_WHEN_LOGGED: 1}, {})
                attentions = {name for name in done["operations"] if "attn" in name or "attention" in name}
                assert not attentions, "another attention was computed"


def test_an_older_gpu_attends_row_by_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Before the generation of the A100 there is neither bf16 nor a kernel for rows of different lengths."""
    with fake_gpu(tmp_path_factory.mktemp("older"), capability=7) as gpu:
        assert gpu.run(fake_gpu_cases.automatic_dtype) == "fp16"
        done = gpu.run(fake_gpu_cases.train, "qwen3", lora=True, dtype="float16")
        assert "_varlen_attn" not in done["operations"]
        assert without_lines(done["waits"][0]) == {READ_LOSS_SCALE: 1}
