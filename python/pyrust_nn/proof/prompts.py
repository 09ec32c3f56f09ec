"""The layer `prompts`: a conversation becomes the same token ids in the file as in the model, and answers end at the same tokens."""

from __future__ import annotations

from typing import Any

from pyrust_nn.proof.gguf_file import GgufFile
from pyrust_nn.proof.layers import Layer, judged, not_run
from pyrust_nn.proof.reference import Reference
from pyrust_nn.wording import counted

STOP_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


def gguf_stop_tokens(file: GgufFile) -> set[int]:
    """The tokens at which llama.cpp ends an answer, by the file's keys."""
    return {int(value) for name in STOP_KEYS if (value := file.key(name)) is not None}


def stop_faults(found: set[int], reference: Reference) -> list[str]:
    """What is wrong with the stop tokens of a candidate."""
    faults = []
    if reference.end_of_turn is not None and reference.end_of_turn not in found:
        faults.append(f"an answer ends with token {reference.end_of_turn}, but the file stops at {sorted(found)}")
    if beyond := found - reference.stop_tokens:
        faults.append(f"the file stops at {sorted(beyond)}, the model at {sorted(reference.stop_tokens)}")
    return faults


def prompts_layer(wanted: list[list[int]], found: list[list[int]] | None, stops: set[int], reference: Reference, why: str = "") -> Layer:
    """The layer. `found`: the candidate's token ids for each conversation; None if they are not known, for the reason `why`.

    Wrong stop tokens fail the file even then.
    """
    faults = stop_faults(stops, reference)
    measured: dict[str, Any] = {"stop_tokens": sorted(stops), "reference_stop_tokens": sorted(reference.stop_tokens)}
    if found is None and not faults:
        return not_run(why) | measured
    if found is not None:
        equal = [ours == theirs for ours, theirs in zip(wanted, found, strict=True)]
        measured |= {"conversations": len(equal), "equal": sum(equal)}
        if False in equal:
            index = equal.index(False)
            ours, theirs = wanted[index], found[index]
            faults.append(f"conversation {index} becomes other tokens: {difference(ours, theirs)}")
    return judged(measured, faults)


def difference(wanted: list[int], found: list[int]) -> str:
    """The first difference of two lists of tokens, in words."""
    for place, (ours, theirs) in enumerate(zip(wanted, found, strict=False)):
        if ours != theirs:
            return f"token {place} is {theirs}, the model's {ours}"
    return f"{counted(len(found), 'token')} instead of {len(wanted)}"
