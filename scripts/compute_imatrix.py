"""Compute an importance matrix: how much each column of each matrix matters on a data set, for GGUF files of few bits.

Input: a model or an adapter, and conversations. Output: `imatrix.gguf`, in the form of llama-imatrix, which
`convert_model_to_gguf` takes as `imatrix`.
"""

from pyrust_nn.gguf_export.imatrix import compute_imatrix, load_measured
from pyrust_nn.gguf_export.layout import architecture
from pyrust_nn.gguf_export.plan import plain_config
from pyrust_nn.models.adapter_folder import check_base_model, whole_folder
from pyrust_nn.models.devices import pick_device
from pyrust_nn.training.rows import PreparedRows


def run(params, session):
    """Check the model by its configuration, prepare the rows, load the weights, compute."""
    check_base_model(params.model, params.base_model)
    config = plain_config(whole_folder(params.model, params.base_model))
    architecture(config)
    rows = PreparedRows(session.dataset("dataset_path")["path"])

    device = pick_device(params.device)
    model = load_measured(params.model, device, params.base_model)
    target = session.step_folder / "imatrix.gguf"
    metrics = compute_imatrix(model, config, rows, params.imatrix_tokens, target, params.dataset_path, session)
    return {"outputs": {"imatrix": target.name}, "metrics": metrics, "params": {"device": str(device)}}
