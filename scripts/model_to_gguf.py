"""Convert a model to GGUF, for llama.cpp and Ollama, in one or several number formats. An adapter is merged first.

In: a model folder or an adapter. Out: `<name>.<outtype>.gguf` for each format, and beside it the Modelfile by which
Ollama takes it in: `Modelfile`, or `Modelfile.<outtype>` where there are several formats.
"""

import tempfile
from contextlib import contextmanager
from pathlib import Path

from pyrust_nn.gguf_keys import label
from pyrust_nn.gguf_plan import model_plan, write_files
from pyrust_nn.modelfile import modelfile
from pyrust_nn.models import is_adapter, merged_model, pick_device, shared_tokenizer
from pyrust_nn.saving import TokenizerFiles, save_model, set_stop_tokens
from pyrust_nn.sources import model_folder, read_json


def run(params, session):
    """Plan every file, which finds nearly all that may be wrong; then write them."""
    with whole_model(params, session) as (folder, name):
        targets = {outtype: session.step_folder / f"{name.stem}.{outtype}.gguf" for outtype in params.outtype}
        plans = {outtype: model_plan(folder, outtype, target, name) for outtype, target in targets.items()}
        sizes = write_files(plans, session)
        write_modelfiles(folder, list(targets.values()), params.outtype)

    return {"outputs": {"gguf": [target.name for target in targets.values()]}, "metrics": sizes}


@contextmanager
def whole_model(params, session):
    """The folder of a whole model and its name; for an adapter a folder that lasts as long as the block."""
    if not is_adapter(params.model):
        folder = model_folder(params.model)
        yield folder, label(params.model, folder)
        return
    session.progress(0, 1, "merging the adapter")
    adapter = model_folder(params.model)
    tokenizer = TokenizerFiles.of(params.model)
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=session.step_folder) as made:
        model = merged_model(params.model, pick_device(params.device), None)
        set_stop_tokens(model.generation_config, tokenizer)
        save_model(model, tokenizer, Path(made))
        del model
        yield Path(made), label(params.model, adapter)


def write_modelfiles(folder, targets, outtypes):
    """One Modelfile for each GGUF file."""
    tokenizer = shared_tokenizer(str(folder))
    generation = folder / "generation_config.json"
    settings = read_json(generation) if generation.is_file() else {}
    for target, outtype in zip(targets, outtypes, strict=True):
        name = "Modelfile" if len(targets) == 1 else f"Modelfile.{outtype}"
        (target.parent / name).write_text(modelfile(target, tokenizer, settings), encoding="utf-8")
