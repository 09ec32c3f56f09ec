"""docs/scale.md: its tables are what docs/scale.py makes of this build, for shapes that are those of the models."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3MoeConfig

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scale() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("scale", CHECKOUT / "docs" / "scale.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_this_build(scale: Any, binary: Path) -> None:
    """If not: `make scale`."""
    page = scale.PAGE.read_text(encoding="utf-8")
    assert page == scale.with_tables(page, scale.tables(str(binary)))


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen2.5-32B"])
def test_a_dense_shape_has_transformers_tensors(scale: Any, name: str) -> None:
    shape = scale.MODELS[name]
    config = shape.config()
    del config["model_type"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**config))
    assert shape.tensors() == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shape.parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_a_mixture_of_experts_has_transformers_parameters(scale: Any) -> None:
    """All of them, and those that compute a token. Its name says 235 billion and 22."""
    shape = scale.MODELS["Qwen3-235B-A22B"]
    config = {
        "hidden_size": shape.hidden,
        "moe_intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.chosen,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": False,
    }
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**config))
    assert shape.parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert round(shape.parameters() / 1e9) == 235 and round(shape.parameters(experts=shape.chosen) / 1e9) == 22


def test_what_is_sent_is_what_a_ring_sends(scale: Any) -> None:
    """A simulation of a sum in a ring: each rank passes a piece on, first adding it up, then handing the sums around."""
    ranks, numbers = 8, 64
    sent = [0] * ranks
    values = [[float(rank + at) for at in range(numbers)] for rank in range(ranks)]
    size = numbers // ranks
    for adding in (True, False):
        for turn in range(ranks - 1):
            moved = []
            for rank in range(ranks):
                piece = (rank - turn + (0 if adding else 1)) % ranks
                moved.append(((rank + 1) % ranks, piece, values[rank][piece * size : (piece + 1) * size]))
                sent[rank] += size
            for to, piece, part in moved:
                for at, value in enumerate(part, piece * size):
                    values[to][at] = values[to][at] + value if adding else value
    assert all(row == [sum(rank + at for rank in range(ranks)) for at in range(numbers)] for row in values)
    assert set(sent) == {2 * (ranks - 1) / ranks * numbers}
    line = next(line for line in scale.many_gpus().splitlines() if line.startswith("| Qwen2.5-7B, full | 8 |"))
    table = float(line.split("|")[4].replace(",", ""))
    assert math.isclose(table, sent[0] / numbers * 4 * scale.MODELS["Qwen2.5-7B"].parameters() / 1e9, rel_tol=1e-3)
