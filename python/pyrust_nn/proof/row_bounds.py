"""How far a row of weights may be from the row that it stores: a bound for each type of tensor.

The relative error of a row w stored as v is |v - w| / |w| (Euclidean norms). Its bound is the norm of the errors that the type allows
for each element:

* f16, bf16, f32: half a unit in the last place, u |w| with u = 2^-11, 2^-8 and 2^-24; for f16 also half its smallest step, 2^-25.
* A block of numbers on a grid with step s: s/2. The step is the block's largest magnitude / L (q8_0: L = 127, q4_0: 8, q5_0: 16, q6_k: 32,
  q3_k: 4, nf4, fp4 and iq4 by their widest gap), or its range / L where the block also has a minimum (q4_1, q4_k: 15, q5_1, q5_k: 31,
  q2_k: 3). An element is within s/2 of the grid if the grid spans the block. Encoders that search for a better grid accept it only if the
  squared error falls, so the root mean square stays below s/2: for an even distribution it is s/sqrt(12), 0.58 of that.
* The scales of a super-block are stored with b bits on a grid of their own: they are off by at most S / (2 (2^b - 1)), with S the largest
  of the super-block, and an element by at most L times that. The same for minima.
* The scale of a block or super-block is stored as f16: 2^-11 of the largest magnitude; near f16's smallest step it is off by 2^-25,
  so weights below some 1e-5 may become zero.

An encoder with an importance matrix may give up any column whose importance is small, even the largest of its block: a file that was made
with one has the bound 0.99 for the types that use it, all below 8 bits. Without the term of the smallest scale no other bound is above
0.95: a row of zeros has the error 1, another row about 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

LIMIT = 0.95
WITH_IMPORTANCE = 0.99
"""The bound for files that were made with an importance matrix."""

DOUBLE = " double"
"""Behind a type of bitsandbytes whose scales are quantized too."""
SCALE_OF_SCALES = 2.0**-7
"""Half the widest gap of bitsandbytes' 8-bit map (`create_dynamic_map`), 0.0071 of the largest deviation of a scale from their mean."""

ROUNDING = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
SMALLEST_HALF = 2.0**-25
STORED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""The type of plain weights, by their dtype."""


@dataclass(frozen=True)
class Grid:
    """The grid of a type: `block` elements share a step; `levels` steps make its magnitude or range.

    half_step: the largest distance from the grid, in steps. scale_bits: bits of the steps and minima that a super-block of `super_block`
    elements stores; 0 if each block stores its own as f16. minimum: the block has one.
    """

    block: int
    levels: float
    minimum: bool = False
    super_block: int = 0
    scale_bits: int = 0
    half_step: float = 0.5

    @property
    def most(self) -> float:
        """The largest scale that a super-block stores for a block; scales of types without a minimum have a sign, which takes a bit."""
        if not self.scale_bits:
            return 1.0
        return 2.0**self.scale_bits - 1 if self.minimum else 2.0 ** (self.scale_bits - 1)


GRIDS = {
    "Q8_0": Grid(32, 127),
    "Q4_0": Grid(32, 8),
    "Q5_0": Grid(32, 16),
    "Q4_1": Grid(32, 15, minimum=True),
    "Q5_1": Grid(32, 31, minimum=True),
    "Q6_K": Grid(16, 32, super_block=256, scale_bits=8),
    "Q5_K": Grid(32, 31, minimum=True, super_block=256, scale_bits=6),
    "Q4_K": Grid(32, 15, minimum=True, super_block=256, scale_bits=6),
    "Q3_K": Grid(16, 4, super_block=256, scale_bits=6),
    "Q2_K": Grid(16, 3, minimum=True, super_block=256, scale_bits=4),
    # The levels are -127 … 113 of 127; the lower end mirrored is 14 away.
    "IQ4_NL": Grid(32, 127, half_step=14),
    "IQ4_XS": Grid(32, 127, half_step=14, super_block=256, scale_bits=6),
    # bitsandbytes: half the widest gap between the 16 levels is 0.152 of the largest magnitude for nf4, a sixth for fp4.
    "NF4": Grid(64, 1, half_step=0.152 + 2.0**-7),
    "FP4": Grid(64, 1, half_step=1 / 6 + 2.0**-7),
}


def row_bounds(rows: torch.Tensor, kind: str, *, importance: bool = False) -> torch.Tensor:
    """The bound of each row's relative error, float64 [rows]. `rows` are the weights that were stored, float32 [rows, columns].

    kind: a type of ggml, NF4 or FP4 (with DOUBLE behind it: its scales are quantized too), or INT8 (bitsandbytes' LLM.int8, one scale for
    a row). Raises KeyError for another.
    """
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    columns = rows.shape[1]
    if kind in ROUNDING:
        smallest = SMALLEST_HALF if kind == "F16" else 0.0
        return ROUNDING[kind] + columns**0.5 * smallest / norms.clamp_min(1e-300)
    norms = norms.clamp_min(1e-300)
    if kind == "INT8":
        return (rows.abs().amax(1).double() * (0.5 / 127 + 2.0**-10) * columns**0.5 / norms).clamp_max(LIMIT)
    grid = GRIDS[kind.removesuffix(DOUBLE)]
    allowed = _grid_errors(rows, grid) / norms
    if kind.endswith(DOUBLE):
        allowed = allowed + SCALE_OF_SCALES * float(rows.abs().amax()) * columns**0.5 / norms
    allowed = allowed.clamp_min(WITH_IMPORTANCE) if importance and kind != "Q8_0" else allowed.clamp_max(LIMIT)
    return allowed.clamp_max(WITH_IMPORTANCE) + _smallest_scale_errors(rows, grid) / norms


def _smallest_scale_errors(rows: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The norm of the errors of f16 scales near their smallest step, for each row."""
    blocks = rows.unflatten(1, (-1, grid.super_block or grid.block))
    share = SMALLEST_HALF * grid.levels * grid.most / blocks.abs().amax(2).clamp_min(1e-30)
    # With a minimum the scale is that of the distance from it, which may be twice the magnitude.
    share = share.clamp_max(1.0) * (2 if grid.minimum else 1)
    error = torch.linalg.vector_norm(blocks, dim=2, dtype=torch.float64) * share
    minima = SMALLEST_HALF * grid.most * rows.shape[1] ** 0.5 if grid.minimum else 0.0
    return torch.linalg.vector_norm(error, dim=1) + minima


def _grid_errors(rows: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The norm of the errors that the grid allows, for each row."""
    blocks = rows.unflatten(1, (-1, grid.block))
    largest = blocks.abs().amax(2)
    lowest = -blocks.amin(2).clamp_max(0)  # a minimum is zero or below
    step = (blocks.amax(2) + lowest).clamp_min(0) / grid.levels if grid.minimum else largest / grid.levels
    error = step * grid.half_step
    if grid.scale_bits:
        error = error + grid.levels * _of_super_block(step, grid) / (2 * grid.most)
        if grid.minimum:
            error = error + _of_super_block(lowest, grid) / (2 * grid.most)
        largest = _of_super_block(largest, grid)
    error = error + largest * 2.0**-11
    return torch.linalg.vector_norm(error, dim=1, dtype=torch.float64) * grid.block**0.5


def _of_super_block(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The largest of each super-block, repeated for its blocks."""
    each = grid.super_block // grid.block
    return values.unflatten(1, (-1, each)).amax(2).repeat_interleave(each, dim=1)
