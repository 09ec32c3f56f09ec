"""Maps each tensor of a Qwen model to a GGUF file: its name, its shape, and the order of its rows and columns.

The rules are those of llama.cpp's converter (conversion/qwen.py of llama.cpp). Names come from the `gguf` package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf

from pyrust_nn import InputError, ModelError
from pyrust_nn.gguf_export.tensor_types import OUTTYPES, TENSOR_TYPES

# llama.cpp's architectures by `model_type` of the text model's configuration.
ARCHITECTURES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "qwen3_5": gguf.MODEL_ARCH.QWEN35,
    "qwen3_5_text": gguf.MODEL_ARCH.QWEN35,
    "qwen3_5_moe": gguf.MODEL_ARCH.QWEN35MOE,
    "qwen3_5_moe_text": gguf.MODEL_ARCH.QWEN35MOE,
}
LINEAR_ATTENTION = (gguf.MODEL_ARCH.QWEN35, gguf.MODEL_ARCH.QWEN35MOE)

# (first, count) of rows or columns, in their order in the GGUF tensor.
Ranges = list[tuple[int, int]]

_EXPERT = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.(down_proj|gate_proj|up_proj)\.weight")
# Tensors of the block that predicts a further token. llama.cpp numbers it after the others.
_NEXT_TOKEN_NAMES = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}
_NEXT_TOKEN_TENSORS = (
    gguf.MODEL_TENSOR.NEXTN_EH_PROJ,
    gguf.MODEL_TENSOR.NEXTN_ENORM,
    gguf.MODEL_TENSOR.NEXTN_HNORM,
    gguf.MODEL_TENSOR.NEXTN_SHARED_HEAD_NORM,
)
# The tensors that every block needs: at least one name of each group.
_REQUIRED_IN_BLOCK = (
    ("attn_norm",),
    ("attn_q", "attn_qkv"),
    ("attn_k", "attn_qkv"),
    ("attn_v", "attn_qkv"),
    ("attn_output", "ssm_out"),
    ("ffn_norm", "post_attention_norm"),
    ("ffn_gate", "ffn_gate_exps"),
    ("ffn_up", "ffn_up_exps"),
    ("ffn_down", "ffn_down_exps"),
)


@dataclass(frozen=True)
class TensorMapping:
    """A tensor of the GGUF file as rows and columns of a stored tensor (None: all of them, in their order).

    A stored tensor counts as a matrix whose columns are its last dimension. `add` is added to every element. `decay`
    means x → -exp(x), which converts Mamba's A_log to A.
    """

    name: str
    shape: tuple[int, ...]
    rows: Ranges | None = None
    columns: Ranges | None = None
    add: float | None = None
    decay: bool = False


class TensorLayout:
    """Names and shapes of one model's tensors."""

    def __init__(self, config: Mapping[str, Any], next_token_blocks: int = 0) -> None:
        """`config` is the text model's configuration from transformers.

        next_token_blocks: the number of blocks that predict further tokens (Qwen3.5's multi-token prediction).
        """
        self.config = config
        self.architecture = architecture(config)
        self.layers: int = config["num_hidden_layers"]
        self.blocks = self.layers + next_token_blocks
        self.experts: int = config.get("num_local_experts") or config.get("num_experts") or 0
        self._names = gguf.get_tensor_name_map(self.architecture, self.blocks)
        for tensor in _NEXT_TOKEN_TENSORS:  # this version of gguf does not list them for Qwen3.5
            for block in range(self.layers, self.blocks):
                for name in self._names.block_mappings_cfg[tensor]:
                    self._names.mapping[name.format(bid=block)] = tensor, gguf.TENSOR_NAMES[tensor].format(bid=block)

    def text_model_name(self, stored: str) -> str | None:
        """The name of a stored tensor within the text model; None if it does not belong into a GGUF file."""
        if "visual." in stored or stored.endswith(".rotary_emb.inv_freq"):
            return None
        name = stored.replace("language_model.", "")
        if name.startswith("model.mtp."):
            name = name.removeprefix("model.")
        if not name.startswith("mtp."):
            return name
        if match := re.fullmatch(r"mtp\.layers\.(\d+)\.(.+)", name):
            return f"model.layers.{self.layers + int(match[1])}.{match[2]}"
        _, kind, end = name.split(".", 2)
        return f"model.layers.{self.layers}.{_NEXT_TOKEN_NAMES.get(kind, kind)}.{end}"

    def gguf_name(self, name: str) -> str:
        """The GGUF name of a tensor of the text model. Raises ModelError if there is none."""
        found = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(
                f"tensor {name} has no place in a GGUF file of architecture {gguf.MODEL_ARCH_NAMES[self.architecture]}; "
                "only models of plain transformers can be converted"
            )
        return found

    def expert(self, name: str) -> tuple[str, int, str] | None:
        """Stem, index and projection of the matrix of a separately stored expert; None for other tensors."""
        match = _EXPERT.fullmatch(name)
        return (match[1], int(match[2]), match[3]) if match else None

    def mappings(self, name: str, shape: tuple[int, ...]) -> list[TensorMapping]:
        """The GGUF tensors of a tensor of the text model. `shape` is the stored one, outermost dimension first."""
        if re.search(r"\.experts\.gate_up_proj(\.weight)?$", name):
            return self._split_gate_up(name, shape)
        if name.endswith(".experts.down_proj"):
            name += ".weight"
        if self.architecture not in LINEAR_ATTENTION:
            return [TensorMapping(self.gguf_name(name), shape)]

        rows, columns = self._value_head_order(name)
        add = 1.0 if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight") else None
        decay = name.endswith(".A_log")
        if name.endswith(".dt_bias"):
            name = name.removesuffix("dt_bias") + "dt_proj.bias"
        elif "conv1d" in name:
            shape = tuple(size for size in shape if size != 1)
        return [TensorMapping(self.gguf_name(name), shape, rows, columns, add, decay)]

    def _split_gate_up(self, name: str, shape: tuple[int, ...]) -> list[TensorMapping]:
        """Split fused experts, [experts, gate rows then up rows, columns], into one tensor for gate and one for up."""
        experts, both, columns = shape
        half = both // 2
        stem = name.removesuffix(".weight").removesuffix("gate_up_proj")
        return [
            TensorMapping(
                self.gguf_name(f"{stem}{projection}.weight"),
                (experts, half, columns),
                rows=[(expert * both + start, half) for expert in range(experts)],
            )
            for projection, start in (("gate_proj", 0), ("up_proj", half))
        ]

    def _value_head_order(self, name: str) -> tuple[Ranges | None, Ranges | None]:
        """Rows and columns of a gated delta layer in the order of llama.cpp's value heads.

        In the stored order the value heads of a key head are adjacent (k0v0 k0v1 k1v0 k1v1); llama.cpp repeats all key
        heads (k0v0 k1v0 k0v1 k1v1). See https://github.com/ggml-org/llama.cpp/pull/19468.
        """
        keys, values = self.config.get("linear_num_key_heads", 0), self.config.get("linear_num_value_heads", 0)
        if "linear_attn." not in name or keys == values or not keys or not values:
            return None, None
        per_key = values // keys
        queries_and_keys = 2 * keys * self.config["linear_key_head_dim"]
        width = self.config["linear_value_head_dim"]

        def heads(width: int, start: int = 0) -> Ranges:
            order = [key * per_key + value for value in range(per_key) for key in range(keys)]
            return [(start + head * width, width) for head in order]

        if ".in_proj_qkv." in name or ".conv1d" in name:
            return [(0, queries_and_keys), *heads(width, queries_and_keys)], None
        if ".in_proj_z." in name:
            return heads(width), None
        if ".in_proj_a." in name or ".in_proj_b." in name:
            return heads(1), None
        if name.endswith((".A_log", ".dt_bias")):
            return None, heads(1)
        if ".out_proj." in name:
            return None, heads(width)
        return None, None


