"""Loads models of the Qwen family (1.5, 2, 2.5, 3, 3.5; dense and mixture of experts).

A model is loaded from a folder (see `model_folder`) by its own configuration, from safetensors, without remote code and
without the network. Any problem with a model is a ModelError that says what to do.
"""

from __future__ import annotations

import json
import logging
import re
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn import InputError, ModelError, _core
from pyrust_nn._runtime.imports import fast_imports
from pyrust_nn.models.adapter_folder import adapter_base, checked_adapter_folder, is_adapter
from pyrust_nn.models.adapter_tokens import check_adapter_tokens
from pyrust_nn.models.adapters import attach_adapter, read_adapter
from pyrust_nn.models.generation import read_generation_config
from pyrust_nn.models.lineage import compare_base
from pyrust_nn.models.model_folder import checked_model_folder, first_line, quantization, weight_files
from pyrust_nn.models.multimodal import KEY_MAPPING, language_config
from pyrust_nn.models.stack import add_parents, parent_folders

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


logger = logging.getLogger(__name__)


def load_model(
    model: str,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    load_in_4bit: bool = False,
    quantization_config: Any = None,
    base_model: str | None = None,
) -> PreTrainedModel:
    """A causal language model, in evaluation mode, on `device`.

    For an adapter it is the base with the frozen adapter and its parents beside it (PeftModel). A quantized folder keeps
    its own dtypes, whatever `dtype` says; for others None means the dtype in which the weights are stored.
    `load_in_4bit` holds the linear layers in nf4 (QLoRA) and computes with them in `dtype`. Another
    `quantization_config` (transformers') is for plain whole models. `base_model` replaces the base that an adapter names.

    Raises ModelError if the model cannot be used.
    """
    if is_adapter(model):
        return load_with_adapter(checked_adapter_folder(model), device, dtype, load_in_4bit, base_model)

    folder = checked_model_folder(model)
    stored = quantization(folder)
    if stored is not None and load_in_4bit and not stored.get("load_in_4bit"):
        raise ModelError(f"{folder} is already quantized, and not to 4 bits; use load_in_4bit with the plain model")
    if load_in_4bit and stored is None:
        quantization_config = four_bit_config(dtype)

    if dtype is None and stored is None:
        dtype = stored_dtype(str(folder))
    options: dict[str, Any] = {"dtype": "auto" if stored is not None else dtype}
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if stored is not None or quantization_config is not None or device.type != "cpu":
        options["device_map"] = {"": device}
    return _from_folder(folder, device, options)


