"""Convert a model to GGUF, for llama.cpp and Ollama, in one or several types. An adapter is merged first.

Input: a model folder or an adapter. Output: `<name>.<outtype>.gguf` for each type, and beside it the Modelfile with which
Ollama imports it: `Modelfile`, or `Modelfile.<outtype>` if there are several types.
"""

import tempfile
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig

from pyrust_nn.files import write_text
from pyrust_nn.gguf_export.keys import model_label
from pyrust_nn.gguf_export.layout import architecture
from pyrust_nn.gguf_export.mix import TypeChoices
from pyrust_nn.gguf_export.modelfile import render_modelfile
from pyrust_nn.gguf_export.plan import Importance, model_plan, plain_config
from pyrust_nn.gguf_export.writing import write_gguf_files
from pyrust_nn.models.adapter_folder import check_base_model, is_adapter
from pyrust_nn.models.devices import pick_device
from pyrust_nn.models.generation import end_of_turn, set_stop_tokens
from pyrust_nn.models.loading import position_limit
from pyrust_nn.models.merging import merged_model
from pyrust_nn.models.model_folder import model_folder, read_json
from pyrust_nn.models.saving import save_model
from pyrust_nn.models.tokenizers import TokenizerFiles, shared_tokenizer
from pyrust_nn.proof.prove_outputs import prove_outputs

IMATRIX = "imatrix.gguf"


def run(params, session):
    """Plan every file, which finds nearly all errors; then write them."""
    choices = TypeChoices.checked(params.token_embedding_type, params.output_tensor_type, params.tensor_type)
    rows = session.dataset("imatrix_dataset")["path"] if params.imatrix_dataset else None
    importance = Importance.read(params.imatrix)
    with whole_model(params, session) as (folder, name):
        if rows is not None:
            importance = Importance.read(computed_imatrix(folder, rows, params, session))
        targets = {outtype: session.step_folder / f"{name.stem}.{outtype}.gguf" for outtype in params.outtype}
        plans = {outtype: model_plan(folder, outtype, target, name, choices, importance) for outtype, target in targets.items()}
        sizes = write_gguf_files(plans, session)
        write_modelfiles(folder, list(targets.values()), params.outtype)

    files, proof = prove_outputs(list(targets.values()), params.model, params, session)
    made = {"imatrix": IMATRIX} if rows is not None else {}
    return {"outputs": {"gguf": [file.name for file in files], **made}, "metrics": sizes, **proof}


@contextmanager
def whole_model(params, session):
    """Yield the folder of a whole model and its label; for an adapter a temporary folder with the merged model."""
    check_base_model(params.model, params.base_model)
    if not is_adapter(params.model):
        folder = model_folder(params.model)
        yield folder, model_label(params.model, folder)
        return
    session.progress(0, 1, "merging the adapter")
    adapter = model_folder(params.model)
    tokenizer = TokenizerFiles.from_model(params.model, params.base_model)
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=session.step_folder) as temporary:
        model = merged_model(params.model, pick_device(params.device), None, params.base_model)
        set_stop_tokens(model.generation_config, tokenizer, tokenizer.end_of_turn)
        save_model(model, tokenizer, Path(temporary))
        del model
        yield Path(temporary), model_label(params.model, adapter)


def computed_imatrix(folder, rows, params, session):
    """The file of an importance matrix, computed on the data set that `imatrix` names."""
    # A conversion without it needs neither torch nor pyarrow.
    from pyrust_nn.gguf_export.imatrix import compute_imatrix, load_measured
    from pyrust_nn.training.rows import PreparedRows

    config = plain_config(folder)
    architecture(config)
    model = load_measured(str(folder), pick_device(params.device))
    target = session.step_folder / IMATRIX
    compute_imatrix(model, config, PreparedRows(rows), params.imatrix_tokens, target, params.imatrix_dataset, session)
    return str(target)


def write_modelfiles(folder, targets, outtypes):
    """Write one Modelfile for each GGUF file."""
    tokenizer = shared_tokenizer(str(folder))
    generation = folder / "generation_config.json"
    settings = read_json(generation) if generation.is_file() else {}
    positions = position_limit(AutoConfig.from_pretrained(folder, local_files_only=True))
    for target, outtype in zip(targets, outtypes, strict=True):
        name = "Modelfile" if len(targets) == 1 else f"Modelfile.{outtype}"
        write_text(target.parent / name, render_modelfile(target, tokenizer, settings, end=end_of_turn(folder), positions=positions))
