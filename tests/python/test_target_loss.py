"""The loss at target tokens only, compared with transformers' loss: same value, same gradients."""

import copy

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from pyrust_nn import ModelError, _core
from pyrust_nn.cpu import chunked_cross_entropy
from pyrust_nn.training import linear_cross_entropy
from pyrust_nn.training.linear_cross_entropy import LinearCrossEntropy, rows_per_chunk
from pyrust_nn.training.rows import IGNORED
from pyrust_nn.training.target_loss import TargetLoss

SIZES = {
    "vocab_size": 211,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
}
PROJECTIONS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """16 rows and 32 words at a time, so that small shapes take several."""
    monkeypatch.setattr(linear_cross_entropy, "CHUNK_BYTES", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(chunked_cross_entropy, "BLOCK_TOKENS", 32)
    monkeypatch.setattr(chunked_cross_entropy, "MAX_ROWS", 16)


def qwen(*, tied=True, bias=False, seed=0):
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=tied, pad_token_id=3)).train()
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(SIZES["vocab_size"]))
    return model


def batch(rows=3, length=40, kept=0.6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, SIZES["vocab_size"], (rows, length), generator=draw)
    labels = ids.where(torch.rand(rows, length, generator=draw) < kept, IGNORED)
    return {"input_ids": ids, "labels": labels, "use_cache": False}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def both(model, inputs, **more):
    """Loss and gradients by transformers, and by ours."""
    found = []
    for ours in (False, True):
        model.zero_grad()
        if ours:
            with TargetLoss(model, **more):
                value = model(**inputs).loss
        else:
            value = model(**inputs).loss
        value.backward()
        found.append((value.item(), gradients(model)))
    return found


def assert_same(found, tolerance=2e-6):
    (plain, expected), (ours, got) = found
    assert ours == pytest.approx(plain, rel=1e-5)
    assert got.keys() == expected.keys() and expected
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=tolerance * (1 + gradient.abs().max().item()), msg=name)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("normalizer", [None, 77, torch.tensor(77)])
def test_a_trained_head_gets_the_plain_gradients(tied, bias, normalizer, in_place):
    inputs = batch() | ({} if normalizer is None else {"num_items_in_batch": normalizer})
    assert_same(both(qwen(tied=tied, bias=bias), inputs, in_place=in_place))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 70), words=st.integers(2, 90), features=st.integers(1, 20),
    trained=st.booleans(), bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape_has_the_plain_loss_and_gradients(rows, words, features, trained, bias, seed):
    torch.manual_seed(seed)
    hidden, weight = torch.randn(rows, features, requires_grad=True), torch.randn(words, features, requires_grad=trained)
    offset = torch.randn(words, requires_grad=trained) if bias else None
    targets = torch.randint(0, words, (rows,))
    asked = [tensor for tensor in (hidden, weight, offset) if tensor is not None and tensor.requires_grad]
    plain = torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, weight, offset), targets, reduction="sum") / 3
    ours = LinearCrossEntropy.apply(hidden, weight, offset, targets, torch.tensor(1 / 3), 16, None)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    for got, expected in zip(torch.autograd.grad(ours * 2, asked), torch.autograd.grad(plain * 2, asked), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("rows", "words", "features"), [(1, 97, 8), (33, 300, 64), (100, 1000, 24)])
