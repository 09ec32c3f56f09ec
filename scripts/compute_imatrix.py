"""Compute an importance matrix: how much each column of each matrix matters on a data set, for GGUF files of few bits.

Input: a model or an adapter, and conversations. Output: `imatrix.gguf`, in the form of llama-imatrix, which
`convert_model_to_gguf` takes as `imatrix` (llama-quantize too).
"""

import logging
from pathlib import Path

import numpy as np
import torch

from pyrust_nn.gguf_export.imatrix import InputMeter, write_imatrix
from pyrust_nn.gguf_export.layout import TensorLayout
from pyrust_nn.gguf_export.plan import plain_config
from pyrust_nn.models.adapter_folder import check_base_model, is_adapter, whole_folder
from pyrust_nn.models.devices import pick_device
from pyrust_nn.models.loading import load_model
from pyrust_nn.models.merging import merged_model
from pyrust_nn.training.rows import PreparedRows

BATCH_TOKENS = 4096  # of a batch with its padding

logger = logging.getLogger(__name__)


def run(params, session):
    """Choose rows, compute with them, write the sums."""
    check_base_model(params.model, params.base_model)
    layout = TensorLayout(plain_config(whole_folder(params.model, params.base_model)))
    rows = PreparedRows(session.dataset()["path"])
    chosen, tokens = choose_rows(rows.lengths(), params.imatrix_tokens)
    if len(chosen) < len(rows):
        logger.info("%d of %d rows are used: %d tokens (imatrix_tokens)", len(chosen), len(rows), tokens)

    device = pick_device(params.device)
    dtype = torch.float32 if device.type == "cpu" else None
    if is_adapter(params.model):
        model = merged_model(params.model, device, dtype, params.base_model)
    else:
        model = load_model(params.model, device=device, dtype=dtype)

    meter, done = InputMeter(model, layout), 0
    for batch in batches([rows[at].input_ids for at in chosen]):
        session.progress(done, tokens, "tokens")
        meter.add(batch)
        done += sum(map(len, batch))
    session.progress(tokens, tokens, "tokens")

    unseen = {name: int((of.counts == 0).sum()) for name, of in meter.sums.items()}
    worst = max(unseen, key=lambda name: unseen[name])
    if unseen[worst]:
        more = "all their columns count alike; use more conversations"
        logger.warning("no token came to some experts, for example %d of %s: %s", unseen[worst], worst, more)
    given = params.dataset_path if isinstance(params.dataset_path, list) else [params.dataset_path]
    names = [Path(one["path"] if isinstance(one, dict) else one).name for one in given]
    write_imatrix(session.step_folder / "imatrix.gguf", meter.sums, names, len(chosen))
    return {
        "outputs": {"imatrix": "imatrix.gguf"},
        "metrics": {"rows": len(chosen), "tokens": tokens, "matrices": len(meter.sums), "unseen_experts": unseen[worst]},
        "params": {"device": str(device)},
    }


def choose_rows(lengths, limit):
    """Indices of rows with at most `limit` tokens together (at least one row), spread evenly over all; and their tokens."""
    every = max(1, -(-int(lengths.sum()) // limit))
    chosen: list[int] = []
    tokens = 0
    for at in range(0, len(lengths), every):
        if chosen and tokens + int(lengths[at]) > limit:
            break
        chosen.append(at)
        tokens += int(lengths[at])
    return chosen, tokens


def batches(rows):
    """Rows of similar length together, the longest first."""
    batch: list[np.ndarray] = []
    for row in sorted(rows, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
