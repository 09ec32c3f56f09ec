"""LoRA fine-tuning: the model is frozen, and small matrices beside its linear layers are trained.

Input: a model, a data set, and optionally an adapter (`checkpoint_lora`), which is continued or gets a new adapter stacked
on it (`checkpoint_mode`). Output: `adapter/`, for peft. With `load_in_4bit` the model's own weights are held in nf4 (QLoRA).
"""

import difflib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from pyrust_nn import InputError, _core
from pyrust_nn.files import atomic_folder
from pyrust_nn.models.adapter_folder import checked_adapter_folder, is_adapter
from pyrust_nn.models.adapter_tokens import check_adapter_tokens
from pyrust_nn.models.adapters import attach_adapter, read_adapter
from pyrust_nn.models.added_tokens import TrainingTokenizer, add_embedding_rows, train_rows_in_float32, trained_rows
from pyrust_nn.models.devices import dtype_name
from pyrust_nn.models.generation import set_stop_tokens
from pyrust_nn.models.lineage import check_trained_on, read_lineage, write_lineage
from pyrust_nn.models.loading import freeze_quantized, load_model
from pyrust_nn.models.lora_pairs import check_rebuildable
from pyrust_nn.models.lora_targets import adapts_experts, lora_target_modules
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.saving import save_model
from pyrust_nn.models.stack import NEWEST_ADAPTER, add_parents, check_stackable, parent_folders
from pyrust_nn.training.forgetting import ForgettingTable
from pyrust_nn.training.loop import train
from pyrust_nn.training.packing import choose_batching
from pyrust_nn.training.report_files import TrainingReportFiles
from pyrust_nn.training.setup import initialize_training, load_data, model_config

logger = logging.getLogger(__name__)


def run(params, session):
    """Train, save, report."""
    if is_adapter(params.model):
        raise InputError(
            f"{params.model} is itself a LoRA adapter; to continue training it, give its base as model and the adapter as "
            "checkpoint_lora (checkpoint_mode stack trains a new adapter on top of it), or merge it first (task merge)"
        )
    device, dtype = initialize_training(params, session)

    # Invalid input is refused before any weight is loaded.
    parents, checkpoint = starting_adapters(params)
    tokens = TrainingTokenizer.of(params)
    tokenizer = tokens.files
    session.depends_on("model", model_folder(params.model))
    for number, parent in enumerate(parents, 1):
        session.depends_on(f"parent {number} of checkpoint_lora", parent)
    config = model_config(params.model)
    data = load_data(params, config, session)

    model = load_model(params.model, device=device, dtype=dtype, load_in_4bit=params.load_in_4bit)
    set_stop_tokens(model.generation_config, tokenizer, tokenizer.end_of_turn)
    add_embedding_rows(model, tokens)
    if getattr(model, "is_quantized", False):
        freeze_quantized(model)
    if checkpoint is not None:
        model = attach_adapter(model, checkpoint, trainable=True, dropout=params.lora_dropout)
    else:
        model = get_peft_model(model, new_config(params, model, tokens))
    train_rows_in_float32(model)
    if checkpoint is not None:
        check_adapter_tokens(checkpoint.folder, model_folder(params.model), model)
    lora = model.peft_config[NEWEST_ADAPTER]
    lora.base_model_name_or_path = params.model
    add_parents(model, parents, model_folder(params.model), trainable=True)

    earlier = (read_lineage(params.checkpoint_lora) or {}).get("stages", []) if params.checkpoint_lora else []
    batching = choose_batching(params, model.config, device)
    forgetting = ForgettingTable(earlier, tokens.folder, device, dtype, batching=batching, rows=params.forgetting_rows, ranks=session.ranks)
    forgetting.measure(model, "before")
    report = TrainingReportFiles(params, data, session, tokens.folder, end_of_turn=tokenizer.end_of_turn, device=device, dtype=dtype)
    if session.ranks.first:
        report.before(model)
    with ThreadPoolExecutor(1) as executor:  # reading a large base takes long; it is the reading that the session began
        base_hash = executor.submit(_core.weights_hash, model_folder(params.model)) if session.ranks.first else None
        metrics = train(
            model,
            tokenizer,
            data,
            params,
            session,
            device=device,
            dtype=dtype,
            checkpoint=session.checkpoint,
            loraplus_ratio=params.loraplus_ratio,
        )
    forgetting.measure(model, "after")
    if base_hash is None:
        return None  # rank 0 saves

    with atomic_folder(session.step_folder / "adapter") as folder:
        save_model(model, tokenizer, folder)
        stages = [*earlier, this_stage(params, data)]
        write_lineage(folder, params.model, base_hash.result(), parent=params.checkpoint_lora, stages=stages)
    report.after(model)

    return {
        "outputs": {"adapter": "adapter"},
        "metrics": metrics,
        "result": {"forgetting": forgetting.rows} if earlier else None,
        "params": {
            "device": str(device),
            "dtype": dtype_name(dtype),
            "lora_rank": lora.r,
            "lora_alpha": lora.lora_alpha,
            "lora_dropout": lora.lora_dropout,
            "target_modules": module_names(lora.target_modules),
            "use_rslora": lora.use_rslora,
            "use_dora": lora.use_dora,
        },
    }


