"""Flatten: stacked adapters become one adapter that computes the same, and that peft loads without the others.

In: an adapter with its parents. Out: `adapter/`, its rank the sum of theirs. An adapter that stands alone stays as it is.
"""

import json
import shutil

from safetensors.torch import save_file

from pyrust_nn.files import atomic_folder
from pyrust_nn.flattening import flattened
from pyrust_nn.lineage import read_lineage, write_lineage
from pyrust_nn.saving import TokenizerFiles, save_tokenizer
from pyrust_nn.sources import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE, checked_adapter_folder, read_json
from pyrust_nn.stack import parent_folders


def run(params, session):
    """Join the pairs, save."""
    source = checked_adapter_folder(params.model)
    stack = [*parent_folders(source), source]
    session.progress(0, 1, "flattening")
    with atomic_folder(session.step_folder / "adapter") as folder:
        if len(stack) == 1:
            for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE):
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
        else:
            config, tensors = flattened(stack)
            save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
            (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if lineage := read_lineage(params.model):
                base = lineage["base"]
                write_lineage(folder, base["model"], base["sha256"], parent=params.model, stages=lineage["stages"])
        if (source / "generation_config.json").is_file():
            shutil.copyfile(source / "generation_config.json", folder / "generation_config.json")
        save_tokenizer(TokenizerFiles.of(params.model), folder)
    session.progress(1, 1)

    made = read_json(session.step_folder / "adapter" / ADAPTER_CONFIG)
    return {
        "outputs": {"adapter": "adapter"},
        "metrics": {"adapters": len(stack), "lora_rank": made["r"], "lora_alpha": made["lora_alpha"]},
    }
