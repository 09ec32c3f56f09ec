"""The proof at the end of a step that makes a model: each file that it made is the model that it was made from.

A file that is not is kept under another name, so that nobody takes it for the model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyrust_nn import ModelError
from pyrust_nn.files import rename_file, write_json
from pyrust_nn.models.adapter_folder import is_adapter, whole_folder
from pyrust_nn.models.adapters import known_base_folder
from pyrust_nn.models.devices import pick_device
from pyrust_nn.models.model_folder import quantization
from pyrust_nn.proof.layers import unproven

logger = logging.getLogger(__name__)


def unusable(model: str, base_model: str | None) -> str | None:
    """Why nothing can be proven by a model; None if it can. A GGUF adapter needs no weights of its base, and they are not fetched."""
    if is_adapter(model) and known_base_folder(model, base_model) is None:
        return "the weights of the adapter's base are not on this machine"
    try:
        whole = whole_folder(model, base_model)
    except ModelError as cause:
        return str(cause)
    return f"{whole} is quantized" if quantization(whole) is not None else None


def prove_outputs(made: Sequence[Path], model: str, params: Any, session: Any) -> tuple[list[Path], dict[str, Any]]:
    """Where the GGUF files or the folder are afterwards, and what the step adds to its answer: `proof`, and `unproven` on a fault.

    A GGUF file that does not pass is renamed to `<name>.unproven.gguf`. With `verify = false` nothing is proven.
    """
    if not params.verify:
        return list(made), {}
    if why := unusable(model, params.base_model):
        logger.warning("what was made is not proven: %s", why)
        return list(made), {}
    # They import torch and transformers, which takes seconds, and not every step that ends with a proof needs them before.
    from pyrust_nn.proof.proving import prove
    from pyrust_nn.proof.reference import Reference
    from pyrust_nn.proof.samples import built_in

    reference = Reference(model, params.base_model, pick_device(params.device))
    proofs = prove(list(made), reference, built_in(reference, params.verify_tokens), params.max_kl, session)
    files = []
    for file, proof in zip(made, proofs, strict=True):
        if proof["passed"] is None:
            logger.warning("%s is not proven: %s", file.name, proof["layers"]["bytes"]["why"])
        elif not proof["passed"] and file.suffix == ".gguf":
            file = rename_file(file, file.with_suffix(".unproven.gguf"))
            proof["file"] = str(file)
        files.append(file)
    write_json(session.step_folder / "proof.json", proofs)
    fault = unproven([proof for proof in proofs if proof["passed"] is not None])
    return files, {"proof": proofs, **({"unproven": fault} if fault else {})}
