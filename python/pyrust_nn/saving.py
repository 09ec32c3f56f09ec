"""Trained models and adapters as folders that transformers and peft load."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from pyrust_nn import _core
from pyrust_nn.models import read_tokenizer, tokenizer_files, tokenizer_folder
from pyrust_nn.sources import read_json
from pyrust_nn.stack import NEWEST, copy_parents

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    AnyTokenizer: TypeAlias = "PreTrainedTokenizerFast | TokenizerFiles"

logger = logging.getLogger(__name__)

# Qwen's models end an answer with one or the other.
END_TOKENS = ("<|im_end|>", "<|endoftext|>")


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as its files, which go along as they are: a trained model's are, byte for byte, those of the one it came from.

    No step that has token ids already, or only weights, needs more. transformers would take a third of a second to read
    them and 150 MB to hold 151,936 words.
    """

    files: dict[Path, bytes]
    added_tokens_encoder: dict[str, int]
    eos_token_id: int | None

    @classmethod
    def of(cls, model: str) -> TokenizerFiles:
        """Those of a model, or of an adapter. Raises ModelError where they are broken or missing."""
        folder = tokenizer_folder(model)
        if not all((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            return cls.from_loaded(read_tokenizer(folder))  # an older kind
        head = _core.tokenizer_head(folder / "tokenizer.json")
        added = {token["content"]: token["id"] for token in head["added_tokens"]}
        end = read_json(folder / "tokenizer_config.json").get("eos_token")
        end = end.get("content") if isinstance(end, dict) else end
        if end is not None and end not in added:
            return cls.from_loaded(read_tokenizer(folder))  # a word of the vocabulary
        files = {path.relative_to(folder): path.read_bytes() for path in tokenizer_files(folder)}
        return cls(files, added, None if end is None else added[end])

    @classmethod
    def from_loaded(cls, tokenizer: PreTrainedTokenizerFast) -> TokenizerFiles:
        """As the tokenizer saves itself."""
        with TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            files = {path.relative_to(folder): path.read_bytes() for path in paths}
        return cls(files, dict(tokenizer.added_tokens_encoder), tokenizer.eos_token_id)

    def save_pretrained(self, folder: Path) -> None:
        """Write the files."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def save_model(model: Any, tokenizer: AnyTokenizer, folder: Path) -> None:
    """Write a model (PreTrainedModel), or an adapter (PeftModel) with its parents and without its base, into `folder`.

    Beside the weights (safetensors, in the dtype they have in memory) stand the tokenizer, its chat template and a
    generation config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        # No embeddings: their size never changes here. (peft would ask the hub whether it did.)
        model.save_pretrained(folder, selected_adapters=[NEWEST], save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's form to fill in
        copy_parents(model, folder)
        if model.get_base_model().generation_config is not None:
            model.get_base_model().generation_config.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def save_tokenizer(tokenizer: AnyTokenizer, folder: Path) -> None:
    """Put the tokenizer beside saved weights, which become as readable as its files."""
    tokenizer.save_pretrained(folder)
    # safetensors makes its files readable by their owner alone; a model is as open as the folder's other files.
    mode = (folder / "tokenizer_config.json").stat().st_mode
    for weights in folder.glob("*.safetensors"):
        weights.chmod(mode)


def set_stop_tokens(generation: GenerationConfig | None, tokenizer: AnyTokenizer) -> None:
    """Have generation stop at every token that may end an answer, keeping those it stops at already.

    Done before training, since a generation config that cannot be saved would be found out only after it.
    """
    if generation is None:
        return
    known = generation.eos_token_id
    known = [known] if isinstance(known, int) else list(known or [])
    vocabulary = tokenizer.added_tokens_encoder
    ends = [vocabulary[token] for token in END_TOKENS if token in vocabulary]
    own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    stops = list(dict.fromkeys([*ends, *own, *known]))
    if stops:
        generation.eos_token_id = stops
    try:
        generation.validate(strict=True)
    except ValueError as cause:
        # Published configs set temperatures for greedy decoding, which has none; changed ones are not saved so.
        logger.debug("sampling parameters taken out of the generation config: %s", cause)
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            setattr(generation, name, None)
