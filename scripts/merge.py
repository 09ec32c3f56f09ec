"""Merge: an adapter and its base become one plain model that needs no peft.

In: an adapter. Out: `model/`, a model folder like the base's.
"""

from pyrust_nn.files import atomic_folder, folder_size
from pyrust_nn.models import dtype_name, merged_model, pick_device, pick_dtype
from pyrust_nn.saving import TokenizerFiles, save_model, set_stop_tokens


def run(params, session):
    """Add the adapter to its base in float32, round once, save."""
    device = pick_device(params.device)
    dtype = None if params.dtype == "auto" else pick_dtype(params.dtype, device)

    session.progress(0, 2, "merging")
    tokenizer = TokenizerFiles.of(params.model)
    model = merged_model(params.model, device, dtype)
    set_stop_tokens(model.generation_config, tokenizer)

    session.progress(1, 2, "saving")
    with atomic_folder(session.step_folder / "model") as folder:
        save_model(model, tokenizer, folder)
    session.progress(2, 2)

    return {
        "outputs": {"model": "model"},
        "metrics": {"size_bytes": folder_size(session.step_folder / "model")},
        "params": {"device": str(device), "dtype": dtype_name(model.dtype)},
    }
