"""Other families than Qwen: training computes transformers' loss and gradients, merge and inference give transformers' logits.

The models are tiny, with random weights and the tiny model's tokenizer. The oracle is transformers, row by row.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import pyrust_nn
from pyrust_nn.cpu.packed_attention import packed_attention
from pyrust_nn.cpu.patching import patched_layers
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.verified_classes import VERIFIED_CLASSES
from pyrust_nn.training.batches import BatchLayout
from pyrust_nn.training.packing import choose_batching
from pyrust_nn.training.rows import Row
from pyrust_nn.training.target_loss import TargetLoss

SIZES: dict[str, Any] = {
    "vocab_size": 1280,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 1277,
    "bos_token_id": None,
    "eos_token_id": 1279,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "output_router_logits": False}
WINDOW: dict[str, Any] = {"sliding_window": 8}
# Each compared type, with the settings that make it special. Qwen3.5 is not packed; test_models.py and test_training.py have it.
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 32},
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "mistral": WINDOW,
    "smollm3": {"no_rope_layers": [1, 1, 0]},
    "phi3": WINDOW,
    "gemma": {},
    "gemma3_text": WINDOW | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "query_pre_attn_scalar": 16},
}
# Types that train as transformers computes them. Each would be wrong if its rows were packed here.
OTHERS: dict[str, dict[str, Any]] = {
    "gemma2": WINDOW | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "gpt_oss": WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "falcon": {"alibi": True, "new_decoder_architecture": False},
}


def make_model(kind: str, more: dict[str, Any]) -> Any:
    torch.manual_seed(7)
    # Falcon's size of a head follows from the others.
    sizes = {name: size for name, size in SIZES.items() if (kind, name) != ("falcon", "head_dim")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(sizes | more)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.float().train()


def make_rows() -> list[Row]:
    random = np.random.default_rng(5)
    rows = []
    for length in (5, 23, 9, 40, 12):
        ids = random.integers(0, 1270, length)
        rows.append(Row(ids, np.where(random.random(length) < 0.6, ids, -100)))
    return rows


def params(**more: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"packing": "auto", "neftune_alpha": None, "max_tokens_per_batch": 4096} | more))


def plain(model: Any, rows: list[Row]) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss over all targets and its gradients, by transformers' logits of each row alone."""
    model.zero_grad()
    total, count = torch.zeros(()), 0
    for row in rows:
        logits = model(input_ids=torch.from_numpy(row.input_ids)[None], use_cache=False).logits[0, :-1].float()
        labels = torch.from_numpy(row.labels)[1:]
        total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
        count += int((labels != -100).sum())
    (total / count).backward()
    return float(total) / count, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_compared_class_has_the_loss_and_the_gradients_of_transformers(kind: str) -> None:
    assert kind in VERIFIED_CLASSES
    model, rows = make_model(kind, FAMILIES[kind]), make_rows()
    expected, gradients = plain(model, rows)
    batching = choose_batching(params(), model.config, torch.device("cpu"))
    assert batching.layout is BatchLayout.PACKED
    model.zero_grad()
    parts = batching.split(rows)
    count = sum(int((row.labels[1:] != -100).sum()) for row in rows)
    loss = 0.0
    with packed_attention(model, torch.float32), patched_layers(model):
        for part in parts:
            with TargetLoss(model) as target_loss:
                assert target_loss.usable
                found = model(**batching.inputs(part), num_items_in_batch=count).loss
            found.backward()
            loss += float(found)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_the_list_of_compared_classes_is_what_is_compared() -> None:
    assert {*FAMILIES, "qwen3_5_text", "qwen3_5_moe_text"} == VERIFIED_CLASSES


def saved(kind: str, more: dict[str, Any], folder: Path) -> Path:
    make_model(kind, more).save_pretrained(folder)
    for file in Path(model_folder("builtin:tiny")).glob("*to*"):
        if "tokenizer" in file.name:
            shutil.copy(file, folder)
    shutil.copy(Path(model_folder("builtin:tiny")) / "chat_template.jinja", folder)
    return folder


@pytest.mark.parametrize("kind", [*FAMILIES, *OTHERS])
def test_a_family_is_trained_merged_and_answers_as_transformers_computes_it(kind: str, tmp_path: Path, runs: Path, data_json: str) -> None:
    base = saved(kind, (FAMILIES | OTHERS)[kind], tmp_path / kind)
    given: dict[str, Any] = {
        "dataset_path": data_json,
        "num_epochs": 0.2,
        "logging_steps": 1,
        "device": "cpu",
        "runs_dir": runs,
        "max_length": 256,
    }
    targets = {"bloom": ["query_key_value"], "falcon": ["query_key_value"], "mpt": ["Wqkv"], "phi3": ["qkv_proj"]}.get(
        kind, ["q_proj", "v_proj"]
    )
    full = pyrust_nn.finetune_full("s", base, learning_rate=1e-4, **given)
    log = (runs / "s/pipeline.log").read_text()
    assert ("trains as transformers computes it" in log) == (kind in OTHERS)
    assert full["metrics"]["first_loss"] == pytest.approx(first_loss(base, data_json, runs), rel=1e-4)
    pyrust_nn.finetune_lora("s", base, target_modules=targets, learning_rate=1e-3, lora_dropout=0.0, **given)
    adapter = runs / "s/finetune_lora/adapter"
    pyrust_nn.merge("s", adapter, runs_dir=runs, device="cpu")
    ids = torch.tensor([[5, 9, 300, 77, 41, 1000, 3]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(runs / "s/merge/model").eval()(ids).logits
        by_peft = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()(ids).logits
    torch.testing.assert_close(merged, by_peft, rtol=1e-3, atol=1e-3)
    answer = pyrust_nn.inference("s", base, prompt="Hi", max_new_tokens=5, temperature=0, device="cpu", runs_dir=runs)["result"][0]
    assert answer["completion_tokens"] >= 1


def first_loss(base: Path, data_json: str, runs: Path) -> float:
    """The loss of the first training step by transformers."""
    from pyrust_nn.training.order import epoch_order
    from pyrust_nn.training.rows import PreparedRows

    prepared = pyrust_nn.prepare_dataset(base, dataset_path=data_json, max_length=256)
    rows = PreparedRows(prepared["path"])
    first = [rows[index] for index in epoch_order(len(rows), 42, 0)[:4]]
    rows_ = [Row(row.input_ids.astype("int64"), row.labels.astype("int64")) for row in first]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    return plain(model, rows_)[0]


def test_every_family_has_a_clear_refusal_in_gguf(tmp_path: Path, runs: Path) -> None:
    base = saved("llama", FAMILIES["llama"], tmp_path / "llama")
    with pytest.raises(pyrust_nn.ModelError, match=re.escape("a model of type llama (LlamaForCausalLM) cannot be converted")):
        pyrust_nn.convert_model_to_gguf("s", base, runs_dir=runs)
    assert json.loads((base / "config.json").read_text())["model_type"] == "llama"
