"""Micro-batches: every row occurs exactly once, and no row sees another."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from pyrust_nn import InputError
from pyrust_nn.cpu.packed_attention import can_pack, packed_attention
from pyrust_nn.training.batches import BatchLayout, MicroBatching, row_length, target_tokens
from pyrust_nn.training.packing import choose_batching
from pyrust_nn.training.rows import IGNORED

SIZES = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
MODELS = {
    "Qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "Qwen2 with windows": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "Qwen2-MoE with windows": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **SIZES,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
            num_experts=4,
            num_experts_per_tok=2,
            use_sliding_window=True,
            sliding_window=5,
            max_window_layers=1,
        )
    ),
    "Qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
    "Qwen3-MoE": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, head_dim=8, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2)
    ),
}


def row(size, seed=0, words=97):
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, words, size, dtype=np.int32)
    labels = np.where(draw.random(size) < 0.6, ids, IGNORED).astype(np.int32)
    labels[0] = IGNORED
    return SimpleNamespace(input_ids=ids, labels=labels)


@given(sizes=st.lists(st.integers(1, 60), max_size=40), budget=st.integers(1, 150), layout=st.sampled_from(BatchLayout))
def test_every_token_is_in_one_micro_batch_within_the_budget(sizes, budget, layout):
    rows = [row(size, seed) for seed, size in enumerate(sizes)]
    batches = MicroBatching(layout, budget)
    parts = batches.split(rows)
    assert sorted(id(one) for part in parts for one in part) == sorted(map(id, rows))
    for part in parts:
        inputs = batches.inputs(part)
        cells = inputs["input_ids"].numel()
        assert cells <= budget or len(part) == 1
        assert layout is BatchLayout.PADDED or cells == sum(map(row_length, part))
        # What the model is given is the rows, token by token.
        if layout is BatchLayout.PACKED:
            found = zip(*(inputs[name][0].split(inputs["row_lengths"]) for name in ("input_ids", "labels", "position_ids")), strict=True)
            for one, (ids, labels, positions) in zip(part, found, strict=True):
                assert ids.tolist() == one.input_ids.tolist() and labels.tolist() == one.labels.tolist()
                assert positions.tolist() == list(range(row_length(one)))
        else:
            mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
            for one, ids, labels, real in zip(part, inputs["input_ids"], inputs["labels"], mask, strict=True):
                assert ids[real].tolist() == one.input_ids.tolist() and labels[real].tolist() == one.labels.tolist()
                assert (labels[~real] == IGNORED).all()
        counted = inputs.get("shift_labels", inputs["labels"][:, 1:])
        assert int((counted != IGNORED).sum()) == target_tokens(part)


def test_short_rows_share_a_micro_batch():
    parts = MicroBatching(BatchLayout.PACKED, 100).split([row(size) for size in (10, 60, 40, 90, 30, 30, 40)])
    assert [sum(map(row_length, part)) for part in parts] == [100, 100, 100]


def test_micro_batches_are_as_even_as_their_number_allows():
    sizes = lambda rows: [sum(map(row_length, part)) for part in MicroBatching(BatchLayout.PACKED, 100).split([row(size) for size in rows])]  # noqa: E731
    assert sizes([60, 40, 30]) == [60, 70]
    assert sizes([99, 2]) == [99, 2]
    assert sizes([300, 20, 30]) == [300, 50]
    # 52 tokens each would be even, and are too many where three rows of 34 do not fit two ways.
    assert sorted(sizes([34, 34, 34, 2])) == [36, 68]


@pytest.mark.parametrize("name", MODELS)
def test_packed_rows_have_the_loss_and_gradients_of_the_rows_alone(name):
    torch.manual_seed(0)
    model = MODELS[name]().train()
    rows = [row(size, seed) for seed, size in enumerate((9, 14, 1, 6))]
    count = target_tokens(rows)
    total = 0.0
    for one in rows:
        ids, labels = (torch.from_numpy(array.astype(np.int64))[None] for array in (one.input_ids, one.labels))
        loss = model(ids, labels=labels, num_items_in_batch=count, use_cache=False).loss
        loss.backward()
        total += loss.item()
    expected = {at: p.grad.clone() for at, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with packed_attention(model, torch.float32):
        loss = model(**MicroBatching(BatchLayout.PACKED, 99).inputs(rows), num_items_in_batch=count).loss
    loss.backward()
    assert loss.item() == pytest.approx(total, rel=1e-5)
    for at, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(at).grad, gradient, rtol=1e-4, atol=1e-5, msg=at)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_does_not_feel_its_neighbours(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    batches, middle = MicroBatching(BatchLayout.PACKED, 99), row(12, 5)
    found = []
    for seed in (1, 2):
        inputs = batches.inputs([row(8, seed), middle, row(10, seed + 10)])
        with torch.no_grad(), packed_attention(model, torch.float32):
            found.append(model(**inputs).logits[0, 8:20])
    with torch.no_grad():
        alone = model(torch.from_numpy(middle.input_ids.astype(np.int64))[None], use_cache=False).logits[0]
    for logits in found:
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


def test_recurrent_layers_are_not_packed():
    recurrent = Qwen3Config(**SIZES)
    recurrent.layer_types = ["linear_attention", "full_attention"]
    params = SimpleNamespace(packing="auto", neftune_alpha=None, max_tokens_per_batch=None)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert can_pack(Qwen3Config(**SIZES)) and not can_pack(recurrent)
    assert [choose_batching(params, recurrent, device).layout for device in (cpu, cuda)] == [BatchLayout.EQUAL, BatchLayout.PADDED]
    assert choose_batching(params, Qwen3Config(**SIZES), cpu) == MicroBatching(BatchLayout.PACKED, 768)
    params.packing = "on"
    with pytest.raises(InputError, match=r"packing cannot be on: some layers of this model are recurrent"):
        choose_batching(params, recurrent, cpu)
