"""Convert a LoRA adapter to GGUF: llama.cpp adds it to its base's GGUF file (`--lora`), Ollama by `ADAPTER`.

Input: an adapter folder. Output: `<name>.<outtype>.gguf` for each type. The configuration of the base must be available,
its weights need not be.
"""

from pyrust_nn.gguf_export.adapter import adapter_plan
from pyrust_nn.gguf_export.keys import model_label
from pyrust_nn.gguf_export.writing import write_gguf_files
from pyrust_nn.models.adapter_folder import checked_adapter_folder
from pyrust_nn.proof.prove_outputs import prove_outputs


def run(params, session):
    """Plan every file, which finds errors early; then write them."""
    name = model_label(params.adapter, checked_adapter_folder(params.adapter))
    targets = {outtype: session.step_folder / f"{name.stem}.{outtype}.gguf" for outtype in params.outtype}
    plans = {outtype: adapter_plan(params.adapter, outtype, target, name, params.base_model) for outtype, target in targets.items()}
    sizes = write_gguf_files(plans, session)
    files, proof = prove_outputs(list(targets.values()), params.adapter, params, session)
    return {"outputs": {"gguf": [file.name for file in files]}, "metrics": sizes, **proof}