def architecture(config: Mapping[str, Any]) -> gguf.MODEL_ARCH:
    """llama.cpp's architecture of a model. Raises ModelError for models that are not causal language models of the Qwen family."""
    kind = config.get("model_type")
    classes = config.get("architectures") or []
    is_language_model = all(name.endswith(("ForCausalLM", "ForConditionalGeneration")) for name in classes)
    if kind not in ARCHITECTURES or not is_language_model:
        raise ModelError(
            f"a model of type {kind} ({', '.join(classes) or 'no architecture named'}) cannot be converted to GGUF here; "
            f"the types that can are {', '.join(ARCHITECTURES)}, as causal language models"
        )
    return ARCHITECTURES[kind]


def next_token_blocks(stored: list[str]) -> int:
    """The number of multi-token prediction blocks among these tensor names."""
    found = (re.match(r"(?:model\.)?mtp\.layers\.(\d+)\.", name) for name in stored)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def tensor_type(name: str, shape: tuple[int, ...], outtype: str) -> str:
    """The type of a tensor in the file.

    Small and sensitive tensors stay float32. Rows whose length is not a multiple of the block size become float16.
    """
    keeps = re.fullmatch(r"blk\.\d+\.(ffn_gate_inp|ffn_gate_inp_shexp|ssm_conv1d)\.weight", name)
    is_norm = name.endswith("_norm.weight")
    if len(shape) <= 1 or is_norm or keeps or not name.endswith((".weight", ".lora_a", ".lora_b")):
        return "F32"
    requested = TENSOR_TYPES[OUTTYPES[outtype].tensor_type]
    return requested.name if shape[-1] % requested.block == 0 else "F16"