def test_a_frozen_head_has_one_answer_by_our_kernel_and_by_torch(monkeypatch, rows, words, features, native):
    if native and not _core.softmax_pass_usable(features):
        pytest.skip("this processor has no AVX-512")
    asked = []
    kernel = _core.softmax_pass
    monkeypatch.setattr(chunked_cross_entropy._core, "softmax_pass", lambda *given: asked.append(1) or kernel(*given))
    monkeypatch.setattr(chunked_cross_entropy._core, "softmax_pass_usable", lambda features: native)
    torch.manual_seed(rows)
    # Logits up to some hundred, so that softmaxes are sharp and the largest logit moves on.
    hidden, weight = 5 * torch.randn(rows, features), 2 * torch.randn(words, features)
    targets = torch.randint(0, words, (rows,))
    exact = hidden.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact @ weight.double().T, targets, reduction="sum")
    expected.backward()
    hidden.requires_grad_()
    got = LinearCrossEntropy.apply(hidden, weight, None, targets, torch.tensor(1.0), 16, None)
    got.backward()
    assert bool(asked) == native
    torch.testing.assert_close(got.double(), expected.detach(), rtol=3e-6, atol=1e-4)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # as evaluation does
        torch.testing.assert_close(LinearCrossEntropy.apply(hidden, weight, None, targets, torch.tensor(1.0), 16, None), got.detach())


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("features", [256, 1024, 4096])
def test_a_frozen_head_is_as_exact_as_torch_at_any_size(monkeypatch, features, native):
    """Errors of losses and gradients against fp64. A chain of `features` additions in the kernel would have ten times torch's."""
    if native and not _core.softmax_pass_usable(features):
        pytest.skip("this processor has no AVX-512")
    monkeypatch.setattr(chunked_cross_entropy._core, "softmax_pass_usable", lambda features: native)
    torch.manual_seed(features)
    # Values of one sign have sums that grow with the chain.
    hidden, weight = torch.rand(96, features), torch.rand(2000, features) * (8 / features)
    targets = torch.randint(0, 2000, (96,))
    exact = hidden.double().requires_grad_()
    torch.nn.functional.cross_entropy(exact @ weight.double().T, targets, reduction="sum").backward()
    expected = torch.nn.functional.cross_entropy(hidden.double() @ weight.double().T, targets, reduction="none")

    def errors(loss_of):
        rows = hidden.clone().requires_grad_()
        losses = loss_of(rows)
        losses.sum().backward()
        return float((losses.detach().double() - expected).abs().max()), float((rows.grad.double() - exact.grad).abs().max())

    plain = errors(lambda rows: torch.nn.functional.cross_entropy(rows @ weight.T, targets, reduction="none"))
    one = torch.tensor(1.0)
    ours = errors(
        lambda rows: torch.stack(
            [LinearCrossEntropy.apply(rows[at : at + 1], weight, None, targets[at : at + 1], one, 16, None) for at in range(len(rows))]
        )
    )
    assert ours[0] <= 2 * plain[0] + 2e-6 and ours[1] <= 2 * plain[1] + 1e-7, (ours, plain)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_no_loss_is_negative(monkeypatch, native, trained):
    """Targets that are nearly certain: their losses are as small as the rounding of a logit computed apart."""
    monkeypatch.setattr(chunked_cross_entropy._core, "softmax_pass_usable", lambda features: native and _core.kernels_usable())
    torch.manual_seed(1)
    weight = torch.randn(5000, 512, requires_grad=trained)
    targets = torch.randint(0, 5000, (200,))
    hidden = (weight.detach()[targets] * 0.9).requires_grad_()
    expected = torch.nn.functional.cross_entropy(hidden.double() @ weight.double().T, targets, reduction="none")
    for at in range(len(targets)):
        loss = LinearCrossEntropy.apply(hidden[at : at + 1], weight, None, targets[at : at + 1], torch.tensor(1.0), 16, None)
        assert 0 <= float(loss) <= float(expected[at]) + 1e-4, at


