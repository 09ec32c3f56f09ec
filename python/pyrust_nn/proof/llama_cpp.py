"""llama.cpp by the package `xllamacpp`, in a process of its own (`llama_child`)."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
from dataclasses import dataclass
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from pyrust_nn.proof import llama_child
from pyrust_nn.proof.layers import NotRun

SECONDS = 1800
ROOM = 64
"""Positions beside prompt and answer."""


@dataclass(frozen=True)
class LlamaAnswers:
    """Token ids of the conversations, and the greedy answers: `tokens` and whether llama.cpp `ended` them by a stop token."""

    prompts: list[list[int]]
    answers: list[dict[str, Any]]


def ask(file: Path, conversations: list[list[dict[str, str]]], prompts: list[list[int]], max_tokens: int) -> LlamaAnswers:
    """What llama.cpp makes of a file. Raises NotRun if the package is not installed or llama.cpp cannot load the file."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise NotRun("the package xllamacpp is not installed; install pyrust-nn[llama]")
    context = max([512, *(len(prompt) + max_tokens + ROOM for prompt in prompts)])
    request = {"file": str(file), "conversations": conversations, "prompts": prompts, "max_tokens": max_tokens, "context": context}
    # The embedded interpreter's own executable is the program, not Python.
    python = os.fsdecode(spawn.get_executable())
    child = subprocess.run(
        [python, "-c", inspect.getsource(llama_child)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    lines = [line for line in child.stdout.splitlines() if line.startswith("PROOF ")]
    if not lines:
        # llama.cpp writes its own lines `0.00.012.345 E srv load_model: reason`.
        said = [line for line in child.stderr.splitlines() if line.strip()]
        reasons = [line.split(" E ", 1)[1] for line in said if " E " in line[:20]] or said[-1:]
        raise NotRun(f"llama.cpp ended with status {child.returncode}: {' '.join(reasons[:1])[:300] or 'it said nothing'}")
    answer = json.loads(lines[-1].removeprefix("PROOF "))
    return LlamaAnswers(answer["prompts"], answer["answers"])
