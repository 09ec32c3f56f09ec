"""Convert a LoRA adapter to GGUF: llama.cpp adds it to its base's GGUF file (`--lora`), Ollama by `ADAPTER`.

In: an adapter folder. Out: `<name>.<outtype>.gguf` for each format. The base's configuration must be at hand, its
weights are not needed.
"""

from pyrust_nn.gguf_adapter import adapter_plan
from pyrust_nn.gguf_keys import label
from pyrust_nn.gguf_plan import write_files
from pyrust_nn.sources import checked_adapter_folder


def run(params, session):
    """Plan every file, which finds what is wrong; then write them."""
    name = label(params.adapter, checked_adapter_folder(params.adapter))
    targets = {outtype: session.step_folder / f"{name.stem}.{outtype}.gguf" for outtype in params.outtype}
    plans = {outtype: adapter_plan(params.adapter, outtype, target, name) for outtype, target in targets.items()}
    sizes = write_files(plans, session)
    return {"outputs": {"gguf": [target.name for target in targets.values()]}, "metrics": sizes}
