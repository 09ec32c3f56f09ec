"""Reads adapters of any tool and attaches them to a model.

Rust reads an adapter into one canonical form (`_core.read_adapter`): PEFT's names for the text model, PEFT's configuration,
the rank and the scale of each low-rank pair. All tasks start from it. PEFT computes; whatever it would leave unused, or
would have to invent, is an error.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn import InputError, _core
from pyrust_nn.files import write_json
from pyrust_nn.models.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_base, recorded_base
from pyrust_nn.models.lora_pairs import check_rebuildable
from pyrust_nn.models.model_folder import first_line, local_folder, model_folder

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

PREFIX = "base_model.model."
# What a class has instead of the text model's `model.`; see src/adapter/forms.rs.
_CLASS_PREFIXES = ("model.language_model.", "language_model.model.", "transformer.", "")


@dataclass(frozen=True)
class Adapter:
    """An adapter in canonical form; see src/adapter/reading.rs."""

    folder: Path
    settings: dict[str, Any]
    """PEFT's adapter_config.json."""
    converted: bool
    """Whether its files have another form, so that they must not be copied."""
    modules: list[dict[str, Any]]
    """`module`, `rank`, `alpha` and `scale` of each low-rank pair."""
    tensors: list[dict[str, Any]]
    """`name`, `file`, `stored` (its name in the file), `shape` and `transpose` of each tensor."""

    def load_tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by their canonical names."""
        from safetensors import safe_open

        found = {}
        for file in {tensor["file"] for tensor in self.tensors}:
            with safe_open(file, framework="pt") as stored:
                for tensor in self.tensors:
                    if tensor["file"] == file:
                        value = stored.get_tensor(tensor["stored"])
                        found[tensor["name"]] = value.T.contiguous() if tensor["transpose"] else value
        return {tensor["name"]: found[tensor["name"]] for tensor in self.tensors}

    def write(self, folder: Path) -> None:
        """Write the canonical form as PEFT's files."""
        from safetensors.torch import save_file

        write_json(folder / ADAPTER_CONFIG, self.settings)
        save_file(self.load_tensors(), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: Path, base: Path | None) -> Adapter:
    """Read the adapter in `folder`, checked against the folder of its base if that is known.

    Raises InputError for tensors that fit nothing or are missing.
    """
    reading = _core.read_adapter(folder, base)
    for finding in reading.pop("findings"):
        logger.info("adapter %s: %s", folder, finding)
    return Adapter(folder, **reading)


def known_base_folder(path: str, base_model: str | None) -> Path | None:
    """The folder of an adapter's base if it is on this machine; None otherwise, unless `base_model` is given."""
    if base_model:
        return model_folder(adapter_base(path, base_model))
    named = recorded_base(model_folder(path))
    return local_folder(named) if named else None


def attach_adapter(
    model: PreTrainedModel | PeftModel, adapter: Adapter, *, name: str = "default", trainable: bool = False, dropout: float | None = None
) -> PeftModel:
    """Attach an adapter to a model, or to a PeftModel that has others. Its weights are those of the adapter, all of them.

    trainable: whether it is trained further. dropout: instead of the adapter's own.

    Raises InputError if PEFT has no place for a tensor, or lacks one.
    """
    from peft import PeftConfig, PeftModel
    from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
    from peft.utils.save_and_load import set_peft_model_state_dict

    if adapter.settings.get("peft_type") == "LORA":
        check_rebuildable(adapter.settings, adapter.folder, quantized=bool(getattr(model, "is_quantized", False)))
    settings, tensors = _as_in(model, adapter)
    if not isinstance(model, PeftModel):
        _resize_embeddings(model, adapter, tensors)
    try:
        config: Any = PeftConfig.from_peft_type(**PeftConfig.check_kwargs(**settings))
        if dropout is not None:
            config.lora_dropout = dropout
        config.inference_mode = not trainable
        if isinstance(model, PeftModel):
            adapted = model
            adapted.add_adapter(name, config)
        else:
            kind = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)
            adapted = kind(model, config, adapter_name=name)
        loaded = set_peft_model_state_dict(adapted, tensors, adapter_name=name)
    except KeyError as cause:
        raise InputError(f"adapter {adapter.folder} is incomplete: it has no tensor {cause}; copy it again or train it again") from cause
    except Exception as cause:
        raise InputError(f"adapter {adapter.folder} does not fit its base model: {first_line(cause)}") from cause
    own = [key for key in loaded.missing_keys if f".{name}" in key and _is_trained(adapted, key)]
    for what, keys in (("has tensors for which the model has no place", loaded.unexpected_keys), ("lacks tensors", own)):
        if keys:
            some = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
            raise InputError(
                f"adapter {adapter.folder} does not fit its base model: it {what} ({some}); "
                "give the model that it was trained on as base_model"
            )
    if not trainable:
        adapted.eval()
    return adapted


