"""Measures what an adapter forgets: the loss on the data sets of its earlier stages, before and after a new stage."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pyrust_nn import InputError, _core
from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn.cpu.packed_attention import packed_attention
from pyrust_nn.cpu.patching import patched_layers
from pyrust_nn.training.batches import BatchLayout, MicroBatching, on_device, row_length, target_tokens
from pyrust_nn.training.evaluation import set_eval_mode
from pyrust_nn.training.memory import release_memory
from pyrust_nn.training.rows import PreparedRows, Row
from pyrust_nn.training.target_loss import TargetLoss

logger = logging.getLogger(__name__)


class ForgettingTable:
    """A result for each earlier stage whose data set still exists unchanged; the log names the others."""

    def __init__(
        self,
        stages: list[dict[str, Any]],
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        *,
        batching: MicroBatching,
        rows: int,
        ranks: Ranks,
    ) -> None:
        """`stages` are those of lineage.json, `folder` has the tokenizer, `dtype` is what the loss is computed in.

        rows: how many rows of each data set are used at most, spread evenly over it. The `ranks` share them.
        """
        self.device, self.dtype, self.batching, self.ranks = device, dtype, batching, ranks
        self.rows: list[dict[str, Any]] = []
        self._datasets: list[list[Row]] = []
        for number, stage in enumerate(stages if rows else [], 1):
            path = ", ".join(stage["dataset_path"])
            prepared = ranks.broadcast_object(partial(prepare_stage, folder, stage, number))
            if prepared is None:
                continue
            if prepared["digest"] != stage["digest"]:
                logger.warning("forgetting of stage %d is not measured: %s has changed", number, path)
                continue
            dataset = PreparedRows(prepared["path"])
            count = min(rows, len(dataset))
            self.rows.append({"stage": number, "dataset_path": path, "rows": count})
            self._datasets.append([dataset[at * len(dataset) // count] for at in range(count)])

    def measure(self, model: Any, when: str) -> None:
        """Measure the mean loss per target token of every stage as `loss_<when>`, and the difference once both exist.

        when: `before` or `after`.
        """
        training = model.training
        set_eval_mode(model)
        for row, dataset in zip(self.rows, self._datasets, strict=True):
            row[f"loss_{when}"] = mean_loss(model, dataset, self.device, self.dtype, self.batching, self.ranks)
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


def prepare_stage(folder: Path, stage: dict[str, Any], number: int) -> dict[str, Any] | None:
    """The prepared data set of an earlier stage; None, with a warning, if it cannot be prepared any more."""
    try:
        prepared: Any = _core.prepare_dataset(
            folder, dataset_path=stage["dataset_path"], eval_split=stage["eval_split"], **stage["options"]
        )
    except InputError as cause:
        logger.warning("forgetting of stage %d is not measured: %s", number, cause)
        return None
    known: dict[str, Any] = prepared
    return known


def mean_loss(model: Any, rows: list[Row], device: torch.device, dtype: torch.dtype, batching: MicroBatching, ranks: Ranks) -> float:
    """The mean loss over all target tokens, computed in micro-batches as in an evaluation.

    If memory runs out, fewer rows are computed at once.
    """
    target_loss = TargetLoss(model)
    packed = packed_attention(model, dtype) if batching.layout is BatchLayout.PACKED else nullcontext()
    layers = patched_layers(model) if device.type == "cpu" else nullcontext()
    mixed = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    own = ranks.shard(rows)
    with packed, layers, target_loss, torch.no_grad(), mixed:
        while True:
            parts = batching.split(own)
            try:
                total = torch.zeros((), dtype=torch.float64, device=device)
                for part in parts:
                    total += _loss_sum(model, target_loss, batching.inputs(part), device)
                break
            except torch.OutOfMemoryError:
                if len(parts) == len(own):
                    raise
            largest = max(sum(map(row_length, part)) for part in parts)
            batching = replace(batching, max_tokens=max(1, largest // 2))
            release_memory()
    return ranks.all_reduce_sum(float(total)) / target_tokens(rows)


def _loss_sum(model: Any, target_loss: TargetLoss, inputs: dict[str, Any], device: torch.device) -> torch.Tensor:
    inputs = on_device(inputs, device)
    if not target_loss.usable:
        del inputs["target_positions"]
    outputs = model(**inputs, num_items_in_batch=torch.ones((), device=device))
    loss = outputs.loss
    if getattr(outputs, "aux_loss", None) is not None:  # the router's, which the model adds
        loss = loss - target_loss.base.router_aux_loss_coef * outputs.aux_loss
    summed: torch.Tensor = loss.double()
    return summed
