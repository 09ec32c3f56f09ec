"""The model in a GGUF file, in transformers: its configuration, positions and weights come from the file alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pyrust_nn.models.loading import import_model_class
from pyrust_nn.models.model_folder import first_line
from pyrust_nn.proof.gguf_file import GgufFile
from pyrust_nn.proof.layers import LayerNotRunError
from pyrust_nn.proof.tensor_names import MODEL_TYPES, TensorNames, check_architecture


class IncompleteGgufError(Exception):
    """The file lacks what llama.cpp needs to load it; the text names it."""


def gguf_config(file: GgufFile) -> Any:
    """The configuration that the file's keys describe, with llama.cpp's defaults for absent ones.

    Raises LayerNotRunError for an architecture that is not compared, IncompleteGgufError if a key that llama.cpp needs is absent.
    """
    check_architecture(file.architecture)

    def needed(name: str) -> Any:
        if (value := file.setting(name)) is None:
            raise IncompleteGgufError(f"the key {file.architecture}.{name} is absent")
        return value

    if "token_embd.weight" not in file.tensors:
        raise IncompleteGgufError("the tensor token_embd.weight is absent")
    if needed("block_count") > len(file.tensors):
        raise IncompleteGgufError(f"it has {len(file.tensors)} tensors, and its keys say {needed('block_count')} blocks")
    heads, hidden = needed("attention.head_count"), needed("embedding_length")
    values: dict[str, Any] = {
        "vocab_size": file.shape("token_embd.weight")[0],
        "hidden_size": hidden,
        "num_hidden_layers": needed("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.setting("attention.head_count_kv", heads),
        "head_dim": file.setting("attention.key_length", hidden // heads),
        "intermediate_size": file.setting("feed_forward_length"),
        "max_position_embeddings": needed("context_length"),
        "rms_norm_eps": needed("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope(file),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "use_sliding_window": False,
    }
    if file.architecture in ("qwen3", "qwen3moe"):
        values["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    if experts := file.setting("expert_count"):
        values |= {
            "num_experts": experts,
            "num_experts_per_tok": needed("expert_used_count"),
            "moe_intermediate_size": needed("expert_feed_forward_length"),
            "norm_topk_prob": file.architecture == "qwen3moe",  # fixed in llama.cpp
        }
        if (shared := file.setting("expert_shared_feed_forward_length")) is not None:
            values["shared_expert_intermediate_size"] = shared
    return AutoConfig.for_model(MODEL_TYPES[file.architecture], **{name: value for name, value in values.items() if value is not None})


def rope(file: GgufFile) -> dict[str, Any]:
    """The rotary positions in transformers' terms. Raises LayerNotRunError for a scaling that is not compared."""
    base = {"rope_theta": file.setting("rope.freq_base", 10000.0)}
    kind = file.setting("rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default", **base}
    if kind not in ("linear", "yarn"):
        raise LayerNotRunError(f"rotary scaling of type {kind} is not compared")
    scaled = {"rope_type": kind, "factor": file.setting("rope.scaling.factor", 1.0), **base}
    if kind == "yarn":
        scaled["original_max_position_embeddings"] = file.setting("rope.scaling.original_context_length", file.setting("context_length"))
        for ours, theirs in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow"), ("yarn_attn_factor", "attention_factor")):
            if (value := file.setting(f"rope.scaling.{ours}")) is not None:
                scaled[theirs] = value
    return scaled


def gguf_model(file: GgufFile, device: torch.device) -> PreTrainedModel:
    """The file's model in float32, in evaluation mode. A bias that the file lacks is zero, as in llama.cpp.

    Raises LayerNotRunError if it is not compared, IncompleteGgufError if llama.cpp could not load the file.
    """
    try:
        config = gguf_config(file)
        import_model_class(config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as cause:
        raise IncompleteGgufError(f"its keys describe no model: {first_line(cause)}") from cause
    names = TensorNames(file.architecture, config.num_hidden_layers)
    weights = {}
    for parameter, tensor in model.state_dict().items():
        if parameter == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = names.of(parameter)
        if absent := [name for name in stored if name not in file.tensors]:
            if not parameter.endswith(".bias"):
                raise IncompleteGgufError(f"the tensor {absent[0]} is absent")
            weights[parameter] = torch.zeros(tensor.shape)
            continue
        numbers = torch.cat([file.decoded(name) for name in stored], dim=-2) if len(stored) > 1 else file.decoded(stored[0])
        if tuple(numbers.shape) != tuple(tensor.shape):
            if numbers.numel() != tensor.numel():
                raise IncompleteGgufError(
                    f"the tensor {stored[0]} has the shape {tuple(numbers.shape)}; the keys say {tuple(tensor.shape)}"
                )
            numbers = numbers.reshape(tensor.shape)
        weights[parameter] = numbers
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    rebuild_rotary(model)
    return model.to(device).eval()


def rebuild_rotary(model: PreTrainedModel) -> None:
    """Compute the rotary frequencies, which are no parameters and were left without numbers."""
    for module in model.modules():
        if "inv_freq" in dict(module.named_buffers(recurse=False)):
            fresh = type(module)(module.config)  # type: ignore[operator]
            module.load_state_dict(fresh.state_dict(), strict=False)
            for name, buffer in fresh.named_buffers(recurse=False):
                module.register_buffer(name, buffer, persistent=False)
            module.attention_scaling = fresh.attention_scaling  # type: ignore[assignment]
