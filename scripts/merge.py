"""Merge: joins an adapter and its base into one plain model that needs no peft.

Input: an adapter. Output: `model/`, a model folder like the base's.
"""

from pyrust_nn.files import atomic_folder, folder_size
from pyrust_nn.models.adapter_folder import check_base_model, whole_folder
from pyrust_nn.models.devices import dtype_name, pick_device, pick_dtype
from pyrust_nn.models.generation import set_stop_tokens
from pyrust_nn.models.merging import merged_model
from pyrust_nn.models.saving import save_model
from pyrust_nn.models.tokenizers import TokenizerFiles
from pyrust_nn.proof.prove_outputs import prove_outputs


def run(params, session):
    """Add the adapter to its base in float32, round once, save."""
    device = pick_device(params.device)
    dtype = None if params.dtype == "auto" else pick_dtype(params.dtype, device)

    session.progress(0, 2, "merging")
    check_base_model(params.model, params.base_model)
    tokenizer = TokenizerFiles.from_model(params.model, params.base_model)
    model = merged_model(params.model, device, dtype, params.base_model)
    set_stop_tokens(model.generation_config, tokenizer, tokenizer.end_of_turn)

    session.progress(1, 2, "saving")
    with atomic_folder(session.step_folder / "model") as folder:
        save_model(model, tokenizer, folder, whole_folder(params.model, params.base_model))
    session.progress(2, 2)
    _, proof = prove_outputs([session.step_folder / "model"], params.model, params, session)

    return {
        "outputs": {"model": "model"},
        "metrics": {"size_bytes": folder_size(session.step_folder / "model")},
        "params": {"device": str(device), "dtype": dtype_name(model.dtype)},
        **proof,
    }
