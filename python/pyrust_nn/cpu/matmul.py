"""Matrix multiplication in fp32 on a CPU, by oneDNN if torch has it.

torch multiplies by MKL, which uses its AVX-512 kernels only on Intel's processors; oneDNN checks what the processor
supports. On an AMD EPYC it is more than twice as fast and equally exact: both sum in fp32, in different orders. Small
matrices, other dtypes and other devices are left to torch.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def _find_onednn() -> object | None:
    """oneDNN's linear operator, [rows, in] x [out, in] + [out] -> [rows, out], which torch's compiler uses too."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        return torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None


_ONEDNN = _find_onednn()
# oneDNN compiles and keeps a kernel of about a megabyte for each shape; for small matrices that does not pay.
_MIN_SIDE = 64


def is_cpu_fp32(*tensors: torch.Tensor | None) -> bool:
    """Whether all of these are fp32 tensors on a CPU, without autocast. None counts as one."""
    if torch.is_autocast_enabled("cpu"):
        return False
    return all(tensor is None or (tensor.dtype == torch.float32 and tensor.device.type == "cpu") for tensor in tensors)


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, few_rows: bool = False) -> torch.Tensor:
    """`inputs` [rows, in] times `weight` [out, in], transposed, plus `bias` [out]: [rows, out].

    oneDNN has fast kernels for contiguous matrices and their transposes; others are copied. `few_rows` uses oneDNN for
    any number of rows, which pays if the other sides are long.
    """
    sides = weight.shape if few_rows else (*inputs.shape, *weight.shape)
    if _ONEDNN is None or min(sides) < _MIN_SIDE or not len(inputs) or not is_cpu_fp32(inputs, weight):
        return functional.linear(inputs, weight, bias)
    product: torch.Tensor = _ONEDNN(_contiguous(inputs.detach()), _contiguous(weight.detach()), bias, "none", [], "")  # type: ignore[operator]
    return product


def matmul(left: torch.Tensor, right: torch.Tensor, *, few_rows: bool = False) -> torch.Tensor:
    """`left` [rows, inner] times `right` [inner, columns]: [rows, columns]. `few_rows` as in `linear`."""
    return linear(left, right.t(), few_rows=few_rows)


def _contiguous(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()
