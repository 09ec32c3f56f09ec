"""The prompts of inference, read and checked by the native core (src/data/prompts.rs)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyrust_nn import _core
from pyrust_nn.hf_datasets import json_lines
from pyrust_nn.types import Conversation


def read_prompts(prompts: Sequence[Any] | None, prompts_file: str | None) -> tuple[list[Conversation], list[str | None]]:
    """The conversations to answer, each without its answer, and the answers: those of `prompts`, then those of the file.

    The file may be any data set.

    An answer is None where a prompt has none. Raises InputError if there are no prompts, or if one is malformed; the message
    names file, place, cause and fix.
    """
    if prompts_file and Path(prompts_file).suffix.lower() in (".parquet", ".arrow", ".feather", ".ipc"):
        prompts_file, _ = json_lines(prompts_file, None, _core.known_columns())
    read = _core.read_prompts(json.dumps(list(prompts or [])), prompts_file)
    return [one["conversation"] for one in read], [one["expected"] for one in read]
