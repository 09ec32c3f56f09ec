"""The operations of a decoder layer as autograd functions that save fewer tensors and pass over memory less often.

Each computes the same as the modules of transformers and peft, and the same gradients, except for rounding; matrix
products are those of `matmul`. Plain autograd would save every intermediate and allocate a tensor for each sum and
product. All are for fp32 on a CPU; the caller checks that (see `patching`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from pyrust_nn import _core
from pyrust_nn.cpu.autograd_ops import first_order_only
from pyrust_nn.cpu.matmul import is_cpu_fp32, linear, matmul


class LoraLinear(torch.autograd.Function):
    """A linear layer with any number of LoRA pairs, or none: x Wᵀ + b + Σ scale (d Aᵀ) Bᵀ, where d is x after dropout.

    Saved for backward: the inputs and the narrow products d Aᵀ.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scales: Sequence[float],
        *pairs: torch.Tensor | None,
    ) -> torch.Tensor:
        """`inputs` [..., in], `weight` [out, in], `bias` [out]; the result is [..., out].

        `pairs` has three tensors for each of `scales`: the pair's input after dropout [..., in], or None if that is
        `inputs` itself; A [rank, in]; B [out, rank].
        """
        rows = inputs.reshape(-1, inputs.shape[-1])
        out = linear(rows, weight, bias)
        flat: list[torch.Tensor | None] = []
        for scale, dropped, a, b in _triples(scales, pairs):
            source = None if dropped is None else dropped.reshape(rows.shape)
            narrow = linear(rows if source is None else source, a)
            out.addmm_(narrow, b.t(), alpha=scale)
            flat += [source, a, b, narrow]
        # The gradients of A and of the weight need the inputs; a frozen layer without pairs does not.
        needs_rows = ctx.needs_input_grad[1] or any(
            ctx.needs_input_grad[5 + 3 * number] and pairs[3 * number] is None for number in range(len(scales))
        )
        ctx.save_for_backward(rows if needs_rows else None, weight, *flat)
        ctx.scales, ctx.shape = scales, inputs.shape
        return out.view(*inputs.shape[:-1], weight.shape[0])

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[Any, ...]:
        """`grad_outputs` is one tensor, [..., out]."""
        rows, weight, *flat = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias, _, *needs = ctx.needs_input_grad
        grad = grad_outputs[0].reshape(-1, weight.shape[0])
        inputs_grad = matmul(grad, weight) if needs_inputs else None
        pair_grads: list[torch.Tensor | None] = []
        for number, scale in enumerate(ctx.scales):
            source, a, b, narrow = flat[4 * number : 4 * number + 4]
            needs_source, needs_a, needs_b = needs[3 * number : 3 * number + 3]
            source_grad = a_grad = b_grad = None
            if needs_a or needs_source or (source is None and needs_inputs):
                inner = matmul(grad, b).mul_(scale)
                if needs_a:
                    a_grad = matmul(inner.t(), rows if source is None else source)
                if source is None and inputs_grad is not None:
                    inputs_grad.addmm_(inner, a)
                elif needs_source:
                    source_grad = matmul(inner, a).view(ctx.shape)
            if needs_b:
                b_grad = matmul(grad.t(), narrow).mul_(scale)
            pair_grads += [source_grad, a_grad, b_grad]
        return (
            None if inputs_grad is None else inputs_grad.view(ctx.shape),
            matmul(grad.t(), rows) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
            None,
            *pair_grads,
        )


def _triples(scales: Sequence[float], pairs: Sequence[Any]) -> Any:
    return zip(scales, pairs[0::3], pairs[1::3], pairs[2::3], strict=True)


class RMSNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x²) + epsilon), with the mean over the last dimension."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """`inputs` [..., features], `weight` [features]."""
        inverse = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True).square_().div_(inputs.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(inputs, weight, inverse)
        return (inputs * inverse).mul_(weight)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """`grad_outputs` is one tensor, [..., features]."""
        inputs, weight, inverse = ctx.saved_tensors
        grad = grad_outputs[0]
        inputs_grad = weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = (grad * inputs).mul_(inverse).flatten(0, -2).sum(0)
        if ctx.needs_input_grad[0]:
            inputs_grad = grad * weight
            along = (inputs_grad * inputs).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(inputs.shape[-1])
            inputs_grad.mul_(inverse).addcmul_(inputs, along, value=-1)
        return inputs_grad, weight_grad, None


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up. Only `gate` and `up` are saved for backward."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """`gate` and `up` have the same shape."""
        ctx.save_for_backward(gate, up)
        if not _kernels_usable(gate, up):
            return functional.silu(gate).mul_(up)
        out = torch.empty_like(gate)
        _core.swiglu(torch.get_num_threads(), *_arrays(gate, up, out))
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`grad_outputs` is one tensor of that shape."""
        gate, up = ctx.saved_tensors
        grad = grad_outputs[0]
        if not _kernels_usable(grad, gate, up):
            return torch.ops.aten.silu_backward(grad * up, gate), functional.silu(gate).mul_(grad)
        gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(up)
        _core.swiglu_backward(torch.get_num_threads(), *_arrays(grad, gate, up, gate_grad, up_grad))
        return gate_grad, up_grad


class PackedAttention(torch.autograd.Function):
    """Causal attention within rows of tokens, by the native core. No row attends to another."""

    @staticmethod
    def usable(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether the native core supports these tensors on this processor."""
        return _kernels_usable(query, key, value) and _core.attention_usable(query.shape[-1])

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], scale: float, window: int | None
    ) -> torch.Tensor:
        """`query` [batch, tokens, heads, features], `key` and `value` [batch, tokens, key heads, features]; the result as `query`.

        `lengths` are the numbers of tokens of the rows; their sum is `batch` times `tokens`. A token attends to the last
        `window` tokens including itself, or to all before it if that is None.
        """
        ctx.settings = (torch.get_num_threads(), lengths, scale, window or max(lengths))
        out = torch.empty_like(query)
        divisors = query.new_empty(query.shape[:-1])
        _core.attention(*ctx.settings, *_arrays(*(tensor.flatten(0, 1) for tensor in (query, key, value, out))), *_arrays(divisors))
        ctx.save_for_backward(query, key, value, out, divisors)
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """`grad_outputs` is one tensor, of the shape of `query`."""
        query, key, value, out, divisors = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
        shaped = [tensor.flatten(0, 1) for tensor in (query, key, value, out, divisors, grad_outputs[0].contiguous(), *grads)]
        _core.attention_backward(*ctx.settings, *_arrays(*shaped))
        return (*grads, None, None, None)


def _kernels_usable(*tensors: torch.Tensor) -> bool:
    """Whether the native core's kernels support these tensors on this processor."""
    return is_cpu_fp32(*tensors) and all(tensor.is_contiguous() for tensor in tensors) and _core.kernels_usable()


def _arrays(*tensors: torch.Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


class RotaryEmbedding(torch.autograd.Function):
    """x cos + rotate_half(x) sin, as transformers' Qwen rotates queries and keys by their positions."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """`states` [..., heads, features]; `cos` and `sin` [..., 1, features], whose halves may differ."""
        ctx.save_for_backward(cos, sin)
        half = states.shape[-1] // 2
        out = states * cos
        out[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-1)
        out[..., half:].addcmul_(states[..., :half], sin[..., half:])
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """`grad_outputs` is one tensor, of the shape of `states`."""
        cos, sin = ctx.saved_tensors
        grad = grad_outputs[0]
        half = grad.shape[-1] // 2
        out = grad * cos
        out[..., :half].addcmul_(grad[..., half:], sin[..., half:])
        out[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
        return out, None, None
