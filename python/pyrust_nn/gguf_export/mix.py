"""The type of each tensor in a quantized file: the mix of types behind names such as `q4_k_m`.

The rules are those of llama-quantize (`llama_tensor_get_type` and `tensor_allows_quantization` in llama-quant.cpp of llama.cpp, MIT).
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyrust_nn import ModelError, UsageError
from pyrust_nn.gguf_export.tensor_types import OUTTYPES, TENSOR_TYPES
from pyrust_nn.wording import counted

logger = logging.getLogger(__name__)

# The types that llama.cpp's converter writes. The others are llama-quantize's, which reads a file of float16.
CONVERTER_TYPES = ("f32", "f16", "bf16", "q8_0")

# The type for rows that are not a multiple of a type's block.
_FALLBACKS = {"IQ4_XS": "IQ4_NL", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_NEVER = re.compile(r"_norm\.weight|ffn_gate_inp\.weight|ssm_conv1d")
# The first match decides.
_CATEGORIES = {
    "attn_qkv.weight": "attn_qkv",
    "attn_v.weight": "attn_v",
    "attn_k.weight": "attn_k",
    "attn_q.weight": "attn_q",
    "attn_output.weight": "attn_output",
    "ffn_up": "ffn_up",
    "ffn_gate": "ffn_gate",
    "ffn_down": "ffn_down",
}


@dataclass(frozen=True)
class TypeChoices:
    """What the user chose beside the file's type: tensor types, in lower or upper case."""

    token_embedding: str | None = None
    output: str | None = None
    # By a regular expression that is searched in the tensor's name; the first that matches decides.
    patterns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def checked(cls, token_embedding: str | None, output: str | None, by_pattern: Mapping[str, Any] | None) -> TypeChoices:
        """The choices in a step's parameters. Raises UsageError if a pattern is not valid; types are checked before."""
        patterns = {pattern: str(name) for pattern, name in (by_pattern or {}).items()}
        _check_patterns(patterns)
        return cls(token_embedding, output, patterns)


def check_patterns(types_json: str) -> None:
    """Check the parameter `tensor_type` before a step begins. Called by Rust."""
    _check_patterns(json.loads(types_json) or {})


