"""Estimates the time of a training row for `check`: times two layers of the model's shape with random weights and extrapolates.

A rough estimate. It ignores batching on a GPU, loading and saving.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pyrust_nn import _core
from pyrust_nn._runtime.environment import step_environment
from pyrust_nn.models.devices import pick_device, pick_dtype
from pyrust_nn.models.loading import import_model_class
from pyrust_nn.models.lora_targets import lora_target_modules
from pyrust_nn.models.multimodal import language_config

PROBE_LAYERS = 2
CHUNK = 128  # target tokens whose logits are computed at a time
MAX_SECONDS = 2.0  # for each measurement


def time_rows(request_json: str) -> str:
    """`row_seconds` and `step_seconds` of the whole model as JSON. `request_json` is the struct `Probe` of Rust. Called by Rust."""
    request = SimpleNamespace(**json.loads(request_json))
    with step_environment(request.offline):
        return json.dumps(_time(request))


def _time(request: SimpleNamespace) -> dict[str, float]:
    device = pick_device(request.device)
    dtype = pick_dtype(request.dtype, device)
    whole = AutoConfig.from_pretrained(request.folder, local_files_only=True, trust_remote_code=False)
    config = (language_config(whole) or whole).get_text_config()
    layers = config.num_hidden_layers
    used = min(PROBE_LAYERS, layers)
    if getattr(config, "quantization_config", None):
        del config.quantization_config
    config.num_hidden_layers = used
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:used]
    held = torch.float32 if request.full else dtype
    import_model_class(config)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=held, trust_remote_code=False).train()
    body, head = model.model, model.lm_head.weight
    if not request.full:
        from peft import LoraConfig, get_peft_model

        targets = request.target_modules or lora_target_modules(model)
        defaults = _core.lora_defaults()
        rank, dropout = request.lora_rank or defaults["lora_rank"], defaults["lora_dropout"]
        get_peft_model(model, LoraConfig(r=rank, lora_dropout=dropout, target_modules=targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    in_layers = sum(parameter.numel() for parameter in body.layers.parameters() if parameter.requires_grad)
    in_all = sum(parameter.numel() for parameter in trained)

    input_ids = torch.randint(config.vocab_size, (1, request.tokens), device=device)
    targets = torch.randint(config.vocab_size, (request.targets,), device=device)
    mixed = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)

    def run_layers() -> None:
        with mixed:
            hidden = body(input_ids=input_ids, use_cache=False).last_hidden_state
        hidden.backward(torch.ones_like(hidden))

    def run_head() -> None:
        hidden = torch.randn(request.targets, config.hidden_size, device=device, dtype=held, requires_grad=True)
        for start in range(0, request.targets, CHUNK):
            with mixed:
                logits = torch.nn.functional.linear(hidden[start : start + CHUNK], head)
                torch.nn.functional.cross_entropy(logits.float(), targets[start : start + CHUNK]).backward()

    in_body = _seconds(run_layers, device)
    in_head = _seconds(run_head, device)
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    step = _seconds(optimizer.step, device)
    # Weights outside of the layers do not grow with the number of layers.
    growth = (in_layers * layers / used + in_all - in_layers) / in_all
    return {"row_seconds": in_body * layers / used + in_head, "step_seconds": step * growth}


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The median of several runs, without the first."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - started < MAX_SECONDS and len(times) < 50):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times[1:]) // 2]