def test_the_kernels_refuse_what_does_not_fit():
    if not _core.kernels_usable():
        pytest.skip("this processor has no AVX-512")
    good = [torch.zeros(3, 8).numpy(), torch.zeros(5, 8).numpy(), [0, 4, 1], 2, *(torch.zeros(3).numpy() for _ in range(3)), None]
    _core.softmax_pass(*good)
    for at, wrong in ((0, torch.zeros(3, 16)), (1, torch.zeros(8, 5).T), (4, torch.zeros(4)), (6, torch.zeros(2)), (7, torch.zeros(3, 9))):
        with pytest.raises(ValueError, match="kernels need contiguous fp32"):
            _core.softmax_pass(*good[:at], wrong.numpy(), *good[at + 1 :])
    for targets in ([0, 5, 1], [0, 1], []):
        with pytest.raises(ValueError, match="kernels need contiguous fp32"):
            _core.softmax_pass(*good[:2], targets, *good[3:])
    with pytest.raises(ValueError, match="kernels need contiguous fp32"):
        _core.swiglu(1, *(torch.zeros(size).numpy() for size in (4, 4, 5)))


def test_the_kernels_refuse_outputs_that_share_memory():
    if not _core.kernels_usable():
        pytest.skip("this processor has no AVX-512")
    whole = torch.zeros(12)
    x, y, shifted = whole[:4].numpy(), whole[4:8].numpy(), whole[2:6].numpy()
    _core.swiglu(1, x, x, y)  # inputs may be the same
    calls = [
        lambda: _core.swiglu(1, x, y, x),
        lambda: _core.swiglu(1, x, x, shifted),
        lambda: _core.swiglu_backward(1, x, x, x, y, y),
        lambda: _core.softmax_pass(torch.zeros(4, 8).numpy(), torch.zeros(5, 8).numpy(), [0] * 4, 1, x, shifted, y, None),
    ]
    heads = torch.zeros(6, 2, 2, 16)
    query, key, value, out, grad, query_grad = (heads[i].numpy() for i in range(6))
    sums = torch.zeros(2, 2).numpy()
    if _core.attention_usable(16):
        _core.attention(1, [2], 0.25, 2, query, key, value, out, sums)
        calls += [
            lambda: _core.attention(1, [2], 0.25, 2, query, key, value, query, sums),
            lambda: _core.attention_backward(1, [2], 0.25, 2, query, key, value, out, sums, grad, query_grad, query_grad, value),
        ]
    for call in calls:
        with pytest.raises(ValueError, match="share no memory"):
            call()
    with pytest.raises(ValueError, match="native byte order"):
        _core.swiglu(1, np.zeros(4, ">f4"), y, x)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_fp32_as_the_plain_loss_is(dtype, trained):
    torch.manual_seed(1)
    hidden, weight, targets = torch.randn(60, 64), torch.randn(500, 64) / 8, torch.randint(0, 500, (60,))
    # what fp16 training brings back: the loss is scaled, lest gradients vanish
    factor = 4096.0

    def run(kind, ours):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
        with torch.autocast("cpu", kind, enabled=kind is not None):
            if ours:
                value = LinearCrossEntropy.apply(h, w, None, targets, torch.tensor(1 / 5000), 16, None)
            else:
                value = torch.nn.functional.cross_entropy(torch.nn.functional.linear(h, w).float(), targets, reduction="sum") / 5000
        (value * factor).backward()
        return [value.detach(), h.grad, *([w.grad] if trained else [])]

    exact = run(None, False)
    for ours, plain, true in zip(run(dtype, True), run(dtype, False), exact, strict=True):
        assert ours.dtype == true.dtype
        assert (ours - true).norm() <= 1.2 * (plain - true).norm() + 1e-5 * true.norm()


def test_weights_in_bf16_get_gradients_in_bf16():
    model = qwen().to(torch.bfloat16)
    (plain, expected), (ours, got) = both(model, batch())
    assert ours == pytest.approx(plain, rel=2e-2)
    for name, gradient in expected.items():
        assert got[name].dtype == torch.bfloat16
        assert (got[name] - gradient).float().norm() < 0.05 * gradient.float().norm() + 1e-4


