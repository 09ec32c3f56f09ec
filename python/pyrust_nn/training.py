"""What both ways of fine-tuning share: the data, the training loop over transformers' Trainer, and its figures.

A training step is `batch_size` x `gradient_accumulation_steps` rows in an order that `seed` decides. Its loss is the
mean over all target tokens of the step, so how the rows are spread over micro-batches changes nothing (without
dropout); a budget of tokens spreads them (see `batches`). A row is a conversation, or one of its turns where the template
rewrites history (see `chat`). Every row comes once in each epoch; the last step of an epoch has what remains.

Numbers: fp32 computes in fp32. bf16 and fp16 compute by autocast, while the weights being trained stay in fp32 (updates
of 1e-5 vanish in 8 bits of mantissa), and fp16 scales its loss. So full fine-tuning takes 16 bytes a parameter in every
dtype; LoRA keeps its frozen base in `dtype`.
"""

from __future__ import annotations

import logging
import math
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, PrinterCallback, set_seed

from pyrust_nn import InputError, UsageError
from pyrust_nn.arguments import training_arguments
from pyrust_nn.attention import can_pack, packed_attention
from pyrust_nn.batches import MAX_TOKENS, Batches, Layout
from pyrust_nn.callbacks import ETACallback, MetricsCallback, ProgressCallback, Session, TrainingMeter
from pyrust_nn.checkpoints import StopCallback, taken_up
from pyrust_nn.compiling import check_compilable, check_compiler, compiled_layers
from pyrust_nn.evaluation import EvaluationCallback, check_evaluation
from pyrust_nn.layers import fused_layers
from pyrust_nn.memory import empty_memory, give_back_memory, own_memory, peak_memory_bytes, too_small
from pyrust_nn.models import model_folder, pick_device, pick_dtype, position_limit
from pyrust_nn.reports import reporters
from pyrust_nn.rows import Rows, prepare_rows, row_options
from pyrust_nn.trainer import ConversationTrainer, collate

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from pyrust_nn.saving import AnyTokenizer

logger = logging.getLogger(__name__)

DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class TrainingData:
    """The rows to train on, those held out for evaluation, and the counts of `prepare_dataset`."""

    train: Rows
    evaluation: Rows | None
    digest: str  # of the data set's files
    counts: dict[str, int]


def prepare(params: SimpleNamespace) -> tuple[torch.device, torch.dtype]:
    """Seed every random generator; the device and the dtype to compute in."""
    if (processes := int(os.environ.get("WORLD_SIZE") or 1)) > 1:
        raise UsageError(
            f"this is one of {processes} processes (WORLD_SIZE, as torchrun sets it), and training runs in one alone so far: each of them "
            "would open the session for itself. Start pyrust-nn without a launcher, or unset WORLD_SIZE"
        )
    set_seed(params.seed)
    device = pick_device(params.device)
    dtype = pick_dtype(params.dtype, device)
    if dtype == torch.float16 and device.type != "cuda":
        raise InputError("training in fp16 needs a CUDA device (its loss must be scaled); set dtype to bf16 or fp32")
    if params.compile:
        check_compiler(device)
    return device, dtype


def load_data(params: SimpleNamespace, config: PretrainedConfig) -> TrainingData:
    """Prepare the data set, or find it prepared. `config` is the model's: no sample may exceed its positions."""
    positions = position_limit(config)
    if positions is not None and params.max_length > positions:
        raise InputError(
            f"max_length {params.max_length} is beyond the {positions} positions (max_position_embeddings) of "
            f"{params.model}; set max_length to {positions} or less"
        )
    check_evaluation(params)
    if params.compile:
        check_compilable(config)
    prepared = prepare_rows(params.model, params.dataset_path, row_options(params), params.eval_split)
    train = Rows(prepared["path"])
    evaluation = Rows(prepared["eval_path"]) if prepared["eval_path"] else None
    if params.eval_dataset_path:
        evaluation = Rows(prepare_rows(params.model, params.eval_dataset_path, row_options(params))["path"])
    logger.info("%d rows to train on, %d to evaluate", len(train), len(evaluation or ()))
    counts = {name: count for name, count in prepared.items() if isinstance(count, int) and name != "cached"}
    return TrainingData(train, evaluation, prepared["digest"], counts | {"eval_rows": len(evaluation or ())})


def model_config(model: str) -> PretrainedConfig:
    """The configuration of a model, read without its weights."""
    return AutoConfig.from_pretrained(model_folder(model), local_files_only=True, trust_remote_code=False)


