"""Fused operations and patched layers, compared with plain transformers and peft under autograd."""

import copy
from types import SimpleNamespace

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen2 import modeling_qwen2 as qwen2

from pyrust_nn import _core
from pyrust_nn.cpu import fused_ops, matmul, patching
from pyrust_nn.cpu.fused_ops import LoraLinear, PackedAttention, RMSNorm, RotaryEmbedding, SwiGLU
from pyrust_nn.cpu.packed_attention import packed_attention
from pyrust_nn.cpu.patching import patched_layers
from pyrust_nn.training.batches import BatchLayout, MicroBatching
from pyrust_nn.training.linear_cross_entropy import LinearCrossEntropy
from pyrust_nn.training.rows import IGNORED, Row
from pyrust_nn.training.target_loss import TargetLoss

SIZES = {
    "vocab_size": 151, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True)
def products_of_any_size(monkeypatch):
    """oneDNN has small products, too, which it is not given otherwise."""
    monkeypatch.setattr(matmul, "_MIN_SIDE", 1)


def assert_near(got, expected, name=""):
    """Within what fp32 rounds: a millionth of the largest, some times over."""
    assert got.shape == expected.shape and got.dtype == expected.dtype
    largest = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=1e-5 * (1e-3 + largest), msg=name)


def same_gradients(ours, plain, *tensors):
    """Both functions of the tensors agree, in value and in every gradient."""
    got, expected = ours(*tensors), plain(*tensors)
    assert_near(got, expected)
    outer = torch.randn_like(expected)
    asked = [tensor for tensor in tensors if tensor.requires_grad]
    pairs = zip(torch.autograd.grad(got, asked, outer), torch.autograd.grad(expected, asked, outer), strict=True)
    for number, (one, other) in enumerate(pairs):
        assert_near(one, other, f"gradient {number}")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 40), inside=st.integers(1, 40), outside=st.integers(1, 40), ranks=st.lists(st.integers(1, 9), max_size=3),
    bias=st.booleans(), dropped=st.booleans(), trained=st.lists(st.booleans(), min_size=9, max_size=9), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_linear_layer_with_low_rank_pairs(rows, inside, outside, ranks, bias, dropped, trained, seed):
    torch.manual_seed(seed)

    def tensor(*shape, at):
        return torch.randn(*shape, requires_grad=trained[at] or at == 0)

    inputs, weight = tensor(2, rows, inside, at=0), tensor(outside, inside, at=1)
    offset = tensor(outside, at=2) if bias else None
    pairs = [(tensor(rank, inside, at=3 + 2 * i), tensor(outside, rank, at=4 + 2 * i)) for i, rank in enumerate(ranks)]
    scales = [0.5 + i for i in range(len(ranks))]
    kept = (torch.rand(2, rows, inside) < 0.7) / 0.7 if dropped else None
    flat = [matrix for pair in pairs for matrix in pair]

    def ours(x, w, *rest):
        b, rest = (rest[0], rest[1:]) if bias else (None, rest)
        source = None if kept is None else x * kept
        triples = [part for i in range(len(ranks)) for part in (source, rest[2 * i], rest[2 * i + 1])]
        return LoraLinear.apply(x, w, b, scales, *triples)

    def plain(x, w, *rest):
        b, rest = (rest[0], rest[1:]) if bias else (None, rest)
        out = functional.linear(x, w, b)
        source = x if kept is None else x * kept
        for i, scale in enumerate(scales):
            out = out + functional.linear(functional.linear(source, rest[2 * i]), rest[2 * i + 1]) * scale
        return out

    same_gradients(ours, plain, inputs, weight, *([offset] if bias else []), *flat)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("shape", [(1, 7, 12), (2, 3, 5, 8), (1, 1, 1)])
def test_a_norm(shape, trained):
    torch.manual_seed(0)
    norm = qwen2.Qwen2RMSNorm(shape[-1], eps=1e-2)
    weight = torch.randn(shape[-1], requires_grad=trained)

    def plain(x, w):
        return torch.func.functional_call(norm, {"weight": w}, (x,))

    same_gradients(lambda x, w: RMSNorm.apply(x, w, 1e-2), plain, torch.randn(shape, requires_grad=True), weight)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 9), (1, 64, 48), (0, 8)])
def test_a_gated_unit(monkeypatch, shape, native):
    if native and not _core.kernels_usable():
        pytest.skip("this processor has no AVX-512")
    monkeypatch.setattr(fused_ops._core, "kernels_usable", lambda: native)
    torch.manual_seed(0)
    gate, up = ((9 * torch.randn(shape)).requires_grad_() for _ in range(2))
    same_gradients(SwiGLU.apply, lambda g, u: functional.silu(g) * u, gate, up)