def _check_patterns(patterns: Iterable[str]) -> None:
    """Raise UsageError for a pattern that is not valid."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as cause:
            raise UsageError(f"tensor_type has the pattern {pattern!r}, which is not a regular expression: {cause}") from cause


@dataclass(frozen=True)
class ModelShape:
    """What the rules ask of a model: its architecture in llama.cpp, blocks, experts, and query heads for each key head."""

    architecture: str
    blocks: int
    experts: int
    query_heads_per_key_head: int


class Mix:
    """Chooses the types of one file's tensors, in the order in which llama-quantize visits them."""

    def __init__(self, outtype: str, shape: ModelShape, names: list[str], has_imatrix: bool, choices: TypeChoices) -> None:
        """`names`: all tensors of the file. `has_imatrix`: an importance matrix is given."""
        self.outtype, self.shape, self.has_imatrix, self.choices = outtype, shape, has_imatrix, choices
        self.default = OUTTYPES[outtype].tensor_type
        self.tied = "output.weight" not in names
        self.values = sum(category(name) in ("attn_v", "attn_qkv") for name in names)
        self._values_seen = self._downs_seen = 0
        self._replaced: Counter[str] = Counter()

    def type_of(self, name: str, shape: tuple[int, ...], otherwise: str) -> str:
        """The type of a tensor, which has the type `otherwise` in the file that llama-quantize would read."""
        if not allows_quantization(name, shape):
            return otherwise
        if name == "token_embd.weight" and self.choices.token_embedding:
            return self._exactly(self.choices.token_embedding, name, shape)
        if name == "output.weight" and self.choices.output:
            return self._exactly(self.choices.output, name, shape)
        chosen = next((kind.upper() for pattern, kind in self.choices.patterns.items() if re.search(pattern, name)), None)
        if self.outtype in ("f32", "f16", "bf16"):
            return self._fitting(chosen, name, shape) if chosen else otherwise
        return self._fitting(chosen or self._by_rule(name, shape), name, shape)

    def _fitting(self, kind: str, name: str, shape: tuple[int, ...]) -> str:
        """The type, or another if rows are not a multiple of its block."""
        if shape[-1] % TENSOR_TYPES[kind].block == 0:
            return kind
        other = _FALLBACKS.get(kind, kind)
        if shape[-1] % TENSOR_TYPES[other].block:
            other = "F16"
        logger.debug("tensor %s becomes %s instead of %s, because its rows have %d elements", name, other, kind, shape[-1])
        self._replaced[f"{other} instead of {kind}"] += 1
        return other

    def log_replaced(self) -> None:
        """Say in one line which types were replaced: a model may have hundreds of such tensors."""
        if self._replaced:
            parts = ", ".join(f"{counted(count, 'tensor')} {what}" for what, count in sorted(self._replaced.items()))
            logger.info("%s: rows are not a multiple of the block of some types: %s", self.outtype, parts)

    def _exactly(self, kind: str, name: str, shape: tuple[int, ...]) -> str:
        block = TENSOR_TYPES[kind.upper()].block
        if shape[-1] % block:
            raise ModelError(f"tensor {name} cannot be of type {kind}: its rows of {shape[-1]} are not a multiple of {block}")
        return kind.upper()

    def _by_rule(self, name: str, shape: tuple[int, ...]) -> str:
        kind, group, file = self.default, category(name), self.outtype
        if group == "output" or (self.tied and group == "token_embd"):
            if self.choices.output:
                return self.choices.output.upper()
            if shape[-1] % TENSOR_TYPES[kind].block or kind == "Q8_0":
                return "Q8_0"
            return "Q6_K"
        if group in ("attn_v", "attn_qkv"):
            kind = self._value_type(kind)
            self._values_seen += 1
        elif group == "attn_k" and self.shape.experts == 8:
            kind = "Q8_0"
        elif group == "ffn_down":
            kind = self._down_type(kind, name)
            self._downs_seen += 1
        elif group == "attn_output":
            kind = _attention_output_type(kind, file, self.shape.experts)
        return kind

    def _value_type(self, kind: str) -> str:
        file, index, many = self.outtype, self._values_seen, self.shape.query_heads_per_key_head >= 4
        if file == "q2_k":
            kind = "Q4_K" if many else "Q3_K"
        elif file == "q2_k_s" and many:
            kind = "Q4_K"
        elif file == "q3_k_m":
            kind = "Q5_K" if index < 2 else "Q4_K"
        elif file == "q3_k_l" or (file in ("iq4_nl", "iq4_xs") and many):
            kind = "Q5_K"
        elif file in ("q4_k_m", "q5_k_m") and _more_bits(index, self.values):
            kind = "Q6_K"
        elif file == "q4_k_s" and index < 4:
            kind = "Q5_K"
        # llama.cpp counts Qwen2 of 80 blocks as its type 70B.
        if self.shape.architecture == "qwen2" and self.shape.blocks == 80 and kind in ("Q3_K", "Q4_K"):
            kind = "Q5_K"
        return "Q8_0" if self.shape.experts == 8 else kind

    def _down_type(self, kind: str, name: str) -> str:
        file, blocks = self.outtype, self.shape.blocks
        # With experts, several tensors of a block are of this kind.
        block = int(name.split(".")[1]) if self.shape.experts > 1 else self._downs_seen
        early = block < blocks // 8
        if file == "q2_k":
            return "Q3_K"
        if file == "q2_k_s" and early:
            return "Q4_K"
        if file == "q3_k_m":
            return "Q5_K" if block < blocks // 16 else "Q4_K"
        if file == "q3_k_l":
            return "Q5_K"
        if file in ("q4_k_m", "q5_k_m") and _more_bits(block, blocks):
            return "Q6_K"
        if early and (file == "q4_k_s" or (file in ("iq4_nl", "iq4_xs") and not self.has_imatrix)):
            return "Q5_K"
        if early and self.has_imatrix and file in ("q4_0", "q5_0"):
            return "Q4_1" if file == "q4_0" else "Q5_1"
        return kind


def _more_bits(index: int, count: int) -> bool:
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def _attention_output_type(kind: str, file: str, experts: int) -> str:
    if experts == 8:
        return "Q5_K" if file in ("q2_k", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq4_xs") else kind
    return {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}.get(file, kind)


def category(name: str) -> str | None:
    """The kind of a tensor that the rules distinguish."""
    if name in ("output.weight", "token_embd.weight"):
        return "output" if name == "output.weight" else "token_embd"
    return next((kind for part, kind in _CATEGORIES.items() if part in name), None)


def allows_quantization(name: str, shape: tuple[int, ...]) -> bool:
    """Whether llama-quantize quantizes a tensor at all. Outer dimensions of 1 do not count."""
    inner_first = list(reversed(shape))
    while inner_first and inner_first[-1] == 1:
        inner_first.pop()
    return len(inner_first) >= 2 and name.endswith("weight") and _NEVER.search(name) is None


def visiting_order(name: str) -> tuple[int, str]:
    """The key by which llama-quantize sorts tensors."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (int(match[1]) if match else -1, name)


def check_importance(outtype: str, types: Mapping[str, str], known: set[str] | None) -> None:
    """Raise UsageError if a tensor of a q2_k_s file becomes Q2_K without importance, as llama-quantize does."""
    if outtype != "q2_k_s":
        return
    for name, kind in types.items():
        if kind == "Q2_K" and name not in ("token_embd.weight", "output.weight") and (known is None or name not in known):
            lack = "needs an importance matrix" if known is None else f"needs the importance of {name}, which the imatrix lacks"
            raise UsageError(f"outtype q2_k_s {lack}: without it the file would be useless; give imatrix, or choose q2_k")
