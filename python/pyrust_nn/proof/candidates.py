"""What is proven: GGUF files, or a folder with a model or an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pyrust_nn import InputError
from pyrust_nn.models.adapter_folder import is_adapter
from pyrust_nn.models.loading import stored_dtype
from pyrust_nn.models.merging import merged_model
from pyrust_nn.models.model_folder import quantization
from pyrust_nn.proof.reference import plain_weights
from pyrust_nn.proof.row_bounds import DOUBLE, STORED


def gguf_files(candidate: str) -> list[Path]:
    """The GGUF files that a candidate names: itself, or those in the folder of a step; none for a folder with a model.

    Raises InputError for another file.
    """
    path = Path(candidate)
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{path} is not a GGUF file; give a .gguf file, a folder with a model or an adapter, or a session's step")
        return [path]
    if (path / "config.json").is_file() or is_adapter(candidate):
        return []
    return sorted(path.glob("*.gguf"))


def folder_type(folder: Path) -> str:
    """The type of a model's folder: nf4, fp4 or int8, or the dtype of most of its weights as f32, f16, bf16. An adapter is f32."""
    if is_adapter(str(folder)):
        return "f32"
    if (stored := quantization(folder)) is not None:
        return str(stored.get("bnb_4bit_quant_type", "fp4")) if stored.get("load_in_4bit") else "int8"
    return STORED.get(stored_dtype(str(folder)), "F32").lower()


def adapter_weights(folder: Path, base_model: str | None) -> dict[str, torch.Tensor]:
    """The weights of an adapter merged with its base, in float32."""
    return plain_weights(merged_model(str(folder), torch.device("cpu"), torch.float32, base_model))


def unpacked_weights(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The weights of a model that bitsandbytes quantized, in float32, and the type of each that is not plain float32."""
    import bitsandbytes as bnb

    weights: dict[str, torch.Tensor] = {}
    kinds: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            packed: Any = module.weight
            weights[f"{name}.weight"] = bnb.functional.dequantize_4bit(packed.data, packed.quant_state).float().cpu()
            kinds[f"{name}.weight"] = packed.quant_state.quant_type.upper() + (DOUBLE if packed.quant_state.nested else "")
        elif isinstance(module, bnb.nn.Linear8bitLt):
            packed = module.weight
            codes, scales = (packed.CB, packed.SCB) if packed.CB is not None else (packed.data, module.state.SCB)
            weights[f"{name}.weight"] = (codes.float() * scales[:, None].float() / 127).cpu()
            kinds[f"{name}.weight"] = "INT8"
    for name, tensor in model.named_parameters():
        if name not in weights:
            weights[name] = tensor.detach().float().cpu()
            kinds[name] = STORED.get(tensor.dtype, "F32")
    return weights, kinds
