"""The native module. Generated from src/params.rs by `make generate`."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pyrust_nn.types import CheckReport, Message, PreparedDataset, Summary

__all__ = [
    "BusyError",
    "EMBEDDED",
    "InputError",
    "InternalError",
    "ModelError",
    "PyrustNNError",
    "ScriptError",
    "SetupError",
    "StorageError",
    "UsageError",
    "__version__",
    "attention",
    "attention_backward",
    "attention_usable",
    "cache_folder",
    "check_dataset",
    "convert_lora_to_gguf",
    "convert_model_to_gguf",
    "digest",
    "embedded_text",
    "finetune_full",
    "finetune_lora",
    "flatten",
    "get_status",
    "inference",
    "kernels_usable",
    "list_sessions",
    "log",
    "lora_defaults",
    "main",
    "merge",
    "prepare_dataset",
    "publish_folder",
    "quantize_model",
    "render_chat",
    "resume",
    "run_pipeline",
    "run_script",
    "set_console",
    "softmax_pass",
    "softmax_pass_usable",
    "swiglu",
    "swiglu_backward",
    "tokenize",
    "tokenize_by_library",
    "tokenizer_folder",
    "tokenizer_head",
    "weights_hash",
    "write_gguf",
]

class PyrustNNError(Exception):
    """Any failure of Pyrust-NN. `kind` names its sort, `causes` what lay behind it, `summary` the step's summary or None."""

    kind: str
    causes: tuple[str, ...]
    summary: Summary | None

class UsageError(PyrustNNError, ValueError): ...
class InputError(PyrustNNError, ValueError): ...
class ModelError(PyrustNNError): ...
class SetupError(PyrustNNError): ...
class BusyError(PyrustNNError): ...
class StorageError(PyrustNNError): ...
class ScriptError(PyrustNNError): ...
class InternalError(PyrustNNError): ...

EMBEDDED: bool
__version__: str

def run_pipeline(path: str | PathLike[str] | None = None, *, session: str | None = None, **overrides: Any) -> list[Summary]:
    """Run a pipeline file (pipeline.toml by default); `overrides` are its top-level keys, such as model."""

def resume(session: str, step: str | None = None, *, runs_dir: str | PathLike[str] | None = None) -> list[Summary]:
    """Go on with what was interrupted in a session, a fine-tuning from its last whole checkpoint, and with the rest of its pipeline."""

def get_status(session: str, lines: int | None = None, *, runs_dir: str | PathLike[str] | None = None) -> str:
    """Give a session's log, or its last lines; answers while a step runs in another thread."""

