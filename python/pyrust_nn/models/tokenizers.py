"""Tokenizers: their files, and the library's object where a step needs to encode or decode.

A step that has token ids already, or only weights, needs the files alone (`TokenizerFiles`).

Tokenizers are copied as files, so a step's output has the tokenizer of its model byte for byte. Only GGUF conversion
and inference load a tokenizer. They share it as long as its files stay the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

from pyrust_nn import InputError, ModelError, _core
from pyrust_nn.files import write_bytes
from pyrust_nn.models.adapter_folder import ADAPTER_CONFIG, adapter_base, is_adapter
from pyrust_nn.models.generation import end_of_turn
from pyrust_nn.models.model_folder import checked_model_folder, first_line, model_folder, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    AnyTokenizer: TypeAlias = "PreTrainedTokenizerFast | TokenizerFiles"

# The files that transformers reads a tokenizer from. Of config.json it reads model_type, which decides the class.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
# One of them holds the vocabulary.
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
ADDITIONAL_TEMPLATES = "additional_chat_templates"


def tokenizer_folder(model: str, base_model: str | None = None) -> Path:
    """The folder of a model's or adapter's tokenizer, which Rust knows. An adapter without one has that of its base.

    Raises ModelError if it is an incomplete model's.
    """
    own = model_folder(model)
    if base_model and not (own / "tokenizer.json").is_file():
        if (own / "chat_template.jinja").is_file():
            _core.tokenizer_folder(own)  # which refuses it
        return tokenizer_folder(adapter_base(model, base_model))
    folder = _core.tokenizer_folder(own)
    if not (folder / ADAPTER_CONFIG).is_file():
        checked_model_folder(adapter_base(model) if is_adapter(model) else model)
    return folder


def check_tokenizer(folder: Path) -> None:
    """Raise InputError for a folder without a tokenizer; transformers would invent one that knows no words."""
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise InputError(f"{folder} has no tokenizer ({', '.join(VOCABULARY_FILES)}); copy the tokenizer files of its base model into it")


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer files that exist in a folder."""
    paths = [folder / name for name in TOKENIZER_FILES] + sorted((folder / ADDITIONAL_TEMPLATES).glob("*"))
    return [path for path in paths if path.is_file()]


def load_tokenizer(model: str, base_model: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model or adapter. Raises ModelError if it cannot be loaded."""
    return read_tokenizer(tokenizer_folder(model, base_model))


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder, whatever else the folder holds. Raises ModelError if it cannot be loaded."""
    from transformers import AutoTokenizer

    check_tokenizer(folder)
    _core.check_tokenizer(folder / "tokenizer.json")
    try:
        # trust_remote_code is never given, so a tokenizer that comes as code cannot be used.
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BaseException as cause:
        if type(cause).__name__ == "PanicException":  # of the tokenizers library; it is no Exception
            raise InputError(
                f"the tokenizers library fails on the tokenizer in {folder}: {first_line(cause)}; use the model's own"
            ) from cause
        if not isinstance(cause, Exception):
            raise
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded: {first_line(cause)}; "
            "a model's folder needs tokenizer.json and tokenizer_config.json"
        ) from cause


_shared: dict[str, PreTrainedTokenizerFast] = {}


def shared_tokenizer(model: str, base_model: str | None = None) -> PreTrainedTokenizerFast:
    """`load_tokenizer`, reusing the tokenizer that this process loaded last if its files have the same bytes.

    Loading takes a second, and the steps of a pipeline use the same vocabulary. The result must not be modified.
    """
    folder = tokenizer_folder(model, base_model)
    # The model_type of an adapter's tokenizer is that of its base.
    whole = model_folder(adapter_base(model, base_model)) if is_adapter(model) else folder
    digest = hashlib.sha256(str(read_json(whole / "config.json").get("model_type")).encode())
    for path in tokenizer_files(folder):
        data = path.read_bytes()
        digest.update(f"{path.name}/{len(data)}/".encode() + data)
    key = digest.hexdigest()
    if key not in _shared:
        tokenizer = read_tokenizer(folder)
        _shared.clear()
        _shared[key] = tokenizer
    return _shared[key]


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as its files, by their paths in the folder. A trained model gets exactly those of the model it came from.

    Loading them with transformers would take a third of a second, and 150 MB for 151,936 tokens.
    """

    files: dict[Path, bytes]
    added_tokens_encoder: dict[str, int]
    eos_token_id: int | None
    end_of_turn: str | None = None
    """The token that closes a turn in the chat template."""

    @classmethod
    def from_model(cls, model: str, base_model: str | None = None) -> TokenizerFiles:
        """The files of a model's or adapter's tokenizer. Raises ModelError if they are missing or damaged."""
        return cls.from_folder(tokenizer_folder(model, base_model))

    @classmethod
    def from_folder(cls, folder: Path) -> TokenizerFiles:
        """The files of the tokenizer in a folder. Raises InputError or ModelError if they are missing or damaged."""
        check_tokenizer(folder)
        end_token = end_of_turn(folder)
        if not all((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            return cls.from_loaded(read_tokenizer(folder), end_token)  # an older kind
        head = _core.tokenizer_head(folder / "tokenizer.json")
        added = {token["content"]: token["id"] for token in head["added_tokens"]}
        end = read_json(folder / "tokenizer_config.json").get("eos_token")
        end = end.get("content") if isinstance(end, dict) else end
        if end is not None and end not in added:
            return cls.from_loaded(read_tokenizer(folder), end_token)  # an ordinary token of the vocabulary
        files = {path.relative_to(folder): path.read_bytes() for path in tokenizer_files(folder)}
        return cls(files, added, None if end is None else added[end], end_token)

    @classmethod
    def from_loaded(cls, tokenizer: PreTrainedTokenizerFast, end_of_turn: str | None = None) -> TokenizerFiles:
        """The files as the tokenizer saves them."""
        with TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            files = {path.relative_to(folder): path.read_bytes() for path in paths}
        return cls(files, dict(tokenizer.added_tokens_encoder), tokenizer.eos_token_id, end_of_turn)

    def save_pretrained(self, folder: Path) -> None:
        """Write the files into a folder that is published afterwards."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, content, sync=False)
