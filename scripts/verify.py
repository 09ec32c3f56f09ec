"""Verify: proves that a file is the model that it was made from.

Input: the model (or the adapter), and what was made of it: GGUF files, a merged, quantized or flattened folder. Output:
`proof.json`, one object for each file with four layers: the stored weights row by row, the predictions, the prompts as
tokens, and greedy answers. The step fails with the kind `proof` if a layer finds a difference beyond its bound.
"""

from pyrust_nn import InputError
from pyrust_nn.files import write_json
from pyrust_nn.models.devices import pick_device
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.proof.candidates import gguf_files
from pyrust_nn.proof.layers import unproven
from pyrust_nn.proof.proving import prove
from pyrust_nn.proof.reference import Reference
from pyrust_nn.proof.samples import built_in, of_dataset


def run(params, session):
    """Prove each file; the step fails afterwards, so that every proof is written."""
    device = pick_device(params.device)
    reference = Reference(params.model, params.base_model, device)
    files = gguf_files(params.candidate) or [model_folder(params.candidate)]

    if params.dataset_path is None:
        samples = built_in(reference, params.verify_tokens)
    else:
        samples = of_dataset(session.dataset("dataset_path"), params.verify_tokens)
    if not samples.rows:
        raise InputError("there is no row of at least two tokens to compare predictions on; give another dataset_path")

    proofs = prove(files, reference, samples, params.max_kl, session)
    write_json(session.step_folder / "proof.json", proofs)
    divergences = [proof["layers"]["logits"]["mean_kl"] for proof in proofs if "mean_kl" in proof["layers"]["logits"]]
    return {
        "outputs": {"proof": "proof.json"},
        "metrics": {
            "files": len(proofs),
            "proven_files": sum(proof["passed"] is True for proof in proofs),
            **({"mean_kl": max(divergences)} if divergences else {}),
        },
        "params": {"device": str(device)},
        "proof": proofs,
        "unproven": unproven(proofs),
    }