def list_sessions(*, runs_dir: str | PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Give every session with the state of its steps, oldest first."""

def set_console(on: bool) -> None:
    """Show log lines and progress on stderr (the default), or do not."""

def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""

def log(level: int, origin: str, text: str) -> None: ...
def publish_folder(made: str | PathLike[str], target: str | PathLike[str]) -> None: ...
def digest(files: Sequence[str | PathLike[str]]) -> str: ...
def render_chat(
    folder: str | PathLike[str], conversations: Sequence[str]
) -> list[list[tuple[str, list[tuple[int, int, int]], int | None]] | str]: ...
def tokenize(folder: str | PathLike[str], texts: Sequence[str]) -> tuple[bool, list[list[int]]]: ...
def tokenizer_head(path: str | PathLike[str]) -> dict[str, Any]: ...
def tokenize_by_library(folder: str | PathLike[str], texts: Sequence[str]) -> list[list[int]]: ...
def softmax_pass(hidden: Any, weight: Any, threads: int, reference: Any, total: Any, sums: Any) -> None: ...
def softmax_pass_usable(features: int) -> bool: ...
def attention_usable(features: int) -> bool: ...
def attention(
    threads: int, lengths: Sequence[int], scale: float, window: int, query: Any, key: Any, value: Any, out: Any, divisors: Any
) -> None: ...
def attention_backward(
    threads: int,
    lengths: Sequence[int],
    scale: float,
    window: int,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    divisors: Any,
    grad: Any,
    query_grad: Any,
    key_grad: Any,
    value_grad: Any,
) -> None: ...
def kernels_usable() -> bool: ...
def swiglu(threads: int, gate: Any, up: Any, out: Any) -> None: ...
def swiglu_backward(threads: int, grad: Any, gate: Any, up: Any, gate_grad: Any, up_grad: Any) -> None: ...
def embedded_text(path: str) -> str: ...
def cache_folder() -> Path: ...
def lora_defaults() -> dict[str, Any]: ...
def weights_hash(folder: str | PathLike[str]) -> str | None: ...
def tokenizer_folder(model: str | PathLike[str]) -> Path: ...
def write_gguf(plan_path: str | PathLike[str], progress: Callable[[int, int, str], Any]) -> int: ...

def finetune_full(
    session: str | None,
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    max_length: int = 2048,
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error",
    thinking: Literal["keep", "drop", "mask"] = "keep",
    drop_duplicates: bool = False,
    eval_split: float = 0.0,
    seed: int = 42,
    num_epochs: float = 3.0,
    batch_size: int = 4,
    gradient_accumulation_steps: int = 1,
    max_tokens_per_batch: int | None = None,
    packing: Literal["auto", "on", "off"] = "auto",
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    save_steps: int = 0,
    warmup: float = 0.0,
    scheduler: Literal["cosine", "linear", "constant"] = "cosine",
    weight_decay: float = 0.0,
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw",
    neftune_alpha: float | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    max_grad_norm: float = 1.0,
    logging_steps: int = 10,
    save_total_limit: int = 0,
    eval_dataset_path: str | PathLike[str] | None = None,
    eval_steps: int = 0,
    early_stopping_patience: int = 0,
    load_best_model_at_end: bool = False,
    report_to: Literal["tensorboard", "wandb"] | Sequence[Literal["tensorboard", "wandb"]] | None = None,
    learning_rate: float = 2e-5,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Train every weight of the model, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        dataset_path: The conversations: files or patterns such as data/*.jsonl, each a JSON list or JSON lines (also .gz and .zst) of {"messages": [{"role": …, "content": …}, …]}; or Parquet, Arrow, a folder of the datasets library. (a path or a list of paths; required)
        max_length: Longest sample, in tokens. (a whole number from 8 to 1048576; default 2048)
        overlong: What happens to a sample that is longer: error lists them, drop leaves them out, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: The assistant's thoughts (<think>…</think>, reasoning_content): keep learns them where the template shows them, drop takes them out, mask shows them and does not learn them. (one of keep, drop, mask; default keep)
        drop_duplicates: Leave out conversations that are equal to an earlier one. (true or false; default off)
        eval_split: Share of the conversations, drawn by the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Seed of everything random: order, dropout, new weights, the evaluation split. (a whole number from 0 to 4294967295; default 42)
        num_epochs: Passes over the data set. (a number above 0, up to 100000; default 3.0)
        batch_size: Conversations per forward and backward pass. (a whole number from 1 to 65536; default 4)
        gradient_accumulation_steps: Passes whose gradients are summed before the weights move: a training step is batch_size times this many conversations. (a whole number from 1 to 65536; default 1)
        max_tokens_per_batch: Most tokens that go through the model at once; a step is cut accordingly, which changes nothing but memory and speed. Unset: 768 on a CPU; 16384 on CUDA, and less once memory has run out. (a whole number from 1 to 16777216; unset by default)
        packing: Lay samples one behind the other, none seeing another, instead of side by side: auto does so where the model's layers allow it. (one of auto, on, off; default auto)
        dtype: Number format: auto is bf16, else fp16, on CUDA, and fp32 on a CPU. (one of auto, bf16, fp16, fp32; default auto)
        save_steps: Steps between two checkpoints; 0 writes none. (a whole number from 0 to 1000000000; default 0)
        warmup: Steps over which the learning rate rises from 0: a number of steps, or below 1 a share of all steps. (a number from 0 to 10000000; default 0.0)
        scheduler: How the learning rate goes on after the warm-up. (one of cosine, linear, constant; default cosine)
        weight_decay: AdamW's decoupled weight decay. (a number from 0 to 10; default 0.0)
        optimizer: The optimizer: AdamW, or with its moments in 8 bit (bitsandbytes; arXiv 2110.02861), for less memory. (one of adamw, adamw_8bit; default adamw)
        neftune_alpha: Strength of NEFTune's noise on the embeddings (arXiv 2310.05914), 5 for instance; unset, none. (a number above 0, up to 1000; unset by default)
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them: less memory, more time. (true or false; default off)
        compile: Run the model's layers through torch.compile: faster where a long training outweighs the first minute; needs a C++ compiler. (true or false; default off)
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them. (a number from 0 to 1000000; default 1.0)
        logging_steps: Steps between two lines of metrics.jsonl. (a whole number from 1 to 1000000; default 10)
        save_total_limit: How many checkpoints are kept, the newest and the best among them in any case; 0 keeps all. (a whole number from 0 to 1000000; default 0)
        eval_dataset_path: Conversations to evaluate on, in the form of dataset_path. (a path; unset by default)
        eval_steps: Steps between two evaluations; 0 evaluates after each epoch. (a whole number from 0 to 1000000000; default 0)
        early_stopping_patience: End after so many evaluations in a row without a lower loss; 0 never does. (a whole number from 0 to 1000000; default 0)
        load_best_model_at_end: Save the weights of the evaluation with the lowest loss instead of the last ones. (true or false; default off)
        report_to: Where metrics go besides metrics.jsonl: tensorboard (the step's folder `tensorboard`), wandb; unset, nowhere. (a list, not empty, of tensorboard, wandb; unset by default)
        learning_rate: Peak learning rate. (a number above 0, up to 10; default 2e-5)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def finetune_lora(
    session: str | None,
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    max_length: int = 2048,
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error",
    thinking: Literal["keep", "drop", "mask"] = "keep",
    drop_duplicates: bool = False,
    eval_split: float = 0.0,
    seed: int = 42,
    num_epochs: float = 3.0,
    batch_size: int = 4,
    gradient_accumulation_steps: int = 1,
    max_tokens_per_batch: int | None = None,
    packing: Literal["auto", "on", "off"] = "auto",
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    save_steps: int = 0,
    warmup: float = 0.0,
    scheduler: Literal["cosine", "linear", "constant"] = "cosine",
    weight_decay: float = 0.0,
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw",
    neftune_alpha: float | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    max_grad_norm: float = 1.0,
    logging_steps: int = 10,
    save_total_limit: int = 0,
    eval_dataset_path: str | PathLike[str] | None = None,
    eval_steps: int = 0,
    early_stopping_patience: int = 0,
    load_best_model_at_end: bool = False,
    report_to: Literal["tensorboard", "wandb"] | Sequence[Literal["tensorboard", "wandb"]] | None = None,
    lora_rank: int | None = None,
    target_modules: Sequence[str] | None = None,
    load_in_4bit: bool = False,
    learning_rate: float = 2e-4,
    lora_alpha: int | None = None,
    lora_dropout: float | None = None,
    checkpoint_lora: str | PathLike[str] | None = None,
    checkpoint_mode: Literal["continue", "stack"] = "continue",
    use_rslora: bool | None = None,
    use_dora: bool | None = None,
    loraplus_ratio: float | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Train a LoRA adapter on the frozen model, continue one, or stack a new one on it, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        dataset_path: The conversations: files or patterns such as data/*.jsonl, each a JSON list or JSON lines (also .gz and .zst) of {"messages": [{"role": …, "content": …}, …]}; or Parquet, Arrow, a folder of the datasets library. (a path or a list of paths; required)
        max_length: Longest sample, in tokens. (a whole number from 8 to 1048576; default 2048)
        overlong: What happens to a sample that is longer: error lists them, drop leaves them out, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: The assistant's thoughts (<think>…</think>, reasoning_content): keep learns them where the template shows them, drop takes them out, mask shows them and does not learn them. (one of keep, drop, mask; default keep)
        drop_duplicates: Leave out conversations that are equal to an earlier one. (true or false; default off)
        eval_split: Share of the conversations, drawn by the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Seed of everything random: order, dropout, new weights, the evaluation split. (a whole number from 0 to 4294967295; default 42)
        num_epochs: Passes over the data set. (a number above 0, up to 100000; default 3.0)
        batch_size: Conversations per forward and backward pass. (a whole number from 1 to 65536; default 4)
        gradient_accumulation_steps: Passes whose gradients are summed before the weights move: a training step is batch_size times this many conversations. (a whole number from 1 to 65536; default 1)
        max_tokens_per_batch: Most tokens that go through the model at once; a step is cut accordingly, which changes nothing but memory and speed. Unset: 768 on a CPU; 16384 on CUDA, and less once memory has run out. (a whole number from 1 to 16777216; unset by default)
        packing: Lay samples one behind the other, none seeing another, instead of side by side: auto does so where the model's layers allow it. (one of auto, on, off; default auto)
        dtype: Number format: auto is bf16, else fp16, on CUDA, and fp32 on a CPU. (one of auto, bf16, fp16, fp32; default auto)
        save_steps: Steps between two checkpoints; 0 writes none. (a whole number from 0 to 1000000000; default 0)
        warmup: Steps over which the learning rate rises from 0: a number of steps, or below 1 a share of all steps. (a number from 0 to 10000000; default 0.0)
        scheduler: How the learning rate goes on after the warm-up. (one of cosine, linear, constant; default cosine)
        weight_decay: AdamW's decoupled weight decay. (a number from 0 to 10; default 0.0)
        optimizer: The optimizer: AdamW, or with its moments in 8 bit (bitsandbytes; arXiv 2110.02861), for less memory. (one of adamw, adamw_8bit; default adamw)
        neftune_alpha: Strength of NEFTune's noise on the embeddings (arXiv 2310.05914), 5 for instance; unset, none. (a number above 0, up to 1000; unset by default)
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them: less memory, more time. (true or false; default off)
        compile: Run the model's layers through torch.compile: faster where a long training outweighs the first minute; needs a C++ compiler. (true or false; default off)
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them. (a number from 0 to 1000000; default 1.0)
        logging_steps: Steps between two lines of metrics.jsonl. (a whole number from 1 to 1000000; default 10)
        save_total_limit: How many checkpoints are kept, the newest and the best among them in any case; 0 keeps all. (a whole number from 0 to 1000000; default 0)
        eval_dataset_path: Conversations to evaluate on, in the form of dataset_path. (a path; unset by default)
        eval_steps: Steps between two evaluations; 0 evaluates after each epoch. (a whole number from 0 to 1000000000; default 0)
        early_stopping_patience: End after so many evaluations in a row without a lower loss; 0 never does. (a whole number from 0 to 1000000; default 0)
        load_best_model_at_end: Save the weights of the evaluation with the lowest loss instead of the last ones. (true or false; default off)
        report_to: Where metrics go besides metrics.jsonl: tensorboard (the step's folder `tensorboard`), wandb; unset, nowhere. (a list, not empty, of tensorboard, wandb; unset by default)
        lora_rank: Rank of the adapter's matrices. Unset: that of checkpoint_lora, else 8. (a whole number from 1 to 65536; unset by default)
        target_modules: Layers that get an adapter. In a model whose layers have other names than those taken by default, every linear layer of the blocks does. Unset: that of checkpoint_lora, else q_proj k_proj v_proj o_proj gate_proj up_proj down_proj. (a list of texts, none of them empty; unset by default)
        load_in_4bit: Hold the frozen model in 4 bit, nf4 (QLoRA). (true or false; default off)
        learning_rate: Peak learning rate. (a number above 0, up to 10; default 2e-4)
        lora_alpha: Scale: the adapter's product is multiplied by lora_alpha / lora_rank. Unset: that of checkpoint_lora, else 32. (a whole number from 1 to 1000000; unset by default)
        lora_dropout: Dropout on the adapter's input. Unset: that of checkpoint_lora, else 0.05. (a number from 0 to 0.99; unset by default)
        checkpoint_lora: Adapter to continue: a folder or a session's step. (a folder or a session's step; unset by default)
        checkpoint_mode: What happens to checkpoint_lora: continue trains that adapter further; stack keeps it active and frozen, and trains a new one on top. (one of continue, stack; default continue)
        use_rslora: Scale by the square root of the rank (rsLoRA, arXiv 2312.03732). Unset: that of checkpoint_lora, else off. (true or false; unset by default)
        use_dora: Train the direction and the length of each weight separately (DoRA, arXiv 2402.09353). Unset: that of checkpoint_lora, else off. (true or false; unset by default)
        loraplus_ratio: Learning rate of the adapter's B matrices as a multiple of learning_rate (LoRA+, arXiv 2402.12354), for instance 16; unset, the same for both. (a number from 1 to 10000; unset by default)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def flatten(
    session: str | None,
    model: str | PathLike[str],
    *,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Combine stacked adapters into one adapter, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def merge(
    session: str | None,
    model: str | PathLike[str],
    *,
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Merge an adapter into its base model, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        dtype: Dtype of the merged model: auto is the base model's own. (one of auto, bf16, fp16, fp32; default auto)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def quantize_model(
    session: str | None,
    model: str | PathLike[str],
    *,
    bits: Literal[4, 8, 16] = 4,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Make a smaller copy of the model: 4-bit, 8-bit or 16-bit, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        bits: Bits per weight: 4 (bitsandbytes nf4), 8 (bitsandbytes int8) or 16 (a cast to bf16). (one of 4, 8, 16; default 4)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def convert_model_to_gguf(
    session: str | None,
    model: str | PathLike[str],
    *,
    outtype: Literal["f16", "bf16", "q8_0"] | Sequence[Literal["f16", "bf16", "q8_0"]] = "f16",
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Write the model as GGUF, for llama.cpp and Ollama, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        outtype: Types of the matrices; a file is written for each. (a list, not empty, of f16, bf16, q8_0; default f16)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def convert_lora_to_gguf(
    session: str | None,
    adapter: str | PathLike[str],
    *,
    outtype: Literal["f16", "bf16", "q8_0"] | Sequence[Literal["f16", "bf16", "q8_0"]] = "f16",
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Write a LoRA adapter as GGUF, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        adapter: The LoRA adapter: a folder or a session's step. (a folder or a session's step; required)
        outtype: Types of the matrices; a file is written for each. (a list, not empty, of f16, bf16, q8_0; default f16)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def inference(
    session: str | None,
    model: str | PathLike[str],
    *,
    prompt: str | Sequence[str | Sequence[Message]] | Sequence[Message] | None = None,
    prompts_file: str | PathLike[str] | None = None,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int = 42,
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Generate answers to prompts, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        prompt: What to ask: a string, or (in Python, Rust and pipeline.toml) a whole conversation; may repeat. (a text that is not empty, or a list of such texts and of conversations ([{"role": …, "content": …}, …]); unset by default)
        prompts_file: File of prompts: a JSON list or JSON lines of strings or conversations, or a .txt with one prompt per line. (a path; unset by default)
        max_new_tokens: Maximum number of tokens in an answer. (a whole number from 1 to 1048576; default 256)
        temperature: Sampling temperature; 0 is greedy decoding. Unset: that of the model's generation config. (a number from 0 to 100; unset by default)
        top_p: Sample from the smallest set of most likely tokens whose probabilities add up to this. Unset: the model's. (a number above 0, up to 1; unset by default)
        top_k: Sample from this many most likely tokens. Unset: the model's. (a whole number from 1 to 1000000; unset by default)
        seed: Seed of the sampling. (a whole number from 0 to 4294967295; default 42)
        dtype: Dtype of the computation: auto is bf16, else fp16, on CUDA, and fp32 on a CPU. (one of auto, bf16, fp16, fp32; default auto)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def run_script(
    session: str | None,
    script: str | PathLike[str],
    *,
    params: Mapping[str, Any] | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Run your own script, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None makes a fresh one.
        script: The script: a .py file. (a path; required)
        params: The script's own parameters, checked against its PARAMS. (names and values (NAME=VALUE); unset by default)
        step: The step's folder in the session; unset, the task's name. (a text; unset by default)
        overwrite: Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters and do nothing. (true or false; default off)
        offline: Open no socket: models must be folders, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def prepare_dataset(
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    max_length: int = 2048,
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error",
    thinking: Literal["keep", "drop", "mask"] = "keep",
    drop_duplicates: bool = False,
    eval_split: float = 0.0,
    seed: int = 42,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
) -> PreparedDataset:
    """Prepare a data set: rows of token ids and labels as Arrow, kept in the cache.

    Args:
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        dataset_path: The conversations: files or patterns such as data/*.jsonl, each a JSON list or JSON lines (also .gz and .zst) of {"messages": [{"role": …, "content": …}, …]}; or Parquet, Arrow, a folder of the datasets library. (a path or a list of paths; required)
        max_length: Longest sample, in tokens. (a whole number from 8 to 1048576; default 2048)
        overlong: What happens to a sample that is longer: error lists them, drop leaves them out, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: The assistant's thoughts (<think>…</think>, reasoning_content): keep learns them where the template shows them, drop takes them out, mask shows them and does not learn them. (one of keep, drop, mask; default keep)
        drop_duplicates: Leave out conversations that are equal to an earlier one. (true or false; default off)
        eval_split: Share of the conversations, drawn by the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Seed of everything random: order, dropout, new weights, the evaluation split. (a whole number from 0 to 4294967295; default 42)
        offline: Open no socket: the model must be a folder, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions, for a model that is a session's step; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
    """

def check_dataset(
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    max_length: int = 2048,
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error",
    thinking: Literal["keep", "drop", "mask"] = "keep",
    drop_duplicates: bool = False,
    eval_split: float = 0.0,
    seed: int = 42,
    num_epochs: float = 3.0,
    batch_size: int = 4,
    gradient_accumulation_steps: int = 1,
    max_tokens_per_batch: int | None = None,
    packing: Literal["auto", "on", "off"] = "auto",
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    save_steps: int = 0,
    lora_rank: int | None = None,
    target_modules: Sequence[str] | None = None,
    load_in_4bit: bool = False,
    task: Literal["finetune_full", "finetune_lora"] = "finetune_lora",
    show: int = 1,
    show_index: Sequence[int] | None = None,
    probe: bool = False,
    device: str = "auto",
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
) -> CheckReport:
    """Check a data set before any weight is loaded: faults, figures, samples, and what training will take.

    Args:
        model: The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub. (a path or a name; required)
        dataset_path: The conversations: files or patterns such as data/*.jsonl, each a JSON list or JSON lines (also .gz and .zst) of {"messages": [{"role": …, "content": …}, …]}; or Parquet, Arrow, a folder of the datasets library. (a path or a list of paths; required)
        max_length: Longest sample, in tokens. (a whole number from 8 to 1048576; default 2048)
        overlong: What happens to a sample that is longer: error lists them, drop leaves them out, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: The assistant's thoughts (<think>…</think>, reasoning_content): keep learns them where the template shows them, drop takes them out, mask shows them and does not learn them. (one of keep, drop, mask; default keep)
        drop_duplicates: Leave out conversations that are equal to an earlier one. (true or false; default off)
        eval_split: Share of the conversations, drawn by the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Seed of everything random: order, dropout, new weights, the evaluation split. (a whole number from 0 to 4294967295; default 42)
        num_epochs: Passes over the data set. (a number above 0, up to 100000; default 3.0)
        batch_size: Conversations per forward and backward pass. (a whole number from 1 to 65536; default 4)
        gradient_accumulation_steps: Passes whose gradients are summed before the weights move: a training step is batch_size times this many conversations. (a whole number from 1 to 65536; default 1)
        max_tokens_per_batch: Most tokens that go through the model at once; a step is cut accordingly, which changes nothing but memory and speed. Unset: 768 on a CPU; 16384 on CUDA, and less once memory has run out. (a whole number from 1 to 16777216; unset by default)
        packing: Lay samples one behind the other, none seeing another, instead of side by side: auto does so where the model's layers allow it. (one of auto, on, off; default auto)
        dtype: Number format: auto is bf16, else fp16, on CUDA, and fp32 on a CPU. (one of auto, bf16, fp16, fp32; default auto)
        save_steps: Steps between two checkpoints; 0 writes none. (a whole number from 0 to 1000000000; default 0)
        lora_rank: Rank of the adapter's matrices. Unset: that of checkpoint_lora, else 8. (a whole number from 1 to 65536; unset by default)
        target_modules: Layers that get an adapter. In a model whose layers have other names than those taken by default, every linear layer of the blocks does. Unset: that of checkpoint_lora, else q_proj k_proj v_proj o_proj gate_proj up_proj down_proj. (a list of texts, none of them empty; unset by default)
        load_in_4bit: Hold the frozen model in 4 bit, nf4 (QLoRA). (true or false; default off)
        task: The way of fine-tuning whose memory, disk and time are estimated. (one of finetune_full, finetune_lora; default finetune_lora)
        show: How many conversations to show with what is trained on: the first ones. (a whole number from 0 to 1000; default 1)
        show_index: Conversations to show instead, by their index, from 0. (a list of whole numbers, none below 0; unset by default)
        probe: Also time two layers of the model's shape, which starts Python, and estimate how long training takes. (true or false; default off)
        device: Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
        offline: Open no socket: the model must be a folder, builtin:tiny or downloaded before. (true or false; default off)
        runs_dir: Folder of all sessions, for a model that is a session's step; unset, PYRUST_NN_RUNS, else `runs` in the working directory. (a path; unset by default)
    """
