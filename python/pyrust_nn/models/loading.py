"""Loads models of the Qwen family (1.5, 2, 2.5, 3, 3.5; dense and mixture of experts).

A model is loaded from a folder (see `model_folder`) by its own configuration, from safetensors, without remote code and
without the network. Any problem with a model is a ModelError that says what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn import ModelError, _core
from pyrust_nn.models.adapter_folder import adapter_base, checked_adapter_folder, is_adapter
from pyrust_nn.models.model_folder import checked_model_folder, first_line, quantization
from pyrust_nn.models.stack import add_parents, parent_folders

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def load_model(
    model: str,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    load_in_4bit: bool = False,
    quantization_config: Any = None,
) -> PreTrainedModel:
    """A causal language model, in evaluation mode, on `device`.

    For an adapter it is the base with the frozen adapter and its parents beside it (PeftModel). A quantized folder keeps
    its own dtypes, whatever `dtype` says; for others None means the dtype in which the weights are stored.
    `load_in_4bit` holds the linear layers in nf4 (QLoRA) and computes with them in `dtype`. Another
    `quantization_config` (transformers') is for plain whole models.

    Raises ModelError if the model cannot be used.
    """
    if is_adapter(model):
        return load_with_adapter(checked_adapter_folder(model), device, dtype, load_in_4bit)

    folder = checked_model_folder(model)
    stored = quantization(folder)
    if stored is not None and load_in_4bit and not stored.get("load_in_4bit"):
        raise ModelError(f"{folder} is already quantized, and not to 4 bits; use load_in_4bit with the plain model")
    if load_in_4bit and stored is None:
        quantization_config = nf4_config(dtype)

    options: dict[str, Any] = {"dtype": "auto" if dtype is None or stored is not None else dtype}
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if stored is not None or quantization_config is not None or device.type != "cpu":
        options["device_map"] = {"": device}
    return _from_folder(folder, device, options)


def _from_folder(folder: Path, device: torch.device, options: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    _core.status("loading the model")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError as cause:
        raise ModelError(
            f"the model in {folder} does not fit into the memory of {device}; use a smaller or a quantized one, or load_in_4bit for LoRA"
        ) from cause
    except Exception as cause:
        raise ModelError(
            f"the model in {folder} cannot be loaded: {first_line(cause)}; "
            "if one of its files is truncated, copy or download the model again"
        ) from cause
    if missing := sorted(report["missing_keys"]):
        # transformers initializes them randomly and only warns.
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(f"the model in {folder} lacks {len(missing)} of its weights ({some}); copy or download the model again")
    return model


def load_with_adapter(folder: Path, device: torch.device, dtype: torch.dtype | None, load_in_4bit: bool = False) -> PreTrainedModel:
    """The base of the adapter in `folder`, with the frozen adapter and its parents. Raises ModelError if they do not fit."""
    from peft import PeftModel
    from transformers import GenerationConfig

    base = adapter_base(str(folder))
    parents = parent_folders(folder)
    model = load_model(base, device=device, dtype=dtype, load_in_4bit=load_in_4bit)
    if (folder / "generation_config.json").is_file():
        # The adapter was trained with stop tokens that its base may not have.
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False, torch_device=str(device))
        add_parents(adapted, parents, trainable=False)
        return adapted.eval()
    except Exception as cause:
        raise ModelError(f"adapter {folder} does not fit its base model {base}: {first_line(cause)}") from cause


def nf4_config(compute_dtype: torch.dtype | None) -> Any:
    """bitsandbytes' nf4, the 4-bit format of QLoRA (arXiv 2305.14314): blocks of 64 weights, 16 levels."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype)


def stored_dtype(model: str) -> torch.dtype:
    """The dtype in which a model's weights are stored, by its configuration."""
    import torch
    from transformers import AutoConfig

    folder = checked_model_folder(model)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def position_limit(config: PretrainedConfig) -> int | None:
    """The most tokens that prompt and answer may have together, scaled rotary embeddings included; None: no limit."""
    config = config.get_text_config()
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if limit is not None and rope.get("factor") and rope.get("original_max_position_embeddings"):
        limit = max(limit, int(rope["factor"] * rope["original_max_position_embeddings"]))
    return limit