def _is_trained(model: PeftModel, key: str) -> bool:
    """Whether a missing tensor is one of the adapter, not PEFT's copy of the base's."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    kinds = {PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "") for config in model.peft_config.values()}
    return any(kind and kind in key for kind in kinds)


def _as_in(model: Any, adapter: Adapter) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The settings and tensors under the names that the class of `model` has for the modules of the text model."""
    tensors = adapter.load_tensors()
    known = {name.removeprefix(PREFIX) for name, _ in model.named_modules()}
    modules = [entry["module"] for entry in adapter.modules]
    present = {name.replace(".base_layer", "") for name in known}

    def renamed(module: str, prefix: str) -> str:
        return prefix + module.removeprefix("model.") if module.startswith("model.") else module

    def unmatched(prefix: str) -> int:
        return sum(renamed(module, prefix).replace(".base_layer", "") not in present for module in modules)

    prefix = min(("model.", *_CLASS_PREFIXES), key=unmatched)
    if prefix == "model.":
        return adapter.settings, tensors
    logger.info("adapter %s: its tensors go to the modules %s… of %s", adapter.folder, prefix, type(model).__name__)
    settings = adapter.settings | {
        "target_modules": [renamed(module, prefix) for module in modules],
        "rank_pattern": {renamed(entry["module"], prefix): entry["rank"] for entry in adapter.modules},
        "alpha_pattern": {renamed(entry["module"], prefix): entry["alpha"] for entry in adapter.modules},
        "layers_to_transform": None,
        "layers_pattern": None,
        "exclude_modules": None,
    }
    return settings, {PREFIX + renamed(name.removeprefix(PREFIX), prefix): tensor for name, tensor in tensors.items()}


def _resize_embeddings(model: Any, adapter: Adapter, tensors: dict[str, torch.Tensor]) -> None:
    """Give the model's embedding the number of tokens that the adapter's own embedding and output matrix have."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None:
        return
    sizes = {}
    for name, tensor in tensors.items():
        module, _, rest = name.partition(".embed_tokens.") if ".embed_tokens." in name else name.partition("lm_head.")
        if module != name and rest.removeprefix("base_layer.") in ("weight", "lora_B.weight") and "lora_embedding_B" not in rest:
            sizes["embed_tokens" if ".embed_tokens." in name else "lm_head"] = tensor.shape[0]
        if name.endswith(".embed_tokens.lora_embedding_A"):
            sizes["embed_tokens"] = tensor.shape[1]
    before = embedding.weight.shape[0]
    single = adapter.settings.get("trainable_token_indices") or {}
    for name, ids in (single if isinstance(single, dict) else {"embed_tokens": single}).items():
        if (needed := max(ids, default=-1) + 1) > before:  # fewer are rows that the base has
            sizes[name.rpartition(".")[2]] = needed
    if not (new := {size for size in sizes.values() if size != before}):
        return
    tied = head is None or head.weight is embedding.weight
    if len(set(sizes.values())) > 1 or (not tied and len(sizes) == 1):
        raise InputError(
            f"adapter {adapter.folder} has {' and '.join(f'{name} for {size} tokens' for name, size in sizes.items())}, and its base has "
            f"{before}: embedding and output matrix must both be in it; train it again with both (modules_to_save, trainable_token_indices)"
        )
    size = new.pop()
    logger.info("the embedding gets %d tokens instead of %d, as in adapter %s", size, before, adapter.folder)
    model.resize_token_embeddings(size, mean_resizing=False)