@pytest.mark.parametrize("in_place", [False, True])
def test_a_batch_without_targets_has_no_loss_and_no_gradient(in_place):
    inputs = batch() | {"num_items_in_batch": 5}
    inputs["labels"] = torch.full_like(inputs["labels"], IGNORED)
    model = qwen()
    with TargetLoss(model, in_place=in_place):
        value = model(**inputs).loss
    value.backward()
    assert value.item() == 0
    assert all(not gradient.any() for gradient in gradients(model).values())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": PROJECTIONS},
        {"target_modules": [*PROJECTIONS, "lm_head"]},
        {"target_modules": [*PROJECTIONS, "embed_tokens"]},
        {"target_modules": PROJECTIONS, "modules_to_save": ["lm_head"]},
        {"target_modules": PROJECTIONS, "use_dora": True},
        {"target_modules": PROJECTIONS, "trainable_token_indices": {"embed_tokens": [1, 5, 9], "lm_head": [1, 5, 9]}},
    ],
    ids=["frozen head", "LoRA on the head", "LoRA on the embedding", "a copy of the head", "DoRA", "single tokens"],
)
def test_gradients_of_an_adapter_are_the_plain_ones(tied, more):
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=3, init_lora_weights=False, **more)
    model = peft.get_peft_model(qwen(tied=tied), config)
    assert_same(both(model, batch()))
    assert_same(both(model, batch(), in_place=True))


@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_in_place_add_up_over_micro_batches(parts):
    model, inputs = qwen(), batch(rows=3)
    model(**inputs, num_items_in_batch=50).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    with TargetLoss(model, in_place=True):
        for part in range(parts):
            rows = {name: value[part::parts] if torch.is_tensor(value) else value for name, value in inputs.items()}
            model(**rows, num_items_in_batch=50).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_a_scaled_loss_is_refused_where_gradients_are_in_place():
    model = qwen()
    with TargetLoss(model, in_place=True):
        value = model(**batch()).loss
    with pytest.raises(RuntimeError, match="without this scale"):
        (value * 2).backward()


def test_outside_the_model_is_what_it_was():
    model, inputs = qwen(), batch()
    before = model(**inputs)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyError), TargetLoss(model, in_place=True):
        raise KeyError
    after = model(**inputs)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.loss, after.loss)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert copy.deepcopy(model).lm_head.forward.__func__ is torch.nn.Linear.forward


def test_evaluation_has_the_plain_loss():
    model, inputs = qwen().eval(), batch()
    with torch.no_grad():
        plain = model(**inputs).loss
        with TargetLoss(model, in_place=True):
            torch.testing.assert_close(model(**inputs).loss, plain)


def test_a_router_keeps_its_own_loss():
    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        **SIZES, moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        output_router_logits=True, router_aux_loss_coef=0.5, mlp_only_layers=[],
    )  # fmt: skip
    assert_same(both(Qwen2MoeForCausalLM(config).train(), batch()))


class Doubled(Qwen2ForCausalLM):
    """A model that does something to its logits before the loss."""

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids=input_ids).last_hidden_state) * 2
        return {"loss": self.loss_function(logits, labels, self.config.vocab_size)}


def test_a_model_that_changes_its_logits_is_not_trained_wrongly():
    model = Doubled(Qwen2Config(**SIZES))
    with pytest.raises(ModelError, match="changes its logits"), TargetLoss(model):
        model(batch()["input_ids"], labels=batch()["labels"])
    model.config.final_logit_softcapping = 30.0
    plain = model(batch()["input_ids"], labels=batch()["labels"])["loss"]
    with TargetLoss(model):
        assert torch.equal(model(batch()["input_ids"], labels=batch()["labels"])["loss"], plain)


def test_chunks_shrink_as_vocabularies_grow(monkeypatch):
    monkeypatch.undo()
    rows, row_bytes = rows_per_chunk(151_936, "cpu"), 151_936 * 4
    assert rows * row_bytes <= linear_cross_entropy.CHUNK_BYTES["cpu"] < (rows + 1) * row_bytes
    assert rows_per_chunk(10**9, "cpu") == 16