def starting_adapters(params):
    """The folders of the frozen parents, and the adapter that is continued (None for a new one)."""
    checkpoint = params.checkpoint_lora
    if not checkpoint:
        return [], None
    adapter = read_checkpoint(params)
    folder = adapter.folder
    if params.checkpoint_mode == "continue":
        return parent_folders(folder), adapter
    check_stackable(folder)
    return [*parent_folders(folder), folder], None


def new_config(params, model, tokens):
    """The configuration of a new adapter: the parameters, else the published defaults."""
    if params.target_modules:
        layers = (torch.nn.Linear, torch.nn.Embedding)
        possible = {name for name, module in model.named_modules() if isinstance(module, layers)}
        for target in params.target_modules:
            if not any(name == target or name.endswith(f".{target}") for name in possible):
                known = sorted({name.rpartition(".")[2] for name in possible})
                near = "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(target.rpartition(".")[2], known, 1))
                raise InputError(
                    f"target_modules: {params.model} has no layer {target!r} that LoRA can adapt; it has {', '.join(known)}{near}"
                )
    defaults = _core.lora_defaults()
    target_modules = params.target_modules or lora_target_modules(model)
    dropout = defaults["lora_dropout"] if params.lora_dropout is None else params.lora_dropout
    if dropout and adapts_experts(model, target_modules):
        if params.lora_dropout:
            raise InputError(
                "lora_dropout: peft has no dropout for the fused experts of this model, which target_modules names; set it to 0"
            )
        logger.info("the fused experts of this model are adapted too; peft has no dropout for them, so lora_dropout is 0")
        dropout = 0.0
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=defaults["lora_rank"] if params.lora_rank is None else params.lora_rank,
        lora_alpha=defaults["lora_alpha"] if params.lora_alpha is None else params.lora_alpha,
        lora_dropout=dropout,
        target_modules=target_modules,
        trainable_token_indices=trained_rows(model, tokens, target_modules),
        use_rslora=bool(params.use_rslora),
        use_dora=bool(params.use_dora),
    )


def read_checkpoint(params):
    """Read `checkpoint_lora`. Raises InputError if its base differs, or if it is continued and the parameters differ."""
    checkpoint = params.checkpoint_lora
    if not is_adapter(checkpoint):
        raise InputError(f"checkpoint_lora: {checkpoint} is not a LoRA adapter (it has no adapter_config.json); give the folder of one")
    adapter = read_adapter(checked_adapter_folder(checkpoint), model_folder(params.model))
    if adapter.settings["peft_type"] != "LORA":
        kind = adapter.settings["peft_type"]
        raise InputError(f"checkpoint_lora: {checkpoint} is an adapter of type {kind}, not LoRA; give a LoRA adapter")
    check_rebuildable(adapter.settings, adapter.folder, quantized=params.load_in_4bit)
    check_trained_on(checkpoint, params.model)
    if params.checkpoint_mode == "stack":
        return adapter
    _core.check_continued(checkpoint, json.dumps(adapter.settings), json.dumps(vars(params), default=str))
    return adapter


def this_stage(params, data):
    """This training's entry in lineage.json."""
    paths = params.dataset_path if isinstance(params.dataset_path, list) else [params.dataset_path]
    options = dict(data.options)
    return {
        # A data set of the hub is named with its revision.
        "dataset_path": [path if "revision=" in path.rpartition("::")[2] else str(Path(path).absolute()) for path in paths],
        "digest": data.digest,
        "eval_split": options.pop("eval_split"),
        "options": options,
    }


def module_names(target_modules):
    """`target_modules` as a sorted list, or as it is if it is a pattern (peft allows both)."""
    return target_modules if isinstance(target_modules, str) else sorted(target_modules)
