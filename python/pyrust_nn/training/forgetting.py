"""Measures what an adapter forgets: the loss on the data sets of its earlier stages, before and after a new stage."""

from __future__ import annotations

import logging
from typing import Any

import torch

from pyrust_nn import InputError, _core
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.training.evaluation import set_eval_mode
from pyrust_nn.training.rows import IGNORED, PreparedRows

logger = logging.getLogger(__name__)


class ForgettingTable:
    """A result for each earlier stage whose data set still exists unchanged; the log names the others."""

    def __init__(self, stages: list[dict[str, Any]], model: str, device: torch.device, dtype: torch.dtype) -> None:
        """`stages` are those of lineage.json, `model` is the base, `dtype` is what the loss is computed in."""
        self.device, self.dtype = device, dtype
        self.rows: list[dict[str, Any]] = []
        self._datasets: list[PreparedRows] = []
        for number, stage in enumerate(stages, 1):
            path = ", ".join(stage["dataset_path"])
            try:
                prepared = _core.prepare_dataset(
                    model_folder(model), dataset_path=stage["dataset_path"], eval_split=stage["eval_split"], **stage["options"]
                )
            except InputError as cause:
                logger.warning("forgetting of stage %d is not measured: %s", number, cause)
                continue
            if prepared["digest"] != stage["digest"]:
                logger.warning("forgetting of stage %d is not measured: %s has changed", number, path)
                continue
            self.rows.append({"stage": number, "dataset_path": path})
            self._datasets.append(PreparedRows(prepared["path"]))

    def measure(self, model: Any, when: str) -> None:
        """Measure the mean loss per target token of every stage as `loss_<when>`, and the difference once both exist.

        when: `before` or `after`.
        """
        training = model.training
        set_eval_mode(model)
        for row, dataset in zip(self.rows, self._datasets, strict=True):
            row[f"loss_{when}"] = mean_loss(model, dataset, self.device, self.dtype)
            if "loss_before" in row and "loss_after" in row:
                row["forgotten"] = row["loss_after"] - row["loss_before"]
                logger.info(
                    "stage %d, %s: loss %.4f before this stage, %.4f after it",
                    row["stage"],
                    row["dataset_path"],
                    row["loss_before"],
                    row["loss_after"],
                )
        model.train(training)


def mean_loss(model: Any, rows: PreparedRows, device: torch.device, dtype: torch.dtype) -> float:
    """The mean loss over all target tokens, row by row; logits are computed at target positions only."""
    total, count = 0.0, 0
    for row in rows:
        labels = torch.from_numpy(row.labels.astype("int64")).to(device)[1:]
        positions = (labels != IGNORED).nonzero().squeeze(1)  # the position before a target predicts it
        ids = torch.from_numpy(row.input_ids.astype("int64")).to(device)[None]
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(input_ids=ids, logits_to_keep=positions, use_cache=False).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits.float(), labels[positions], reduction="sum"))
        count += len(positions)
    return total / count
