"""Full fine-tuning: every weight of the model learns from the conversations.

In: a model and a data set. Out: `model/`, a model folder like the one that came in.
"""

import torch

from pyrust_nn import InputError
from pyrust_nn.files import atomic_folder
from pyrust_nn.models import is_adapter, load_model, model_folder, stored_dtype
from pyrust_nn.saving import TokenizerFiles, save_model, set_stop_tokens
from pyrust_nn.training import DTYPE_NAMES, load_data, model_config, prepare, train


def run(params, session):
    """Train, save, report."""
    if is_adapter(params.model):
        raise InputError(
            f"{params.model} is a LoRA adapter, which has no weights of its own to fine-tune in full; merge it first "
            "(task merge) and give the merged folder as model, or continue it with finetune_lora and checkpoint_lora"
        )
    device, dtype = prepare(params)

    # What can be refused is refused before any weight is loaded.
    tokenizer = TokenizerFiles.of(params.model)
    session.depends_on("model", model_folder(params.model))
    config = model_config(params.model)
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{params.model} is quantized, and quantized weights cannot be trained; give the model that it was made "
            "from, or train an adapter on it with finetune_lora"
        )
    data = load_data(params, config)

    # The weights that learn are fp32 whatever `dtype` is; see pyrust_nn.training.
    model = load_model(params.model, device=device, dtype=torch.float32)
    set_stop_tokens(model.generation_config, tokenizer)
    metrics = train(model, tokenizer, data, params, session, device=device, dtype=dtype, checkpoint=session.checkpoint)

    # The new folder is as large as the old one, unless another dtype was asked for.
    saved = stored_dtype(params.model) if params.dtype == "auto" else dtype
    with atomic_folder(session.step_folder / "model") as folder:
        save_model(model.to(saved), tokenizer, folder)

    return {
        "outputs": {"model": "model"},
        "metrics": metrics,
        "params": {"device": str(device), "dtype": DTYPE_NAMES[dtype]},
    }
