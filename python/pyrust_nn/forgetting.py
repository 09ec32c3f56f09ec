"""What an adapter forgets: the loss on the data sets of its earlier stages, before and after a further one."""

from __future__ import annotations

import logging
from typing import Any

import torch

from pyrust_nn import InputError
from pyrust_nn.evaluation import set_evaluating
from pyrust_nn.rows import IGNORED, Rows, prepare_rows

logger = logging.getLogger(__name__)


class ForgettingTable:
    """A row for each earlier stage whose data set is still there, unchanged; others are said in the log."""

    def __init__(self, stages: list[dict[str, Any]], model: str, device: torch.device, dtype: torch.dtype) -> None:
        """`stages` of lineage.json; `model` is the base; `dtype` is what is computed in."""
        self.device, self.dtype = device, dtype
        self.rows: list[dict[str, Any]] = []
        self._samples: list[Rows] = []
        for number, stage in enumerate(stages, 1):
            path = ", ".join(stage["dataset_path"])
            try:
                prepared = prepare_rows(model, stage["dataset_path"], stage["options"], stage["eval_split"])
            except InputError as cause:
                logger.warning("what is forgotten of stage %d is not measured: %s", number, cause)
                continue
            if prepared["digest"] != stage["digest"]:
                logger.warning("what is forgotten of stage %d is not measured: %s has changed", number, path)
                continue
            self.rows.append({"stage": number, "dataset_path": path})
            self._samples.append(Rows(prepared["path"]))

    def measure(self, model: Any, when: str) -> None:
        """Put the mean loss per target token of every row under `loss_<when>`, and the difference once both are there."""
        training = model.training
        set_evaluating(model)
        for row, samples in zip(self.rows, self._samples, strict=True):
            row[f"loss_{when}"] = mean_loss(model, samples, self.device, self.dtype)
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


def mean_loss(model: Any, samples: Rows, device: torch.device, dtype: torch.dtype) -> float:
    """The mean loss over all target tokens, row by row and without dropout; logits are made of target positions alone."""
    total, count = 0.0, 0
    for sample in samples:
        labels = torch.from_numpy(sample.labels.astype("int64")).to(device)[1:]
        places = (labels != IGNORED).nonzero().squeeze(1)  # the position before a target predicts it
        ids = torch.from_numpy(sample.input_ids.astype("int64")).to(device)[None]
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(input_ids=ids, logits_to_keep=places, use_cache=False).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits.float(), labels[places], reduction="sum"))
        count += len(places)
    return total / count
