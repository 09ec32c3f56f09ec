"""Matrix products in fp32 on a CPU, by oneDNN where torch has it.

torch's own products are MKL's, which takes its AVX-512 kernels on Intel's processors alone; oneDNN looks at what the
processor can do. On an AMD EPYC that is more than twice as fast, and as exact: both sum in fp32, in another order. What
is not fp32 on a CPU, or small, goes torch's way.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def _find() -> object | None:
    """oneDNN's product, [rows, in] x [out, in] + [out] -> [rows, out], which torch's compiler calls too."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        return torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None


_ONEDNN = _find()
# oneDNN compiles and keeps a kernel of about a megabyte for each shape; in small products the gain is not worth it.
_SMALL = 64


def fast(*tensors: torch.Tensor | None) -> bool:
    """Whether all of these are plain fp32 on a CPU, and computed in that."""
    if torch.is_autocast_enabled("cpu"):
        return False
    return all(tensor is None or (tensor.dtype == torch.float32 and tensor.device.type == "cpu") for tensor in tensors)


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, few_rows: bool = False) -> torch.Tensor:
    """`inputs` [rows, in] times `weight` [out, in], transposed, plus `bias` [out]: [rows, out].

    Either matrix may be the transpose of one that lies row by row, and nothing more ragged: oneDNN has fast kernels for these alone.
    `few_rows` takes it for any number of rows, which pays where the other sides are long.
    """
    sides = weight.shape if few_rows else (*inputs.shape, *weight.shape)
    if _ONEDNN is None or min(sides) < _SMALL or not len(inputs) or not fast(inputs, weight):
        return functional.linear(inputs, weight, bias)
    product: torch.Tensor = _ONEDNN(_dense(inputs.detach()), _dense(weight.detach()), bias, "none", [], "")  # type: ignore[operator]
    return product


def matmul(left: torch.Tensor, right: torch.Tensor, *, few_rows: bool = False) -> torch.Tensor:
    """`left` [rows, inner] times `right` [inner, columns]; `few_rows` as in `linear`."""
    return linear(left, right.t(), few_rows=few_rows)


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()