def check_complete(names: set[str], layout: TensorLayout, folder: Any) -> None:
    """Raise ModelError if a model's folder lacks tensors that the GGUF file needs."""
    missing = [] if "token_embd.weight" in names else ["the embedding"]
    if "output.weight" not in names and not layout.config.get("tie_word_embeddings"):
        missing.append("the output matrix (lm_head.weight)")
    if "output_norm.weight" not in names:
        missing.append("the last norm")
    for block in range(layout.blocks):
        for group in _REQUIRED_IN_BLOCK:
            if not any(f"blk.{block}.{name}.weight" in names for name in group):
                missing.append(f"{group[0]} of layer {block}")
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(f"the weights in {folder} lack {some}; copy or download the model again")


def check_shapes(shapes: Mapping[str, tuple[int, ...]], layout: TensorLayout, folder: Any) -> None:
    """Raise InputError for tensors whose shape is not what the configuration says: llama.cpp would refuse the file, or misread it."""
    config = layout.config
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    keys = (config.get("num_key_value_heads") or heads) * head
    wide = config.get("intermediate_size")
    embedding = shapes["token_embd.weight"]
    expected = {"token_embd.weight": (embedding[0], hidden), "output.weight": (embedding[0], hidden), "output_norm.weight": (hidden,)}
    if embedding[0] != config["vocab_size"]:
        raise InputError(
            f"the embedding in {folder} has {embedding[0]} tokens, but its config.json says vocab_size {config['vocab_size']}; "
            "use the config.json that belongs to the weights"
        )
    for block in range(layout.layers):
        stem = f"blk.{block}."
        if layout.architecture not in LINEAR_ATTENTION:
            expected |= {f"{stem}attn_q.weight": (heads * head, hidden), f"{stem}attn_output.weight": (hidden, heads * head)}
        expected |= {f"{stem}attn_k.weight": (keys, hidden), f"{stem}attn_v.weight": (keys, hidden)}
        expected |= {f"{stem}ffn_{name}.weight": (wide, hidden) for name in ("gate", "up")} | {f"{stem}ffn_down.weight": (hidden, wide)}
    for name, shape in expected.items():
        if (found := shapes.get(name, shape)) != shape:
            raise InputError(
                f"the weights in {folder} do not fit its config.json: {name} would have the shape {shape}, and has {found}; "
                "use the config.json that belongs to them"
            )


def check_blocks(stored: list[str], layout: TensorLayout, folder: Any) -> None:
    """Raise InputError if the weights have more layers than the configuration says."""
    blocks = {
        int(match[1]) for name in stored if (match := re.match(r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d+)\.", name))
    }
    if blocks and max(blocks) >= layout.layers:
        raise InputError(
            f"the weights in {folder} have a layer {max(blocks)}, but its config.json says num_hidden_layers {layout.layers}; "
            "use the config.json that belongs to them"
        )
