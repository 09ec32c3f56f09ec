"""What a layer of the proof answers, and the proof of one file."""

from __future__ import annotations

from typing import Any

Layer = dict[str, Any]
"""`ran`, `passed` (null if it did not run), `why` (if it did not run or failed), and what was measured."""


class LayerNotRunError(Exception):
    """A layer cannot run; the text says why. Whoever asks the layer makes `not_run` of it."""


def not_run(why: str) -> Layer:
    """A layer that says nothing about the file."""
    return {"ran": False, "passed": None, "why": why}


def judged(measured: dict[str, Any], faults: list[str]) -> Layer:
    """A layer that ran: it passes if there are no faults."""
    why = {"why": "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")} if faults else {}
    return {"ran": True, "passed": not faults, **why, **measured}


def file_proof(file: str, layers: dict[str, Layer]) -> dict[str, Any]:
    """The proof of one file: it passes if no layer fails; null if neither weights nor predictions were compared."""
    failed = any(layer["passed"] is False for layer in layers.values())
    compared = any(layers[name]["ran"] for name in ("bytes", "logits"))
    return {"file": file, "passed": False if failed else True if compared else None, "layers": layers}


def unproven(proofs: list[dict[str, Any]]) -> str | None:
    """What is wrong with the first file that did not pass; None if all passed."""
    for proof in proofs:
        if proof["passed"]:
            continue
        layers = {name: layer for name, layer in proof["layers"].items() if layer["passed"] is False} or proof["layers"]
        name, layer = next(iter(layers.items()))
        verb = "is not the model" if layer["ran"] else "could not be compared with the model"
        return f"{proof['file']} {verb}: layer {name}: {layer['why']}; make the file again from the model, and see proof.json"
    return None