def pick_batches(params: SimpleNamespace, config: PretrainedConfig, device: torch.device) -> Batches:
    """How a step's rows are cut. Raises InputError where packing is asked for and would change what is learned."""
    obstacle = None
    if not can_pack(config):
        obstacle = "some layers of this model are recurrent and would carry one row's state into the next"
    elif params.neftune_alpha:
        obstacle = "neftune_alpha scales its noise by the length of a row"
    if params.packing == "on" and obstacle:
        raise InputError(f"packing cannot be on: {obstacle}; set it to auto")
    layout = Layout.PACKED
    if obstacle or params.packing == "off":
        # On a GPU many rows must go together, and sorted rows have little padding; a CPU is busy with one.
        layout = Layout.EQUAL if device.type == "cpu" else Layout.PADDED
    return Batches(layout, params.max_tokens_per_batch or MAX_TOKENS.get(device.type, MAX_TOKENS["cuda"]))


def train(
    model: Any,
    tokenizer: AnyTokenizer,
    data: TrainingData,
    params: SimpleNamespace,
    session: Session,
    *,
    device: torch.device,
    dtype: torch.dtype,
    checkpoint: Path | None = None,
    loraplus_ratio: float | None = None,
) -> dict[str, float]:
    """Train the trainable weights of `model` in place, from a `checkpoint` on where one is given, and return the step's metrics.

    `loraplus_ratio` is for adapters alone (see `optimizers`).

    metrics.jsonl and the progress bar go to `session`; with `save_steps`, checkpoints to <step>/checkpoints. With
    `load_best_model_at_end` the weights are those of the lowest evaluation loss. Of the
    metrics, losses are per target token (train_loss: mean of all steps; first_loss, last_loss: of one step), rates are
    of training steps alone, and the counts of data include the `eval_rows`.
    Raises ModelError if the loss or the weights stop being numbers.
    """
    meter, eta, stop = TrainingMeter(), ETACallback(), StopCallback()
    batches = pick_batches(params, model.config, device)
    saves = bool(params.save_steps or params.load_best_model_at_end)
    steps_per_epoch = math.ceil(len(data.train) / (params.batch_size * params.gradient_accumulation_steps))
    eval_steps = (params.eval_steps or steps_per_epoch) if data.evaluation else 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = ConversationTrainer(
        model=model,
        tokenizer=tokenizer,
        meter=meter,
        session=session,
        evaluation=EvaluationCallback(patience=params.early_stopping_patience, saves=saves),
        batches=batches,
        loraplus_ratio=loraplus_ratio,
        args=training_arguments(params, session, device, dtype, eval_steps=eval_steps, saves=saves),
        data_collator=collate,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        callbacks=[
            eta,
            ProgressCallback(session, eta, meter),
            MetricsCallback(session, eta, meter, lambda: peak_memory_bytes(device)),
            stop,
        ],
    )
    trainer.remove_callback(PrinterCallback)  # stands in for the progress bar that is turned off, and prints dicts
    own_memory(model)
    packed = packed_attention(model, dtype) if batches.layout is Layout.PACKED else nullcontext()
    give_back_memory()
    alone = device.type == "cpu" and trainer.args.world_size == 1
    layers: AbstractContextManager[None] = nullcontext()
    if params.compile:
        layers = compiled_layers(model, checkpointing=params.gradient_checkpointing)
    elif alone:
        layers = fused_layers(model)
    signals = stop.listening() if saves else nullcontext()
    with reporters(params.report_to or [], session) as reports, packed, layers, signals, taken_up(trainer, checkpoint, session.step_folder):
        for report in reports:
            trainer.add_callback(report)
        try:
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except torch.OutOfMemoryError as cause:
            raise too_small(device, "for this training") from cause
    trainer.check_weights()
    last_evaluation = next((log["eval_loss"] for log in reversed(trainer.state.log_history) if "eval_loss" in log), None)
    if params.load_best_model_at_end:
        trainer.load_best()
        last_evaluation = trainer.state.best_metric
    model.config.use_cache = trainer.use_cache

    sizes = [(p.numel() * _packed(p), p.requires_grad) for p in model.parameters()]
    metrics = {
        "train_loss": result.training_loss,
        "first_loss": meter.first_loss,
        "last_loss": meter.last_loss,
        "eval_loss": last_evaluation,
        "best_eval_loss": trainer.state.best_metric,
        "best_step": trainer.state.best_global_step if saves else None,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        **data.counts,
        "trainable_parameters": sum(size for size, trainable in sizes if trainable),
        "all_parameters": sum(size for size, _ in sizes),
        # None where the checkpoint that was resumed had no step left.
        "tokens_per_second": meter.tokens / eta.training_seconds if eta.training_seconds else None,
        "target_tokens_per_second": meter.target_tokens / eta.training_seconds if eta.training_seconds else None,
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    # One process runs many steps: give back what this one held.
    del trainer
    empty_memory()
    return {name: value for name, value in metrics.items() if value is not None}


def _packed(parameter: torch.Tensor) -> int:
    """How many weights an element of a quantized parameter holds."""
    return 2 * parameter.element_size() if parameter.__class__.__name__ == "Params4bit" else 1