def test_a_rotation_whose_halves_differ():
    torch.manual_seed(0)
    states, cos, sin = torch.randn(1, 6, 3, 8, requires_grad=True), torch.randn(1, 6, 8), torch.randn(1, 6, 8)

    def plain(x):
        return qwen2.apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)[0]

    same_gradients(lambda x: RotaryEmbedding.apply(x, cos.unsqueeze(2), sin.unsqueeze(2)), plain, states)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 70), inner=st.integers(0, 70), columns=st.integers(0, 70), layout=st.integers(0, 8), seed=st.integers(0, 9))
def test_products_of_any_layout(rows, inner, columns, layout, seed):
    torch.manual_seed(seed)

    def laid(kind, one, two):
        if kind == 0:
            return torch.randn(one, two)
        return torch.randn(two, one).t() if kind == 1 else torch.randn(one, 2 * two + 1)[:, 1 : two + 1]

    left, right = laid(layout % 3, rows, inner), laid(layout // 3, inner, columns)
    assert_near(matmul.matmul(left, right), (left.double() @ right.double()).float())


@pytest.mark.skipif(matmul._ONEDNN is None, reason="torch was built without oneDNN")
def test_large_products_are_onednns_and_narrow_ones_torchs(monkeypatch):
    asked = []

    def spy(*args):
        asked.append(tuple(args[0].shape))
        return onednn(*args)

    onednn = matmul._ONEDNN
    monkeypatch.setattr(matmul, "_ONEDNN", spy)
    monkeypatch.setattr(matmul, "_MIN_SIDE", 64)
    matmul.linear(torch.randn(70, 80), torch.randn(90, 80))
    matmul.linear(torch.randn(70, 80), torch.randn(16, 80))
    assert asked == [(70, 80)]


def test_products_in_half_precision_are_torchs():
    left, right = torch.randn(5, 6).bfloat16(), torch.randn(6, 7).bfloat16()
    assert torch.equal(matmul.matmul(left, right), left @ right)


def model_of(kind="qwen2", *, targets=None, dropout=0.0, stacked=False, **more):
    """A model, with random adapters where `targets` says so; biases and norms are random, too."""
    torch.manual_seed(0)
    config, model = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "moe": (Qwen2MoeConfig, Qwen2MoeForCausalLM),
    }[kind]
    made = model(config(**SIZES | more))
    for name, parameter in made.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.5)
    if targets:
        settings = {"task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 5, "init_lora_weights": False, "target_modules": targets}
        made = peft.get_peft_model(made, peft.LoraConfig(lora_dropout=dropout, **settings))
        if stacked:
            made.add_adapter("parent", peft.LoraConfig(**settings | {"target_modules": ["q_proj", "up_proj"], "r": 2}))
            made.base_model.set_adapter(["parent", "default"])
            made.set_requires_grad("parent", False)
    return made.train()


def rows_of(lengths=(9, 1, 14, 5), seed=0):
    """Rows, about half of whose tokens are targets."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(0, SIZES["vocab_size"], (length,), generator=draw)
        labels = ids.where(torch.rand(length, generator=draw) < 0.5, IGNORED)
        labels[0] = IGNORED
        rows.append(Row(ids.int().numpy(), labels.int().numpy()))
    return rows


def computed(model, rows, layout, ours):
    """Loss and gradients of a micro-batch: by everything that is ours, or by none of it.

    With a dropout the last layer is computed whole: for fewer rows, fewer numbers are drawn, and none would be the same.
    """
    torch.manual_seed(1)
    drops = any(isinstance(module, torch.nn.Dropout) for module in model.modules())
    inputs = MicroBatching(layout, 10**6).inputs(rows) | {"num_items_in_batch": 20}
    model.zero_grad()
    with packed_attention(model, torch.float32):
        if ours:
            with patched_layers(model):
                target_loss = TargetLoss(model, in_place=True)
                if drops:
                    target_loss.target_rows.layer = None
                with target_loss:
                    value = model(**inputs).loss
                value.backward()
        else:
            value = model(**inputs).loss
            value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def twice(function, *inputs):
    """The gradient of a gradient, through a sum in which the function is a part."""
    loss = (inputs[0].sum() + function(*inputs).pow(2).sum()).pow(2)
    (first,) = torch.autograd.grad(loss, inputs[0], create_graph=True)
    return torch.autograd.grad(first.pow(2).sum(), inputs[0])


@pytest.mark.parametrize("name", ["LoraLinear", "RMSNorm", "SwiGLU", "PackedAttention", "RotaryEmbedding", "LinearCrossEntropy"])
def test_second_derivatives_are_refused_and_not_wrong(name):
    rows = torch.randn(6, 16, requires_grad=True)
    heads = torch.randn(1, 6, 2, 16, requires_grad=True)
    functions = {
        "LoraLinear": lambda: twice(lambda x: LoraLinear.apply(x, torch.randn(8, 16), None, ()), rows),
        "RMSNorm": lambda: twice(lambda x: RMSNorm.apply(x, torch.randn(16), 1e-6), rows),
        "SwiGLU": lambda: twice(lambda x: SwiGLU.apply(x, torch.randn(6, 16)), rows),
        "PackedAttention": lambda: twice(
            lambda x: PackedAttention.apply(x, torch.randn(1, 6, 2, 16), torch.randn(1, 6, 2, 16), [6], 0.2, None), heads
        ),
        "RotaryEmbedding": lambda: twice(lambda x: RotaryEmbedding.apply(x, torch.randn(1, 6, 1, 16), torch.randn(1, 6, 1, 16)), heads),
        "LinearCrossEntropy": lambda: twice(
            lambda x: LinearCrossEntropy.apply(x, torch.randn(9, 16), None, torch.arange(6), torch.tensor(1.0), 4, None), rows
        ),
    }
    if name == "PackedAttention" and not _core.attention_usable(16):
        pytest.skip("the kernel is for processors with AVX-512")
    with pytest.raises(RuntimeError, match="no second derivative"):
        functions[name]()


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4), group=st.integers(1, 3), key_heads=st.integers(1, 3),
    features=st.sampled_from([16, 48, 64, 128]), window=st.none() | st.integers(1, 100),
    scale=st.floats(0.05, 0.3), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_within_rows_is_torchs(lengths, group, key_heads, features, window, scale, seed):
    if not _core.attention_usable(features):
        pytest.skip("the kernel is for processors with AVX-512")
    torch.manual_seed(seed)
    query = torch.randn(1, sum(lengths), group * key_heads, features, requires_grad=True)
    key, value = (torch.randn(1, sum(lengths), key_heads, features, requires_grad=True) for _ in range(2))
    assert PackedAttention.usable(query, key, value) and not PackedAttention.usable(query.half(), key, value)

    def plain(query, key, value):
        row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        distance = torch.arange(len(row))[:, None] - torch.arange(len(row))
        seen = (row[:, None] == row) & (distance >= 0) & (distance < (window or 10**6))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return functional.scaled_dot_product_attention(query, key, value, seen, scale=scale, enable_gqa=True).transpose(1, 2)

    parts = (query, key, value)
    got, expected = PackedAttention.apply(*parts, lengths, scale, window), plain(*(part.double() for part in parts))
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=5e-5)
    outer = torch.randn_like(got)
    pairs = zip(torch.autograd.grad(got, parts, outer), torch.autograd.grad(expected, parts, outer.double()), strict=True)
    for one, other in pairs:
        # Sums of a hundred terms and more, some of which cancel.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_attention_where_the_kernel_cannot_run(monkeypatch):
    monkeypatch.setattr(fused_ops._core, "kernels_usable", lambda: False)
    model = model_of(hidden_size=64)
    monkeypatch.setattr(PackedAttention, "forward", None)
    (plain, expected), (got, gradients) = (computed(model, rows_of(), BatchLayout.PACKED, ours) for ours in (False, True))
    assert_near(got, plain)
    for name, gradient in expected.items():
        assert_near(gradients[name], gradient, name)


def test_dropout_on_attention_is_torchs(monkeypatch):
    model = model_of(hidden_size=64, attention_dropout=0.5)
    monkeypatch.setattr(PackedAttention, "forward", None)
    plain, got = (computed(model.train(), rows_of((9,)), BatchLayout.PACKED, ours)[0] for ours in (False, True))
    assert_near(got, plain)


@pytest.mark.parametrize("layout", [BatchLayout.PACKED, BatchLayout.EQUAL])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("qwen2", {}),
        ("qwen2", {"targets": ALL}),
        ("qwen2", {"targets": ["q_proj", "down_proj"]}),
        ("qwen2", {"targets": ["o_proj", "lm_head"]}),
        ("qwen2", {"targets": ALL, "dropout": 0.3}),
        ("qwen2", {"targets": ALL, "dropout": 0.3, "stacked": True}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("qwen2", {"hidden_act": "gelu"}),
        ("qwen3", {"head_dim": 12}),
        ("qwen3", {"head_dim": 16}),
        ("qwen2", {"hidden_size": 64, "targets": ALL}),
        ("qwen2", {"hidden_size": 128, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("qwen3", {"head_dim": 12, "attention_bias": True, "targets": ALL, "dropout": 0.1}),
        ("moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "output_router_logits": True}),
    ],
)
def test_a_models_loss_and_gradients(kind, more, layout):
    model = model_of(kind, **more)
    rows = rows_of() if layout is BatchLayout.PACKED else rows_of((11, 11))
    (plain, expected), (got, gradients) = (computed(model, rows, layout, ours) for ours in (False, True))
    assert_near(got, plain)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_near(gradients[name], gradient, name)


@pytest.mark.parametrize("targets", [None, ALL])
def test_with_gradient_checkpointing(targets):
    model = model_of(targets=targets, dropout=0.2 if targets else 0.0)
    plain, expected = computed(model, rows_of(), BatchLayout.PACKED, ours=False)
    base = model.get_base_model() if targets else model
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if targets:
        base.enable_input_require_grads()
    got, gradients = computed(model, rows_of(), BatchLayout.PACKED, ours=True)
    assert_near(got, plain)
    for name, gradient in expected.items():
        assert_near(gradients[name], gradient, name)


@pytest.mark.parametrize("kept", ["none", "all"])
def test_where_no_token_is_a_target_or_every_one_is(kept):
    rows = rows_of()
    for row in rows:
        row.labels[:] = IGNORED if kept == "none" else row.input_ids
    (plain, expected), (got, gradients) = (computed(model_of(), rows, BatchLayout.PACKED, ours) for ours in (False, True))
    assert_near(got, plain)
    for name, gradient in expected.items():
        assert_near(gradients[name], gradient, name)


def test_the_last_layer_sees_target_rows_alone():
    model, seen = model_of(targets=ALL), []
    base = model.get_base_model()
    for number in (0, -1):
        base.model.layers[number].mlp.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    rows = rows_of()
    computed(model, rows, BatchLayout.PACKED, ours=True)
    assert seen == [sum(len(row.input_ids) for row in rows), sum(row.target_tokens for row in rows)]


def test_autocast_and_other_dtypes_are_left_to_the_plain_modules():
    inputs = MicroBatching(BatchLayout.EQUAL, 999).inputs(rows_of((9, 9)))
    for model in (model_of(targets=ALL), model_of(targets=ALL).to(torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            plain = model(**inputs).logits
            with patched_layers(model):
                assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("what", ["DoRA", "a bias", "merged", "turned off", "a layer of another class"])
def test_what_is_more_than_low_rank_pairs_is_left_to_peft(what, monkeypatch):
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    if what == "a layer of another class":
        for layer in base.model.layers:
            layer.mlp.up_proj.__class__ = type("Quantized", (torch.nn.Linear,), {})
    more = {"use_dora": what == "DoRA", "lora_bias": what == "a bias"}
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=3, init_lora_weights=False, target_modules=["up_proj"], **more)
    model = peft.get_peft_model(base, config).train()
    if what == "merged":
        model.merge_adapter()
    inputs = MicroBatching(BatchLayout.EQUAL, 999).inputs(rows_of((9, 9)))
    with model.disable_adapter() if what == "turned off" else torch.enable_grad():
        plain = model(**inputs).logits
        adapted = []

        def spy(*args):
            adapted.append(len(args))
            return LoraLinear.apply(*args)

        monkeypatch.setattr(patching, "LoraLinear", SimpleNamespace(apply=spy))
        with patched_layers(model):
            assert_near(model(**inputs).logits, plain)
    assert set(adapted) == {4}  # layers without pairs alone


def test_outside_the_model_is_what_it_was():
    model, inputs = model_of(targets=ALL), MicroBatching(BatchLayout.EQUAL, 999).inputs(rows_of((9, 9)))
    before = model(**inputs).logits
    with pytest.raises(KeyError), patched_layers(model), TargetLoss(model):
        raise KeyError
    assert torch.equal(model(**inputs).logits, before)
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in model.modules())
    copy.deepcopy(model)


def test_only_what_the_gradient_needs_is_kept():
    """Frozen without pairs: no inputs. With them: the inputs, once, and a narrow product."""
    inputs, weight = torch.randn(10, 8, requires_grad=True), torch.randn(6, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        LoraLinear.apply(inputs, weight, None, ())
        assert kept == [(6, 8)]
        kept.clear()
        a, b = torch.randn(2, 8, requires_grad=True), torch.randn(6, 2, requires_grad=True)
        LoraLinear.apply(inputs, weight, None, [1.0], None, a, b)
    assert sorted(kept) == sorted([(10, 8), (6, 8), (2, 8), (6, 2), (10, 2)])


def test_a_chance_beyond_fp32_has_its_loss():
    hidden, weight = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [300.0]])
    got = LinearCrossEntropy.apply(hidden, weight, None, torch.tensor([0, 0]), torch.tensor(1.0), 16, False)
    assert got.item() == pytest.approx(900)
