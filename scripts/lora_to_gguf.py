"""Convert a LoRA adapter to GGUF: llama.cpp adds it to its base's GGUF file (`--lora`), Ollama by `ADAPTER`.

In: an adapter folder. Out: `<name>.<outtype>.gguf` for each format. The base's configuration must be at hand, its
weights are not needed.
"""

import logging

from pyrust_nn.gguf_adapter import adapter_plan
from pyrust_nn.gguf_keys import label
from pyrust_nn.gguf_plan import write
from pyrust_nn.sources import checked_adapter_folder

logger = logging.getLogger(__name__)


def run(params, session):
    """Plan every file, which finds what is wrong; then write them."""
    name = label(params.adapter, checked_adapter_folder(params.adapter))
    outtypes = list(dict.fromkeys(params.outtype))
    targets = [session.step_folder / f"{name.stem}.{outtype}.gguf" for outtype in outtypes]
    plans = [adapter_plan(params.adapter, outtype, target, name) for outtype, target in zip(outtypes, targets, strict=True)]

    sizes = {}
    for index, (outtype, plan) in enumerate(zip(outtypes, plans, strict=True)):

        def progress(done, total, tensor, index=index):
            session.progress(index * total + done, len(plans) * total, tensor)

        sizes[f"size_{outtype}_bytes"] = write(plan, progress)
        logger.info("wrote %s", plan["target"])

    return {"outputs": {"gguf": [target.name for target in targets]}, "metrics": sizes}
