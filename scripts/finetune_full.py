"""Full fine-tuning: trains every weight of the model on the conversations.

Input: a model and a data set. Output: `model/`, a model folder like the input.
"""

import torch

from pyrust_nn import InputError
from pyrust_nn.files import atomic_folder
from pyrust_nn.models.adapter_folder import is_adapter
from pyrust_nn.models.added_tokens import TrainingTokenizer, add_embedding_rows
from pyrust_nn.models.devices import dtype_name
from pyrust_nn.models.generation import set_stop_tokens
from pyrust_nn.models.loading import load_model, stored_dtype
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.saving import save_model
from pyrust_nn.training.loop import train
from pyrust_nn.training.report_files import TrainingReportFiles
from pyrust_nn.training.setup import initialize_training, load_data, model_config


def run(params, session):
    """Train, save, report."""
    if is_adapter(params.model):
        raise InputError(
            f"{params.model} is a LoRA adapter, which has no weights of its own to fine-tune in full; merge it first "
            "(task merge) and give the merged folder as model, or continue it with finetune_lora and checkpoint_lora"
        )
    device, dtype = initialize_training(params, session)

    # Invalid input is refused before any weight is loaded.
    tokens = TrainingTokenizer.of(params)
    tokenizer = tokens.files
    session.depends_on("model", model_folder(params.model))
    config = model_config(params.model)
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{params.model} is quantized, and quantized weights cannot be trained; give the model from which it "
            "was quantized, or train an adapter on it with finetune_lora"
        )
    data = load_data(params, config, session)

    # Trained weights are fp32 in every `dtype`; see pyrust_nn.training.loop.
    model = load_model(params.model, device=device, dtype=torch.float32)
    add_embedding_rows(model, tokens)
    set_stop_tokens(model.generation_config, tokenizer, tokenizer.end_of_turn)
    report = TrainingReportFiles(params, data, session, tokens.folder, end_of_turn=tokenizer.end_of_turn, device=device, dtype=dtype)
    if session.ranks.first:
        report.before(model)
    metrics = train(model, tokenizer, data, params, session, device=device, dtype=dtype, checkpoint=session.checkpoint)
    if not session.ranks.first:
        return None

    # The output has the dtype of the input, unless another one was requested.
    saved = stored_dtype(params.model) if params.dtype == "auto" else dtype
    with atomic_folder(session.step_folder / "model") as folder:
        save_model(model.to(saved), tokenizer, folder, model_folder(params.model))
    report.after(model)

    return {
        "outputs": {"model": "model"},
        "metrics": metrics,
        "params": {"device": str(device), "dtype": dtype_name(dtype)},
    }