def import_model_class(config: PretrainedConfig) -> None:
    """Import the module of transformers that has the class for `config`, before `AutoModelForCausalLM` does so more slowly."""
    with fast_imports():
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def _from_folder(folder: Path, device: torch.device, options: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    _core.status("loading the model")
    if (generation := read_generation_config(folder)) is not None:
        options["generation_config"] = generation  # transformers would fail on one that cannot be used
    try:
        whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if (language := language_config(whole)) is not None:
            logger.info("%s is of type %s: its language part is loaded as %s", folder, whole.model_type, language.model_type)
            options |= {"config": language, "key_mapping": KEY_MAPPING}
        import_model_class(language or whole)
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
    except ModelError:
        raise
    except Exception as cause:
        if "size mismatch" in str(cause) or "ignore_mismatched_sizes" in str(cause):
            raise InputError(
                f"the weights in {folder} do not have the shapes that its config.json says; use the config.json that belongs to them"
            ) from cause
        raise ModelError(
            f"the model in {folder} cannot be loaded: {first_line(cause)}; "
            "if one of its files is truncated, copy or download the model again"
        ) from cause
    if missing := sorted(report["missing_keys"]):
        # transformers initializes them randomly and only warns.
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(f"the model in {folder} lacks {len(missing)} of its weights ({some}); copy or download the model again")
    _check_unused(sorted(report["unexpected_keys"]), model.config, folder)
    return model


def _check_unused(names: list[str], config: PretrainedConfig, folder: Path) -> None:
    """Raise InputError if the configuration leaves layers out whose weights are there; other weights that are not loaded are named."""
    blocks = {int(match[1]) for name in names if (match := re.search(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.", name)) and "mtp" not in name}
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if layers is not None and (beyond := sorted(block for block in blocks if block >= layers)) and not _is_vision(names, beyond[0]):
        raise InputError(
            f"the weights in {folder} have a layer {beyond[-1]}, but its config.json says num_hidden_layers {layers}; "
            "use the config.json that belongs to them"
        )
    if names:
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        what = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
        logger.info("in %s, %s not part of this model and not loaded (%s)", folder, what, some)


def _is_vision(names: list[str], block: int) -> bool:
    own = [name for name in names if re.search(rf"(?:^|\.)(?:layers|h|blocks)\.{block}\.", name)]
    return all("visual" in name or "vision" in name for name in own)


def load_with_adapter(
    folder: Path, device: torch.device, dtype: torch.dtype | None, load_in_4bit: bool = False, base_model: str | None = None
) -> PreTrainedModel:
    """The base of the adapter in `folder`, with the frozen adapter and its parents. Raises InputError if they do not fit."""
    base = adapter_base(str(folder), base_model)
    parents = parent_folders(folder)
    base_folder = checked_model_folder(base)
    adapter = read_adapter(folder, base_folder)  # refused before the base is loaded
    compare_base(folder, base, given=base_model is not None)
    model = load_model(base, device=device, dtype=dtype, load_in_4bit=load_in_4bit)
    if (generation := read_generation_config(folder)) is not None:
        # The adapter was trained with stop tokens that its base may not have.
        model.generation_config = generation
    adapted: Any = attach_adapter(model, adapter)
    check_adapter_tokens(folder, base_folder, adapted)
    add_parents(adapted, parents, base_folder, trainable=False)
    return adapted.eval()


def freeze_quantized(model: PreTrainedModel) -> None:
    """Freeze a quantized model for an adapter, with its norms and biases in float32.

    peft's `prepare_model_for_kbit_training` converts the embedding and the output matrix too: 4.3 GB instead of 2.2 in a model of 7 B.
    """
    import torch

    for parameter in model.parameters():
        parameter.requires_grad = False
        if parameter.dim() == 1 and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def four_bit_config(compute_dtype: torch.dtype | None, quant_type: str = "nf4", double_quant: bool = False) -> Any:
    """bitsandbytes' 4-bit formats of QLoRA (arXiv 2305.14314): blocks of 64 weights with a scale, 16 levels (nf4 or fp4).

    double_quant: the scales are quantized too, in blocks of 256, to 8 bits.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def stored_dtype(model: str) -> torch.dtype:
    """The dtype in which most of a model's weights are stored, by their files: configurations are often wrong about it."""
    import torch

    folder = checked_model_folder(model)
    names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
    counts: Counter[str] = Counter()
    for file in weight_files(folder):
        for entry in _header(file).values():
            start, end = entry["data_offsets"]
            counts[entry["dtype"]] += end - start
    counts = Counter({dtype: size for dtype, size in counts.items() if dtype in names})
    return names[counts.most_common(1)[0][0]] if counts else torch.float32


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model's folder, from the headers of its files."""
    return {name: tuple(entry["shape"]) for file in weight_files(folder) for name, entry in _header(file).items()}


def _header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file without its metadata."""
    with file.open("rb") as stored:
        (length,) = struct.unpack("<Q", stored.read(8))
        header: dict[str, Any] = json.loads(stored.read(length))
    header.pop("__metadata__", None)
    return header


def position_limit(config: PretrainedConfig) -> int | None:
    """The most tokens that prompt and answer may have together, scaled rotary embeddings included; None: no limit."""
    config = config.get_text_config()
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if limit is not None and rope.get("factor") and rope.get("original_max_position_embeddings"):
        limit = max(limit, int(rope["factor"] * rope["original_max_position_embeddings"]))
    return limit
