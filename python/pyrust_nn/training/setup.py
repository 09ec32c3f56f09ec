"""What precedes training: the device and the data set."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

import torch
from transformers import AutoConfig, set_seed

from pyrust_nn import InputError
from pyrust_nn._runtime.processes import Processes
from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn.models.devices import pick_device, pick_dtype
from pyrust_nn.models.loading import position_limit
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.multimodal import language_config
from pyrust_nn.training.compiling import check_compilable, check_compiler
from pyrust_nn.training.rows import PreparedRows
from pyrust_nn.training.session import TrainingSession
from pyrust_nn.wording import counted

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from pyrust_nn.types import DatasetOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The rows to train on, the rows held out for evaluation, and what the session says of the data set."""

    train: PreparedRows
    evaluation: PreparedRows | None
    digest: str  # of the data set's files
    options: DatasetOptions
    counts: dict[str, int]
    findings: dict[str, list[str]] = field(default_factory=dict)  # what `check` says of it: `warnings` and `notes`


class JoiningSession(Protocol):
    """The part of a step's session that knows of its processes."""

    processes: Processes
    ranks: Ranks
    cleanup: ExitStack


def initialize_training(params: SimpleNamespace, session: JoiningSession) -> tuple[torch.device, torch.dtype]:
    """Seed every random generator, join the step's processes; return the device and the dtype to compute with.

    Raises InputError for a dtype that the device cannot train in, SetupError if `compile` is on and no compiler works.
    """
    set_seed(params.seed)
    device = pick_device(params.device)
    if session.processes.size > 1:
        from pyrust_nn.training.distributed import joined_ranks, local_device

        device = local_device(device, session.processes)
        session.ranks = session.cleanup.enter_context(joined_ranks(session.processes, device))
    dtype = pick_dtype(params.dtype, device)
    if dtype == torch.float16 and device.type != "cuda":
        raise InputError("training in fp16 needs a CUDA device, since its loss must be scaled; set dtype to bf16 or fp32")
    if params.compile:
        check_compiler(device.type)
    return device, dtype


def load_data(params: SimpleNamespace, config: PretrainedConfig, session: TrainingSession) -> TrainingData:
    """Take the data sets from the session. `config` is the model's: `max_length` must not exceed its positions."""
    positions = position_limit(config)
    if positions is not None and params.max_length > positions:
        raise InputError(
            f"max_length {params.max_length} exceeds the {positions} positions (max_position_embeddings) of "
            f"{params.model}; set max_length to {positions} or less"
        )
    if params.compile:
        check_compilable(config)
    prepared = session.dataset("dataset_path")
    train = PreparedRows(prepared["path"])
    evaluation = PreparedRows(prepared["eval_path"]) if prepared["eval_path"] else None
    if params.eval_dataset_path:
        evaluation = PreparedRows(session.dataset("eval_dataset_path")["path"])
    logger.info("%s to train on, %d to evaluate", counted(len(train), "row"), len(evaluation or ()), extra={"shown": "off_terminal"})
    counts = {name: count for name, count in prepared.items() if isinstance(count, int) and name != "cached"}
    counts["eval_rows"] = len(evaluation or ())
    findings = {name: prepared[name] for name in ("warnings", "notes")}
    return TrainingData(train, evaluation, prepared["digest"], prepared["options"], counts, findings)


def model_config(model: str) -> PretrainedConfig:
    """The configuration of a model, read without its weights; that of its language part if this is loaded as a model of its own.

    Raises ModelError if the model has other parts, and the language part cannot be loaded alone.
    """
    config = AutoConfig.from_pretrained(model_folder(model), local_files_only=True, trust_remote_code=False)
    return language_config(config) or config
