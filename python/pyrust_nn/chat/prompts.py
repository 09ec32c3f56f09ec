"""The prompts of inference, read and checked by the native core (src/data/prompts.rs)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyrust_nn import _core
from pyrust_nn.types import ChatMessage


def read_prompts(prompts: Sequence[Any] | None, prompts_file: str | None) -> tuple[list[list[ChatMessage]], list[str | None]]:
    """The conversations to answer, each without its answer, and the answers: those of `prompts`, then those of the file.

    An answer is None where a prompt has none. Raises InputError if there are no prompts, or if one is malformed; the message
    names file, place, cause and fix.
    """
    read = _core.read_prompts(json.dumps(list(prompts or [])), prompts_file)
    return [one["messages"] for one in read], [one["expected"] for one in read]
