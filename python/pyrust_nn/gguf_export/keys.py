"""The keys of a GGUF file: name, size, hyperparameters, as llama.cpp's converter writes them."""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf.constants import GGUFValueType

from pyrust_nn.gguf_export.layout import LINEAR_ATTENTION, TensorLayout
from pyrust_nn.gguf_export.tensor_types import OUTTYPES
from pyrust_nn.gguf_export.vocab import TokenizerField
from pyrust_nn.models.generation import usable_settings
from pyrust_nn.models.tiny import TINY_MODEL

logger = logging.getLogger(__name__)

# Time, height, width and unused: Qwen3.5's split of the rotary dimensions if its configuration has none.
_ROTARY_SECTIONS = [11, 11, 10, 0]


@dataclass(frozen=True)
class ModelLabel:
    """A model's names: `stem` for files, `title` for the key general.name (None: derived from the stem)."""

    stem: str
    title: str | None = None


def model_label(model: str, folder: Path) -> ModelLabel:
    """The names of a model or adapter: `<session> <step>` for a step's output, else the folder's name or the name on the hub."""
    if model == TINY_MODEL:
        return ModelLabel("tiny", "Pyrust-NN Tiny")
    if not Path(model).is_dir():
        return ModelLabel(model.rsplit("/", 1)[-1])
    step = folder.parent
    if folder.name in ("model", "adapter") and (step.parent / "session.json").is_file():
        return ModelLabel(f"{step.parent.name}-{step.name}", f"{step.parent.name} {step.name}")
    return ModelLabel(folder.name)


def add_metadata(writer: gguf.GGUFWriter, folder: Path, name: ModelLabel, kind: str) -> None:
    """Add name, size, license, tags and recommended sampling, from the model card, the file names and the tensors' sizes."""
    total, shared, expert, experts = writer.get_total_parameter_count()
    metadata = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(name=name.title),
        _model_card(folder),
        gguf.Metadata.load_hf_parameters(folder),
        None if name.title else Path(name.stem),
        total,
    )
    generation, _ = usable_settings(gguf.Metadata.load_generation_config(folder))
    metadata.sampling_top_k = generation.get("top_k")
    metadata.sampling_top_p = generation.get("top_p")
    metadata.sampling_min_p = generation.get("min_p")
    metadata.sampling_temp = generation.get("temperature")
    metadata.sampling_penalty_repeat = generation.get("repetition_penalty")
    if metadata.name is None:
        metadata.name = name.stem
    if metadata.size_label is None and total > 0:
        metadata.size_label = gguf.size_label(total, shared, expert, experts)

    writer.add_type(kind)
    if kind == gguf.GGUFType.ADAPTER:
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    metadata.set_gguf_meta_model(writer)


def _model_card(folder: Path) -> dict[str, Any]:
    try:
        return gguf.Metadata.load_model_card(folder)
    except Exception as cause:  # yaml's errors, for a hand-written README
        logger.warning("the model card %s cannot be read (%s); the GGUF file is written without it", folder / "README.md", cause)
        return {}


def add_hyperparameters(writer: gguf.GGUFWriter, layout: TensorLayout, outtype: str) -> None:
    """Add the hyperparameters from the model's configuration."""
    config = layout.config
    writer.add_block_count(layout.blocks)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    if (width := config.get("intermediate_size")) is not None:
        writer.add_feed_forward_length(width)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    rotary = _add_rotary(writer, config)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if layout.experts:
        writer.add_expert_count(layout.experts)
    if (used := config.get("num_experts_per_tok")) is not None:
        writer.add_expert_used_count(used)
    if (width := config.get("head_dim")) is not None:
        writer.add_key_length(width)
        writer.add_value_length(width)
    writer.add_file_type(OUTTYPES[outtype].id)
    if (width := config.get("moe_intermediate_size")) is not None:
        writer.add_expert_feed_forward_length(width)
    if (width := config.get("shared_expert_intermediate_size")) is not None:
        writer.add_expert_shared_feed_forward_length(width)
    if layout.architecture in LINEAR_ATTENTION:
        _add_linear_attention(writer, layout, rotary)


def _add_rotary(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> dict[str, Any]:
    rotary = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rotary.setdefault("rope_theta", config.get("rope_theta"))
    rotary.setdefault("rope_type", rotary.get("type"))
    kind, factor = rotary["rope_type"], rotary.get("factor")
    if kind == "linear" and factor is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(factor)
    elif kind == "yarn" and factor is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        # The default is the model's own length, as in transformers.
        original = rotary.get("original_max_position_embeddings") or config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        for name, add in (
            ("extrapolation_factor", writer.add_rope_scaling_yarn_ext_factor),
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if (value := rotary.get(name)) is not None:
                add(value)
    elif kind not in (None, "default"):
        logger.warning("llama.cpp has no rotary scaling of type %s for this model: answers to long contexts may be worse", kind)
    if (sections := rotary.get("mrope_section")) is not None:
        writer.add_rope_dimension_sections([*sections, 0, 0, 0, 0][:4])
    if rotary["rope_theta"] is not None:
        writer.add_rope_freq_base(rotary["rope_theta"])
    return rotary


def _add_linear_attention(writer: gguf.GGUFWriter, layout: TensorLayout, rotary: dict[str, Any]) -> None:
    """Add the keys of Qwen3.5's gated delta layers."""
    config, name = layout.config, gguf.MODEL_ARCH_NAMES[layout.architecture]
    if layout.blocks > layout.layers:
        writer.add_nextn_predict_layers(layout.blocks - layout.layers)
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    if (kinds := config.get("layer_types")) is not None:
        recurrent = [kind == "linear_attention" for kind in kinds] + [False] * (layout.blocks - layout.layers)
        writer.add_array(f"{name}.attention.recurrent_layers", recurrent)
    writer.add_full_attention_interval(config.get("full_attention_interval") or 4)
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    factor = rotary.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.25))
    writer.add_rope_dimension_count(int(width * factor))
    if "mrope_section" not in rotary:
        writer.add_rope_dimension_sections(_ROTARY_SECTIONS)


_SCALARS = {
    GGUFValueType.UINT32: "uint32",
    GGUFValueType.INT32: "int32",
    GGUFValueType.FLOAT32: "float32",
    GGUFValueType.BOOL: "bool",
    GGUFValueType.STRING: "string",
}


def plan_keys(writer: gguf.GGUFWriter) -> list[dict[str, Any]]:
    """The writer's keys in the form of the plan."""
    keys = []
    for key, value in writer.kv_data[0].items():
        if isinstance(value.value, TokenizerField):
            keys.append({"key": key, "value": value.value.name})
        elif value.type == GGUFValueType.ARRAY:
            kind = value.sub_type or GGUFValueType.get_type(value.value[0])
            keys.append({"key": key, "value": {_SCALARS[kind] + "s": list(value.value)}})
        elif value.type == GGUFValueType.FLOAT32:
            # Rounded here, so that the reader of the JSON cannot round differently.
            rounded = struct.unpack("<f", struct.pack("<f", value.value))[0]
            keys.append({"key": key, "value": {"float32": rounded}})
        else:
            keys.append({"key": key, "value": {_SCALARS[value.type]: value.value}})
    return keys
