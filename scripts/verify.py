"""Verify: proves that a file is the model that it was made from.

Input: the model (or the adapter), and what was made of it: GGUF files, a merged, quantized or flattened folder. Output:
`proof.json`, one object for each file with four layers: the stored weights row by row, the predictions, the prompts as
tokens, and greedy answers. The step fails with the kind `proof` if a layer finds a difference beyond its bound.
"""

import logging

import torch

from pyrust_nn import InputError
from pyrust_nn.files import write_json
from pyrust_nn.models.adapter_folder import is_adapter
from pyrust_nn.models.devices import pick_device
from pyrust_nn.models.loading import load_model
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.tokenizers import shared_tokenizer, tokenizer_folder
from pyrust_nn.proof.answers import MAX_TOKENS, answers_layer, llama_answers, transformers_answers
from pyrust_nn.proof.candidates import adapter_weights, folder_type, gguf_files, unpacked_weights
from pyrust_nn.proof.conversations import encoder, rendered_prompt
from pyrust_nn.proof.gates import max_kl
from pyrust_nn.proof.gguf_file import GgufFile
from pyrust_nn.proof.gguf_model import Incomplete, gguf_model
from pyrust_nn.proof.layers import NotRun, file_proof, judged, not_run, unproven
from pyrust_nn.proof.llama_cpp import ask
from pyrust_nn.proof.logits import logits_layer
from pyrust_nn.proof.prompts import gguf_stop_tokens, prompts_layer
from pyrust_nn.proof.reference import Reference, model_stop_tokens
from pyrust_nn.proof.samples import built_in, of_dataset
from pyrust_nn.proof.stored_weights import SUMS, folder_layer, gguf_layer, loaded_layer

logger = logging.getLogger(__name__)


def run(params, session):
    """Prove each file; the step fails afterwards, so that every proof is written."""
    device = pick_device(params.device)
    reference = Reference(params.model, params.base_model, device)
    files = gguf_files(params.candidate)

    if params.dataset_path is None:
        rows, prompts = built_in(reference.tokenizer, reference.encode, params.verify_tokens)
    else:
        rows, prompts = of_dataset(session.dataset("dataset_path"), params.verify_tokens)
    if not rows:
        raise InputError("there is no row of at least two tokens to compare predictions on; give another dataset_path")

    proofs = []
    for index, file in enumerate(files or [model_folder(params.candidate)]):
        session.progress(index, len(files) or 1, file.name)
        prove = gguf_proof if files else folder_proof
        layers = prove(file, reference, rows, prompts, params, device)
        proofs.append(file_proof(str(file), layers))
        for name, layer in layers.items():
            logger.info("%s: %s %s", file.name, name, "passed" if layer["passed"] else layer.get("why", ""))
    session.progress(len(proofs), len(proofs))

    write_json(session.step_folder / "proof.json", proofs)
    divergences = [proof["layers"]["logits"]["mean_kl"] for proof in proofs if "mean_kl" in proof["layers"]["logits"]]
    return {
        "outputs": {"proof": "proof.json"},
        "metrics": {
            "files": len(proofs),
            "proven_files": sum(proof["passed"] for proof in proofs),
            **({"mean_kl": max(divergences)} if divergences else {}),
        },
        "params": {"device": str(device)},
        "proof": proofs,
        "unproven": unproven(proofs),
    }


def gguf_proof(path, reference, rows, prompts, params, device):
    """The layers of a GGUF file, which `gguf` reads, torch computes and llama.cpp runs."""
    file = GgufFile(path)
    if file.key("general.type") == "adapter":
        raise InputError(f"{path} is an adapter; only whole models in GGUF are proven")
    if lacking := reference.lacking_memory():
        return {"bytes": not_run(lacking), "logits": not_run(lacking)}
    layers = {"bytes": gguf_layer(file, reference)}

    # The configuration, the positions and the weights all come from the file.
    try:
        layers["logits"] = logits_layer(reference.model, gguf_model(file, device), rows, gate(file.outtype, reference, params))
    except NotRun as cause:
        layers["logits"] = not_run(str(cause))
    except Incomplete as cause:
        layers["logits"] = judged({}, [f"llama.cpp could not load the file: {cause}"])

    # llama.cpp renders the file's own template and tokenizes with the file's own vocabulary.
    stops = gguf_stop_tokens(file)
    wanted, found, answered, why = reference.conversation_tokens, None, None, "the model has no chat template"
    if wanted:
        try:
            said = ask(path, reference.conversations, prompts, 2 * MAX_TOKENS)
            found, answered = said.prompts, llama_answers(said.answers, reference.stop_tokens)
        except NotRun as cause:
            why = str(cause)
    layers["prompts"] = prompts_layer(wanted, found, stops, reference, why)
    layers["answers"] = not_run(why) if answered is None else answers_layer(reference.answers(prompts), answered)
    return layers


def folder_proof(folder, reference, rows, prompts, params, device):
    """The layers of a folder with a model or an adapter, which transformers runs."""
    if lacking := reference.lacking_memory():
        return {"bytes": not_run(lacking), "logits": not_run(lacking)}
    layers = {}
    kind, adapter = folder_type(folder), is_adapter(str(folder))
    quantized = kind in ("nf4", "int8")
    base = params.base_model if adapter else None
    candidate = load_model(str(folder), device=device, dtype=None if quantized else torch.float32, base_model=base)
    if adapter:
        layers["bytes"] = loaded_layer(adapter_weights(folder, base), {}, reference, SUMS)
    elif quantized:
        # Scales and results are rounded to bf16 or fp16 on the way.
        layers["bytes"] = loaded_layer(*unpacked_weights(candidate), reference, 2.0**-7)
    else:
        layers["bytes"] = folder_layer(folder, reference)

    layers["logits"] = logits_layer(reference.model, candidate, rows, gate(kind, reference, params))

    tokenizer, stops = shared_tokenizer(str(folder), base), model_stop_tokens(candidate)
    wanted = reference.conversation_tokens
    encode = encoder(tokenizer_folder(str(folder), base), tokenizer)
    found = [rendered_prompt(tokenizer, encode, one) for one in reference.conversations] if wanted and tokenizer.chat_template else None
    layers["prompts"] = prompts_layer(wanted, found, stops, reference, "the model has no chat template")
    layers["answers"] = answers_layer(reference.answers(prompts), transformers_answers(candidate, prompts, stops, 2 * MAX_TOKENS))
    return layers


def gate(kind, reference, params):
    """The divergence of predictions that a candidate of this type may have."""
    if params.max_kl is not None:
        return params.max_kl
    return max_kl(kind, exact=None if reference.is_adapter else reference.dtype)
