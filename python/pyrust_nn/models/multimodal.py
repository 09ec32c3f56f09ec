"""Models that also see, published as `…ForConditionalGeneration`: their language part is a causal language model here.

transformers has no causal language model for the language part of Qwen2-VL, Qwen2.5-VL and Qwen3-VL. For text the three
positions of a token are equal, so the rotary embedding is the plain one, and the part is a Qwen2 or a Qwen3. It is loaded as
that. For Qwen3.5 transformers has a class.

What was trained is saved in the form of the original: its tensors take their places in the original's files, and all other
tensors (vision, prediction of further tokens) are copied. So the original's class loads the result.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn import ModelError
from pyrust_nn.files import copy_file, write_json
from pyrust_nn.models.model_folder import INDEX, WEIGHTS, read_json, weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)

# The type of the language part's model by that of the whole.
LANGUAGE_TYPES = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen3"}
# What the classes of the whole have where a causal language model has `model.` and `lm_head.`; for transformers' `key_mapping`.
KEY_MAPPING = {r"^model\.language_model\.": "model.", r"^language_model\.model\.": "model.", r"^language_model\.lm_head\.": "lm_head."}
# Files of a processor, which only the whole model needs.
_PROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
_MULTIMODAL_PARTS = ("vision_config", "audio_config", "thinker_config")


def language_config(config: PretrainedConfig) -> PretrainedConfig | None:
    """The configuration of the language part as a model of its own; None if transformers knows what to load.

    Raises ModelError for a model with other parts whose language part cannot be loaded.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    kind = LANGUAGE_TYPES.get(config.model_type)
    if kind is None:
        if any(getattr(config, part, None) is not None for part in _MULTIMODAL_PARTS) and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ModelError(
                f"the model is of type {config.model_type}, which has other parts than a language model, and the language part of it "
                f"cannot be loaded alone; the types that can are {', '.join(LANGUAGE_TYPES)} and those of Qwen3.5"
            )
        return None
    values = config.get_text_config().to_dict()
    for name in ("model_type", "architectures", "transformers_version"):
        values.pop(name, None)
    rotary = values.get("rope_parameters") or {}
    values["rope_parameters"] = {name: value for name, value in rotary.items() if not name.startswith("mrope")}
    values["tie_word_embeddings"] = bool(config.tie_word_embeddings)
    return AutoConfig.for_model(kind, **values)


def text_name(stored: str) -> str:
    """The name of a stored tensor in a causal language model; that of another part stays as it is."""
    for pattern, new in KEY_MAPPING.items():
        if (name := re.sub(pattern, new, stored)) != stored:
            return name
    return stored


def is_other_part(stored: str) -> bool:
    """Whether a stored tensor belongs to a part that a causal language model does not have."""
    return "visual." in stored or "vision_tower." in stored or re.match(r"(?:model\.)?mtp\.", stored) is not None


def is_multimodal(folder: Path) -> bool:
    """Whether a model's folder holds a model with a vision part."""
    return (folder / "config.json").is_file() and isinstance(read_json(folder / "config.json").get("vision_config"), dict)


def complete(saved: Path, source: Path) -> None:
    """Turn the saved language part in the folder `saved` into the whole model, with the other parts of the model in `source`.

    A language part whose tensors do not fit those of the source stays alone, with a warning.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    trained = {text_name(name): (file, name) for file in weight_files(saved) for name in _names(file)}
    files = weight_files(source)
    places = {text_name(name): name for file in files for name in _names(file)}
    if strange := sorted(name for name in trained if name not in places and name != "lm_head.weight"):
        logger.warning(
            "%s is saved without the other parts of %s: it has tensors that are not in it (%s)", saved.name, source, ", ".join(strange[:3])
        )
        return
    opened: dict[Path, Any] = {}

    def tensor(file: Path, name: str) -> Any:
        if file not in opened:
            opened[file] = safe_open(file, framework="pt")
        return opened[file].get_tensor(name)

    weight_map: dict[str, str] = {}
    copied, size = 0, 0
    for number, file in enumerate(files):
        tensors = {}
        for name in _names(file):
            own = text_name(name)
            if own in trained:
                tensors[name] = tensor(*trained[own])
            elif own != "lm_head.weight":  # which is now that of the embedding
                tensors[name] = tensor(file, name)
                copied += 1
        if number == len(files) - 1 and "lm_head.weight" in trained and "lm_head.weight" not in places:
            prefix = "language_model." if any(name.startswith("language_model.model.") for name in places.values()) else ""
            tensors[f"{prefix}lm_head.weight"] = tensor(*trained["lm_head.weight"])
        weight_map |= dict.fromkeys(tensors, file.name)
        size += sum(value.numel() * value.element_size() for value in tensors.values())
        save_file(tensors, saved / f"{file.name}.whole", metadata={"format": "pt"})
    opened.clear()
    for file in {place for place, _ in trained.values()}:
        file.unlink()
    (saved / INDEX).unlink(missing_ok=True)
    for file in files:
        (saved / f"{file.name}.whole").rename(saved / file.name)
    if [file.name for file in files] != [WEIGHTS]:
        write_json(saved / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    _write_config(saved, source)
    for name in _PROCESSOR_FILES:
        if (source / name).is_file():
            copy_file(source / name, saved / name)
    logger.info("the language part is saved in the form of %s, with %d tensors of its other parts unchanged", source, copied)


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stored:
        return list(stored.keys())


def _write_config(saved: Path, source: Path) -> None:
    """The original's configuration, with what a training or a merge may change."""
    own, whole = read_json(saved / "config.json"), read_json(source / "config.json")
    text = whole["text_config"] if isinstance(whole.get("text_config"), dict) else whole
    text["vocab_size"] = own["vocab_size"]
    for part in (whole, text):
        part["tie_word_embeddings"] = own.get("tie_word_embeddings", False)
        for name in ("dtype", "torch_dtype"):
            if name in part and own.get("dtype") is not None:
                part[name] = own["dtype"]
    write_json(saved / "config.json", whole)
