"""What a file is asked, layer by layer: a GGUF file with a model, a GGUF file with an adapter, or a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from pyrust_nn.models.adapter_folder import is_adapter
from pyrust_nn.models.loading import load_model
from pyrust_nn.models.tokenizers import shared_tokenizer, tokenizer_folder
from pyrust_nn.proof.answers import MAX_TOKENS, Answer, answers_layer, llama_answers, transformers_answers
from pyrust_nn.proof.candidates import adapter_weights, folder_type, unpacked_weights
from pyrust_nn.proof.conversations import encoder, rendered_prompt
from pyrust_nn.proof.gguf_adapter import GgufAdapter, adapter_layer
from pyrust_nn.proof.gguf_file import GgufFile
from pyrust_nn.proof.gguf_model import IncompleteGgufError, gguf_model
from pyrust_nn.proof.kl_thresholds import max_kl
from pyrust_nn.proof.layers import Layer, LayerNotRunError, file_proof, judged, not_run
from pyrust_nn.proof.llama_cpp import LlamaCpp
from pyrust_nn.proof.logits import logits_layer
from pyrust_nn.proof.prompts import gguf_stop_tokens, prompts_layer
from pyrust_nn.proof.reference import Reference, model_stop_tokens
from pyrust_nn.proof.samples import Samples
from pyrust_nn.proof.stored_weights import SUMS, folder_layer, gguf_layer, loaded_layer

logger = logging.getLogger(__name__)


def prove(files: list[Path], reference: Reference, samples: Samples, gate: float | None, session: Any) -> list[dict[str, Any]]:
    """The proof of each GGUF file or folder. `gate`: the parameter `max_kl`."""
    proofs = []
    for index, file in enumerate(files):
        session.progress(index, len(files), f"proving {file.name}")
        layers = layers_of(file, reference, samples, gate)
        proofs.append(file_proof(str(file), layers))
        passed = [name for name, layer in layers.items() if layer["passed"]]
        # Why a layer failed is the step's error, which would be told twice.
        others = [
            f"; {name}: {layer['why'] if layer['passed'] is None else 'not passed'}"
            for name, layer in layers.items()
            if not layer["passed"]
        ]
        logger.info("%s: %s passed%s", file.name, ", ".join(passed) or "nothing", "".join(others))
    session.progress(len(files), len(files))
    return proofs


def layers_of(file: Path, reference: Reference, samples: Samples, gate: float | None) -> dict[str, Layer]:
    """The layers of one GGUF file or folder."""
    if lacking := reference.lacking_memory():
        return {"bytes": not_run(lacking), "logits": not_run(lacking)}
    if file.is_dir():
        return folder_layers(file, reference, samples, gate)
    opened = GgufFile(file)
    if opened.key("general.type") == "adapter":
        return gguf_adapter_layers(opened, reference, samples, gate)
    return gguf_layers(opened, reference, samples, gate)


def gguf_layers(file: GgufFile, reference: Reference, samples: Samples, gate: float | None) -> dict[str, Layer]:
    """A GGUF file with a model, which torch computes and llama.cpp runs."""
    with LlamaCpp(file.path, samples.prompts, MAX_TOKENS) as llama:
        return compared_layers(file, reference, samples, gate) | asked_layers(llama, file, reference, samples)


def compared_layers(file: GgufFile, reference: Reference, samples: Samples, gate: float | None) -> dict[str, Layer]:
    """The layers that need no llama.cpp."""
    layers = {"bytes": gguf_layer(file, reference)}

    # The configuration, the positions and the weights all come from the file.
    try:
        candidate = gguf_model(file, reference.device)
        layers["logits"] = logits_layer(reference.model, candidate, samples.rows, allowed_kl(file.outtype, reference, gate))
    except LayerNotRunError as cause:
        layers["logits"] = not_run(str(cause))
    except IncompleteGgufError as cause:
        layers["logits"] = judged({}, [f"llama.cpp could not load the file: {cause}"])
    return layers


def asked_layers(llama: LlamaCpp, file: GgufFile, reference: Reference, samples: Samples) -> dict[str, Layer]:
    """The layers that llama.cpp answers: it renders the file's own template and tokenizes with the file's own vocabulary."""
    stops = gguf_stop_tokens(file)
    wanted, found, why = reference.conversation_tokens, None, "the model has no chat template"
    judgement = not_run(why)

    def answers(prompts: list[list[int]]) -> list[Answer]:
        return llama_answers(llama.ask([], prompts).answers, reference.stop_tokens)

    if wanted:
        try:
            said = llama.ask(reference.conversations, samples.prompts)
            found, answered = said.prompts, llama_answers(said.answers, reference.stop_tokens)
            judgement = answers_layer(samples.prompts, reference.answers(samples.prompts, answered), answered, answers)
        except LayerNotRunError as cause:
            why = str(cause)
            judgement = not_run(why)
    return {"prompts": prompts_layer(wanted, found, stops, reference, why), "answers": judgement}


def gguf_adapter_layers(file: GgufFile, reference: Reference, samples: Samples, gate: float | None) -> dict[str, Layer]:
    """A GGUF file with an adapter, which llama.cpp adds to its base: here its products are added to the base's weights."""
    try:
        adapter = GgufAdapter(file, reference)
        layers = {"bytes": adapter_layer(adapter, reference)}
        layers["logits"] = logits_layer(reference.model, adapter.model(), samples.rows, allowed_kl(adapter.coarsest, reference, gate))
    except LayerNotRunError as cause:
        layers = {"bytes": not_run(str(cause)), "logits": not_run(str(cause))}
    why = "llama.cpp runs an adapter with its base's GGUF file, which is not at hand"
    return layers | {"prompts": not_run(why), "answers": not_run(why)}


def folder_layers(folder: Path, reference: Reference, samples: Samples, gate: float | None) -> dict[str, Layer]:
    """A folder with a model or an adapter, which transformers runs."""
    layers = {}
    kind, adapter = folder_type(folder), is_adapter(str(folder))
    quantized = kind in ("nf4", "fp4", "int8")
    base = reference.base_model if adapter else None
    candidate = load_model(str(folder), device=reference.device, dtype=None if quantized else torch.float32, base_model=base)
    if adapter:
        layers["bytes"] = loaded_layer(adapter_weights(folder, base), {}, reference, SUMS)
    elif quantized:
        # Scales and results are rounded to bf16 or fp16 on the way.
        layers["bytes"] = loaded_layer(*unpacked_weights(candidate), reference, 2.0**-7)
    else:
        layers["bytes"] = folder_layer(folder, reference)

    layers["logits"] = logits_layer(reference.model, candidate, samples.rows, allowed_kl(kind, reference, gate))

    tokenizer, stops = shared_tokenizer(str(folder), base), model_stop_tokens(candidate)
    wanted = reference.conversation_tokens
    encode = encoder(tokenizer_folder(str(folder), base), tokenizer)
    found = [rendered_prompt(tokenizer, encode, one) for one in reference.conversations] if wanted and tokenizer.chat_template else None
    layers["prompts"] = prompts_layer(wanted, found, stops, reference, "the model has no chat template")

    def answers(prompts: list[list[int]]) -> list[Answer]:
        return transformers_answers(candidate, prompts, stops)

    answered = answers(samples.prompts)
    layers["answers"] = answers_layer(samples.prompts, reference.answers(samples.prompts, answered), answered, answers)
    return layers


def allowed_kl(kind: str, reference: Reference, gate: float | None) -> float:
    """The divergence of predictions that a candidate of this type may have."""
    if gate is not None:
        return gate
    return max_kl(kind, exact=None if reference.is_adapter else reference.dtype)
