"""What llama.cpp needs of a GGUF file, checked before: some files abort it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pyrust_nn import InputError, ModelError, _core

SETTINGS = ("block_count", "context_length", "embedding_length", "attention.head_count")
"""Keys of the architecture that are positive integers in every model. `attention.head_count` may be a list, one for each block."""
MOST_POSITIONS = 1 << 24


class GgufModelFile:
    """The header of a GGUF file with a whole model. Arrays, such as the vocabulary, are left out."""

    def __init__(self, path: str | Path) -> None:
        """Raises ModelError if the file is damaged, is not a model or has keys on which llama.cpp aborts."""
        self.path = Path(path)
        self._header: dict[str, Any] = _core.gguf_header(self.path, arrays=False)
        self.keys: dict[str, Any] = self._header["keys"]
        self.architecture = self.keys.get("general.architecture")
        kind = self.keys.get("general.type", "model")
        if kind == "adapter":
            raise InputError(f"{self.path} is an adapter; give its base's GGUF file as the model, and this one as `adapter`")
        if kind != "model" or not isinstance(self.architecture, str):
            raise ModelError(f"{self.path} is not a language model but {kind}; give a GGUF file of a model")
        for name in SETTINGS:
            value = self.setting(name)
            if name == "attention.head_count" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_POSITIONS:
                raise self._unusable(f"its key {self.architecture}.{name} is {value}")
        blocks = {name.split(".")[1] for tensor in self._header["tensors"] if (name := tensor["name"]).startswith("blk.")}
        if not self.keys.get("split.count") and self.setting("block_count") > len(blocks):
            raise self._unusable(
                f"it has {len(blocks)} blocks, and its key {self.architecture}.block_count is {self.setting('block_count')}"
            )

    def _unusable(self, why: str) -> ModelError:
        return ModelError(f"{self.path} cannot be run: {why}; convert or download it again")

    def setting(self, name: str) -> Any:
        """A key of the architecture; None if there is none."""
        return self.keys.get(f"{self.architecture}.{name}")

    @cached_property
    def positions(self) -> int:
        """The most tokens that prompt and answer may have together, scaled rotary embeddings included."""
        limit: int = self.setting("context_length")
        factor, original = self.setting("rope.scaling.factor"), self.setting("rope.scaling.original_context_length")
        return max(limit, int(factor * original)) if factor and original else limit

    def check_template(self) -> None:
        """Raises ModelError if the file has no chat template: llama.cpp would take another model's."""
        if not self.keys.get("tokenizer.chat_template"):
            raise ModelError(f"{self.path} has no chat template, so it cannot be asked; convert it again from a folder that has one")

    def recommended(self, name: str) -> Any:
        """A sampling value that the file recommends (`general.sampling.temp`, …); None if it does not."""
        return self.keys.get(f"general.sampling.{name}")


def check_adapter(path: str | Path, model: GgufModelFile) -> None:
    """Raises ModelError or InputError if `path` is not an adapter in GGUF for this model's architecture."""
    keys = _core.gguf_header(Path(path), arrays=False)["keys"]
    if keys.get("general.type") != "adapter" or keys.get("adapter.type") != "lora":
        raise InputError(f"{path} is not a LoRA adapter in GGUF; `convert_lora_to_gguf` makes one")
    if keys.get("general.architecture") != model.architecture:
        raise InputError(
            f"{path} is an adapter for {keys.get('general.architecture')}, and {model.path} is {model.architecture}; give its own base"
        )
