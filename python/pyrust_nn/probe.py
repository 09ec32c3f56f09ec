"""How long a row takes: two layers of a model's shape with random weights are timed, the rest is extrapolated. For `check`.

A rough figure. It knows nothing of how rows are batched on a GPU, of loading and of saving.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pyrust_nn import _host
from pyrust_nn.models import lora_target_modules, pick_device, pick_dtype

LAYERS = 2
RANK = 8  # as the help of lora_rank says
CHUNK = 128  # target tokens whose logits are computed at a time
SECONDS = 2.0  # for each of what is timed


def time_rows(wanted_json: str) -> str:
    """Time what `src/embed/probe.rs` describes; `row_seconds` and `step_seconds` of the whole model, as JSON."""
    wanted = SimpleNamespace(**json.loads(wanted_json))
    with _host.environment(wanted.offline):
        return json.dumps(_time(wanted))


def _time(wanted: SimpleNamespace) -> dict[str, float]:
    device = pick_device(wanted.device)
    dtype = pick_dtype(wanted.dtype, device)
    config = AutoConfig.from_pretrained(wanted.folder, local_files_only=True, trust_remote_code=False).get_text_config()
    layers = config.num_hidden_layers
    used = min(LAYERS, layers)
    if getattr(config, "quantization_config", None):
        del config.quantization_config
    config.num_hidden_layers = used
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:used]
    held = torch.float32 if wanted.full else dtype
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=held, trust_remote_code=False).train()
    body, head = model.model, model.lm_head.weight
    if not wanted.full:
        from peft import LoraConfig, get_peft_model

        targets = wanted.target_modules or lora_target_modules(model)
        get_peft_model(model, LoraConfig(r=wanted.lora_rank or RANK, lora_dropout=0.05, target_modules=targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    in_layers = sum(parameter.numel() for parameter in body.layers.parameters() if parameter.requires_grad)
    in_all = sum(parameter.numel() for parameter in trained)

    input_ids = torch.randint(config.vocab_size, (1, wanted.tokens), device=device)
    targets = torch.randint(config.vocab_size, (wanted.targets,), device=device)
    mixed = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)

    def through_layers() -> None:
        with mixed:
            hidden = body(input_ids=input_ids, use_cache=False).last_hidden_state
        hidden.backward(torch.ones_like(hidden))

    def through_head() -> None:
        hidden = torch.randn(wanted.targets, config.hidden_size, device=device, dtype=held, requires_grad=True)
        for start in range(0, wanted.targets, CHUNK):
            with mixed:
                logits = torch.nn.functional.linear(hidden[start : start + CHUNK], head)
                torch.nn.functional.cross_entropy(logits.float(), targets[start : start + CHUNK]).backward()

    in_body = _seconds(through_layers, device)
    in_head = _seconds(through_head, device)
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    step = _seconds(optimizer.step, device)
    # Weights outside the layers are there once, whatever the number of layers.
    growth = (in_layers * layers / used + in_all - in_layers) / in_all
    return {"row_seconds": in_body * layers / used + in_head, "step_seconds": step * growth}


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The median of some runs, after one that does not count."""
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begun < SECONDS and len(times) < 50):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times[1:]) // 2]
