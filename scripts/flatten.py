"""Flatten: converts stacked adapters to one adapter that computes the same and that peft loads alone.

Input: an adapter with its parents. Output: `adapter/`, whose rank is the sum of theirs. An adapter without parents is copied.
"""

from safetensors.torch import save_file

from pyrust_nn import InputError
from pyrust_nn.files import atomic_folder, copy_file, write_json
from pyrust_nn.models.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE, checked_adapter_folder
from pyrust_nn.models.adapters import known_base_folder, read_adapter
from pyrust_nn.models.flattening import flatten_adapters
from pyrust_nn.models.lineage import read_lineage, write_lineage
from pyrust_nn.models.lora_pairs import changed_base
from pyrust_nn.models.model_folder import read_json
from pyrust_nn.models.saving import save_tokenizer
from pyrust_nn.models.stack import parent_folders
from pyrust_nn.models.tokenizers import TokenizerFiles
from pyrust_nn.proof.prove_outputs import prove_outputs


def check_plain(adapter):
    """Raise InputError for an adapter whose pairs are not what it adds to its base."""
    if how := changed_base(adapter.settings):
        raise InputError(
            f"adapter {adapter.folder} cannot be flattened: its initialization ({how}) changed the base's weights; "
            "merge it instead (task merge)"
        )


def run(params, session):
    """Join the pairs and save."""
    source = checked_adapter_folder(params.model)
    base = known_base_folder(params.model, params.base_model)
    stack = [read_adapter(folder, base) for folder in [*parent_folders(source), source]]
    for adapter in stack:
        check_plain(adapter)
    session.progress(0, 1, "flattening")
    with atomic_folder(session.step_folder / "adapter") as folder:
        if len(stack) == 1 and stack[0].converted:
            stack[0].write(folder)
        elif len(stack) == 1:
            for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE):
                if (source / name).is_file():
                    copy_file(source / name, folder / name)
        else:
            config, tensors = flatten_adapters(stack)
            save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
            write_json(folder / ADAPTER_CONFIG, config)
            if lineage := read_lineage(params.model):
                base = lineage["base"]
                write_lineage(folder, base["model"], base["sha256"], parent=params.model, stages=lineage["stages"])
        if (source / "generation_config.json").is_file():
            copy_file(source / "generation_config.json", folder / "generation_config.json")
        save_tokenizer(TokenizerFiles.from_model(params.model, params.base_model), folder)
    session.progress(1, 1)

    config = read_json(session.step_folder / "adapter" / ADAPTER_CONFIG)
    _, proof = prove_outputs([session.step_folder / "adapter"], params.model, params, session)

    return {
        "outputs": {"adapter": "adapter"},
        "metrics": {"adapters": len(stack), "lora_rank": config["r"], "lora_alpha": config["lora_alpha"]},
        **proof,
    }
