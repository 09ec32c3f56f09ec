"""The native module. Generated from src/params and src/tasks by `make generate`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, final

from pyrust_nn.types import CheckReport, Message, PreparedDataset, Summary

__all__ = [
    "Board",
    "BusyError",
    "InputError",
    "InternalError",
    "Metrics",
    "ModelError",
    "ProofError",
    "PyrustNNError",
    "ScriptError",
    "Server",
    "SetupError",
    "StorageError",
    "UsageError",
    "__version__",
    "board",
    "capture_output",
    "check_dataset",
    "clear_cache",
    "compute_imatrix",
    "convert_lora_to_gguf",
    "convert_model_to_gguf",
    "export_session",
    "finetune_full",
    "finetune_lora",
    "flatten",
    "get_status",
    "import_session",
    "inference",
    "list_cache",
    "list_sessions",
    "main",
    "merge",
    "metrics",
    "prepare_dataset",
    "quantize_model",
    "reproduce",
    "resume",
    "run_pipeline",
    "run_script",
    "serve",
    "set_console",
    "verify",
]

class PyrustNNError(Exception):
    """Base class of all errors of Pyrust-NN. `kind` is the error kind, `causes` the causes, `summary` the step's summary or None."""

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
class ProofError(PyrustNNError): ...
class InternalError(PyrustNNError): ...

__version__: str

def run_pipeline(path: str | PathLike[str] | None = None, *, session: str | None = None, **overrides: Any) -> list[Summary]:
    """Run a pipeline file (pipeline.toml by default); `overrides` are its top-level keys, such as model."""

def resume(
    session: str,
    step: str | None = None,
    *,
    nproc_per_node: int | Literal["auto"] | None = None,
    max_restarts: int | None = None,
    secrets: dict[str, Any] | None = None,
    runs_dir: str | PathLike[str] | None = None,
) -> list[Summary]:
    """Resume an interrupted session: a fine-tuning from its last complete checkpoint, then the rest of the pipeline."""

def reproduce(
    session: str, into: str | None = None, *, secrets: dict[str, Any] | None = None, runs_dir: str | PathLike[str] | None = None
) -> dict[str, Any]:
    """Run the steps of a session again in a new one (SESSION-again by default), and compare what they made. Return session, reproduced_as, same,
    steps and likely_cause.
    """

def get_status(session: str, lines: int | None = None, *, runs_dir: str | PathLike[str] | None = None) -> str:
    """Return a session's log or its last lines. Can be called while a step runs in another thread."""

def list_sessions(*, runs_dir: str | PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Return every session, oldest first: session, created, state, size_bytes and steps. Of each step: step, task, state, started_at,
    finished_at, duration_s, model, loss, eta_seconds and error.
    """

@final
class Metrics:
    """The metrics of a session's steps: a row for each logged step, a column for each number.

    `pandas.DataFrame.from_arrow`, `polars.DataFrame` and `pyarrow.table` take it as it is. `to_dicts` needs no package.
    """

    @property
    def columns(self) -> list[str]:
        """The names of the columns: `name` (of the step in the session), `step`, then the numbers."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...
    def __len__(self) -> int: ...
    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as dicts, without the numbers that a row has not."""

def metrics(session: str, step: str | None = None, *, runs_dir: str | PathLike[str] | None = None) -> Metrics:
    """Return the metrics of a session's fine-tunings, or of one step, as a table that pandas, polars and pyarrow read."""

def export_session(
    session: str, path: str | PathLike[str] | None = None, *, runs_dir: str | PathLike[str] | None = None
) -> dict[str, Any]:
    """Write a session into one file (`<session>.tar.zst` by default) with the hash of every file in it. Return session, path, bytes, files and
    content_bytes.
    """

def import_session(path: str | PathLike[str], session: str | None = None, *, runs_dir: str | PathLike[str] | None = None) -> str:
    """Read a session from an archive that `export_session` wrote, and check every file in it. Return its name, which is `session` if given."""

def list_cache() -> dict[str, Any]:
    """Return the content of the cache: folder, bytes, max_bytes, and entries with name, kind, bytes, used_at and in_use."""

def clear_cache() -> dict[str, Any]:
    """Remove everything from the cache that no process uses, and return what remains."""

def capture_output(on: bool) -> None:
    """Let steps capture descriptors 1 and 2 (off by default, except in the command line): what child processes, C's printf and os.write(1, ...)
    write while a step runs becomes records of its log.
    """

def set_console(on: bool) -> None:
    """Turn log lines and progress on stderr on (the default) or off."""

@final
class Server:
    """A running server, which `serve` returns. In a `with` statement it ends after the answers in flight."""

    @property
    def url(self) -> str:
        """Where it listens: `http://127.0.0.1:8080`. The OpenAI API is below `/v1` of it."""

    @property
    def session(self) -> str:
        """The session of the server's step."""

    @property
    def step(self) -> str:
        """The name of the server's step."""

    @property
    def models(self) -> list[dict[str, Any]]:
        """The models and adapters, as `/v1/models` lists them."""

    def close(self) -> Summary:
        """End after the answers in flight; returns the step's summary. Ctrl-C ends it at once."""

    def __enter__(self) -> Server: ...
    def __exit__(self, *raised: object) -> None: ...

@final
class Board:
    """A running board, which `board` returns. In a `with` statement it ends with it."""

    @property
    def url(self) -> str:
        """The address to open, with the token that every page needs."""

    def close(self) -> None:
        """End it. Open pages say so."""

    def __enter__(self) -> Board: ...
    def __exit__(self, *raised: object) -> None: ...

def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""

# Internal: for the package's own modules, scripts and tests; not in __all__.

EMBEDDED: bool
EXHAUSTED: list[int]
LAUNCHED: str

def log(level: int, origin: str, text: str, shown: str = "always") -> None: ...
def status(text: str) -> None: ...
def torchrun_place() -> tuple[int, int, int, int] | None: ...
def worker_command() -> list[str] | None: ...
def attached_log(path: str | PathLike[str]) -> AbstractContextManager[None]: ...
def summary_html(summary: str) -> str: ...
def training_estimate(folder: Path, settings: str, rows: str) -> str: ...
def publish_folder(made: str | PathLike[str], target: str | PathLike[str]) -> None: ...
def digest(files: Sequence[str | PathLike[str]]) -> str: ...
def check_tokenizer(path: str | PathLike[str]) -> None: ...
def check_template(folder: str | PathLike[str], messages: str, options: str, prompt: bool) -> None: ...
def render_chat(
    folder: str | PathLike[str], conversations: Sequence[str]
) -> list[list[tuple[str, list[tuple[int, int, int]], int | None]] | str]: ...
def render_chat_by_transformers(
    folder: str | PathLike[str], conversations: Sequence[str]
) -> list[list[tuple[str, list[tuple[int, int, int]], int | None]] | str]: ...
def known_columns() -> list[str]: ...
def read_prompts(prompts: str, prompts_file: str | PathLike[str] | None = None) -> list[dict[str, Any]]: ...
def tokenize(folder: str | PathLike[str], texts: Sequence[str]) -> tuple[bool, list[list[int]]]: ...
def detokenize(folder: str | PathLike[str], sequences: Sequence[Sequence[int]], skip_special: bool) -> list[str]: ...
def tokenizer_head(path: str | PathLike[str]) -> dict[str, Any]: ...
def tokenize_by_library(folder: str | PathLike[str], texts: Sequence[str]) -> list[list[int]]: ...
def softmax_pass(
    hidden: Any,
    weight: Any,
    targets: Sequence[int],
    threads: int,
    reference: Any,
    total: Any,
    target_logit: Any,
    sums: Any,
) -> None: ...
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
def duration(seconds: float) -> str: ...
def owns_interpreter() -> bool: ...
def hold_cache_entry(path: str | PathLike[str]) -> bool: ...
def gguf_types() -> list[dict[str, Any]]: ...
def gguf_file_types() -> list[dict[str, Any]]: ...
def gguf_header(path: str | PathLike[str], arrays: bool = True) -> dict[str, Any]: ...
def imatrix_header(path: str | PathLike[str]) -> dict[str, Any]: ...
def gguf_encode(tensor_type: str, numbers: Any, importance: Any = None, form: str | None = None) -> bytes: ...
def gguf_decode(tensor_type: str, data: Any) -> bytes: ...
def lora_defaults() -> dict[str, Any]: ...
def check_continued(given: str, settings: str, params: str) -> None: ...
def weights_hash(folder: str | PathLike[str]) -> str | None: ...
def read_adapter(folder: str | PathLike[str], base: str | PathLike[str] | None = None) -> dict[str, Any]: ...
def tokenizer_folder(model: str | PathLike[str]) -> Path: ...
def with_added_tokens(folder: str | PathLike[str], tokens: Sequence[str]) -> Path: ...
def write_gguf(plan_path: str | PathLike[str], progress: Callable[[int, int, str], Any]) -> int: ...

def finetune_full(
    session: str | None,
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    add_tokens: str | Sequence[str] | None = None,
    shape: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "preference"] = "auto",
    columns: Mapping[str, str] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
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
    eval_dataset_path: str | PathLike[str] | None = None,
    warmup: float = 0.0,
    scheduler: Literal["cosine", "linear", "constant"] = "cosine",
    weight_decay: float = 0.0,
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw",
    neftune_alpha: float | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    max_grad_norm: float = 1.0,
    logging_steps: int = 10,
    nproc_per_node: int | Literal["auto"] = 1,
    max_restarts: int = 0,
    save_total_limit: int = 0,
    eval_steps: int = 0,
    early_stopping_patience: int = 0,
    load_best_model_at_end: bool = False,
    sample_prompts: int = 4,
    report_to: Literal["tensorboard", "wandb", "trackio"] | Sequence[Literal["tensorboard", "wandb", "trackio"]] | None = None,
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
        session: Name of the session; None creates a new one.
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        dataset_path: Training conversations: files or patterns such as `data/*.jsonl`. Each file is a JSON list or JSON Lines (also .gz and .zst) of `{"messages": [{"role": …, "content": …}, …]}`, or Parquet, Arrow or a folder of the datasets library. (a path, a list of paths, or tables {path, weight, max_rows}; required)
        add_tokens: New tokens, such as `<call>`, which are then one token in every text. Their embeddings begin as the mean of the tokens that the text had before, and are trained; the tokenizer is saved with them. (a non-empty string, or a list of them; unset by default)
        shape: Shape of the conversations: auto detects it by the keys of a file's first conversations. (one of auto, messages, sharegpt, alpaca, prompt_completion, question_answer, text, preference; default auto)
        columns: Columns under other names: which key of a conversation holds what, such as `user` the question and `assistant` the answer. (names and strings (NAME=STRING), with NAME one of messages, system, user, input, assistant, text, chosen, rejected, tools, documents, history, train; unset by default)
        template_kwargs: Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence. (names and values (NAME=VALUE); unset by default)
        max_length: Maximum length of a sample, in tokens. (an integer from 8 to 1048576; default 2048)
        overlong: How to handle samples longer than max_length: error lists them and stops, drop omits them, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: How to handle the assistant's reasoning (`<think>…</think>`, `reasoning_content`): keep trains on it where the chat template includes it, drop removes it, mask keeps it in the input without training on it. (one of keep, drop, mask; default keep)
        drop_duplicates: Omit conversations that are identical to an earlier one. (true or false; default off)
        eval_split: Fraction of the conversations, chosen with the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Random seed for the data order, dropout, new weights and the evaluation split. (an integer from 0 to 4294967295; default 42)
        num_epochs: Number of passes over the data set. (a number above 0 and at most 100000; default 3.0)
        batch_size: Rows of a training step, before they are multiplied by gradient_accumulation_steps. How many are computed at once is decided by max_tokens_per_batch. (an integer from 1 to 65536; default 4)
        gradient_accumulation_steps: Multiplies batch_size: a training step has batch_size times this many rows, whose gradients are summed before the update. (an integer from 1 to 65536; default 1)
        max_tokens_per_batch: Maximum number of tokens in one micro-batch. It affects only memory and speed (and the balance of the router in a mixture of experts). If unset: 768 on a CPU; 16384 on CUDA, reduced after an out-of-memory error. (an integer from 1 to 16777216; unset by default)
        packing: Concatenate samples into one sequence, without attention between them, instead of padding them: auto does so if the model's layers support it. (one of auto, on, off; default auto)
        dtype: Dtype of the computation: auto is bf16 on CUDA (fp16 if bf16 is not supported) and fp32 on a CPU. (one of auto, bf16, fp16, fp32; default auto)
        save_steps: Number of steps between checkpoints; 0 writes none. (an integer from 0 to 1000000000; default 0)
        eval_dataset_path: Conversations for evaluation, in the same formats as dataset_path. (a path; unset by default)
        warmup: Warm-up of the learning rate from 0: a number of steps or, if below 1, a fraction of all steps. (a number from 0 to 10000000; default 0.0)
        scheduler: Learning rate schedule after the warm-up. (one of cosine, linear, constant; default cosine)
        weight_decay: Decoupled weight decay of AdamW. (a number from 0 to 10; default 0.0)
        optimizer: Optimizer: adamw, or adamw_8bit with its moments in 8-bit (bitsandbytes, arXiv 2110.02861) to save memory. (one of adamw, adamw_8bit; default adamw)
        neftune_alpha: Strength of the NEFTune noise on the embeddings (arXiv 2310.05914), for example 5. If unset: no noise. (a number above 0 and at most 1000; unset by default)
        gradient_checkpointing: Recompute activations in the backward pass instead of storing them, to save memory at the cost of speed. (true or false; default off)
        compile: Compile the model's layers with torch.compile. Training is faster after about a minute of compilation. Needs a C++ compiler. (true or false; default off)
        max_grad_norm: Clip gradients to this norm; 0 disables clipping. (a number from 0 to 1000000; default 1.0)
        logging_steps: Number of steps between lines of metrics.jsonl. (an integer from 1 to 1000000; default 10)
        nproc_per_node: Number of processes that train together on this machine, each with a GPU of its own or a part of the processors. The training is the same with any number. auto: one for each GPU, and one on a CPU. (auto or an integer from 1 to 1024; default 1)
        max_restarts: With several processes: how many times the training goes on from its last checkpoint (save_steps) after one of them has ended unexpectedly. (an integer from 0 to 1000000; default 0)
        save_total_limit: Maximum number of checkpoints to keep, always including the newest and the best; 0 keeps all. (an integer from 0 to 1000000; default 0)
        eval_steps: Number of steps between evaluations; 0 evaluates after each epoch. (an integer from 0 to 1000000000; default 0)
        early_stopping_patience: Stop after this many consecutive evaluations without a lower loss; 0 disables early stopping. (an integer from 0 to 1000000; default 0)
        load_best_model_at_end: Save the weights with the lowest evaluation loss instead of the last ones. (true or false; default off)
        sample_prompts: Number of prompts that the model answers before and after training, for the report: of held-out rows if there are some, else of training rows. The answers are greedy and have at most 48 tokens, so all together take about as long as 100 tokens of one answer. 0 asks nothing. (an integer from 0 to 100; default 4)
        report_to: Where to report metrics besides metrics.jsonl: tensorboard (in the step's folder `tensorboard`), wandb, trackio. If unset: nowhere else. (a non-empty list of tensorboard, wandb, trackio; unset by default)
        learning_rate: Peak learning rate. (a number above 0 and at most 10; default 2e-5)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def finetune_lora(
    session: str | None,
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    add_tokens: str | Sequence[str] | None = None,
    shape: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "preference"] = "auto",
    columns: Mapping[str, str] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
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
    eval_dataset_path: str | PathLike[str] | None = None,
    warmup: float = 0.0,
    scheduler: Literal["cosine", "linear", "constant"] = "cosine",
    weight_decay: float = 0.0,
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw",
    neftune_alpha: float | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    max_grad_norm: float = 1.0,
    logging_steps: int = 10,
    nproc_per_node: int | Literal["auto"] = 1,
    max_restarts: int = 0,
    save_total_limit: int = 0,
    eval_steps: int = 0,
    early_stopping_patience: int = 0,
    load_best_model_at_end: bool = False,
    sample_prompts: int = 4,
    report_to: Literal["tensorboard", "wandb", "trackio"] | Sequence[Literal["tensorboard", "wandb", "trackio"]] | None = None,
    lora_rank: int | None = None,
    target_modules: Sequence[str] | None = None,
    load_in_4bit: bool = False,
    learning_rate: float = 2e-4,
    lora_alpha: int | None = None,
    lora_dropout: float | None = None,
    checkpoint_lora: str | PathLike[str] | None = None,
    checkpoint_mode: Literal["continue", "stack"] = "continue",
    forgetting_rows: int = 1000,
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
        session: Name of the session; None creates a new one.
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        dataset_path: Training conversations: files or patterns such as `data/*.jsonl`. Each file is a JSON list or JSON Lines (also .gz and .zst) of `{"messages": [{"role": …, "content": …}, …]}`, or Parquet, Arrow or a folder of the datasets library. (a path, a list of paths, or tables {path, weight, max_rows}; required)
        add_tokens: New tokens, such as `<call>`, which are then one token in every text. Their embeddings begin as the mean of the tokens that the text had before, and are trained; the tokenizer is saved with them. (a non-empty string, or a list of them; unset by default)
        shape: Shape of the conversations: auto detects it by the keys of a file's first conversations. (one of auto, messages, sharegpt, alpaca, prompt_completion, question_answer, text, preference; default auto)
        columns: Columns under other names: which key of a conversation holds what, such as `user` the question and `assistant` the answer. (names and strings (NAME=STRING), with NAME one of messages, system, user, input, assistant, text, chosen, rejected, tools, documents, history, train; unset by default)
        template_kwargs: Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence. (names and values (NAME=VALUE); unset by default)
        max_length: Maximum length of a sample, in tokens. (an integer from 8 to 1048576; default 2048)
        overlong: How to handle samples longer than max_length: error lists them and stops, drop omits them, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: How to handle the assistant's reasoning (`<think>…</think>`, `reasoning_content`): keep trains on it where the chat template includes it, drop removes it, mask keeps it in the input without training on it. (one of keep, drop, mask; default keep)
        drop_duplicates: Omit conversations that are identical to an earlier one. (true or false; default off)
        eval_split: Fraction of the conversations, chosen with the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Random seed for the data order, dropout, new weights and the evaluation split. (an integer from 0 to 4294967295; default 42)
        num_epochs: Number of passes over the data set. (a number above 0 and at most 100000; default 3.0)
        batch_size: Rows of a training step, before they are multiplied by gradient_accumulation_steps. How many are computed at once is decided by max_tokens_per_batch. (an integer from 1 to 65536; default 4)
        gradient_accumulation_steps: Multiplies batch_size: a training step has batch_size times this many rows, whose gradients are summed before the update. (an integer from 1 to 65536; default 1)
        max_tokens_per_batch: Maximum number of tokens in one micro-batch. It affects only memory and speed (and the balance of the router in a mixture of experts). If unset: 768 on a CPU; 16384 on CUDA, reduced after an out-of-memory error. (an integer from 1 to 16777216; unset by default)
        packing: Concatenate samples into one sequence, without attention between them, instead of padding them: auto does so if the model's layers support it. (one of auto, on, off; default auto)
        dtype: Dtype of the computation: auto is bf16 on CUDA (fp16 if bf16 is not supported) and fp32 on a CPU. (one of auto, bf16, fp16, fp32; default auto)
        save_steps: Number of steps between checkpoints; 0 writes none. (an integer from 0 to 1000000000; default 0)
        eval_dataset_path: Conversations for evaluation, in the same formats as dataset_path. (a path; unset by default)
        warmup: Warm-up of the learning rate from 0: a number of steps or, if below 1, a fraction of all steps. (a number from 0 to 10000000; default 0.0)
        scheduler: Learning rate schedule after the warm-up. (one of cosine, linear, constant; default cosine)
        weight_decay: Decoupled weight decay of AdamW. (a number from 0 to 10; default 0.0)
        optimizer: Optimizer: adamw, or adamw_8bit with its moments in 8-bit (bitsandbytes, arXiv 2110.02861) to save memory. (one of adamw, adamw_8bit; default adamw)
        neftune_alpha: Strength of the NEFTune noise on the embeddings (arXiv 2310.05914), for example 5. If unset: no noise. (a number above 0 and at most 1000; unset by default)
        gradient_checkpointing: Recompute activations in the backward pass instead of storing them, to save memory at the cost of speed. (true or false; default off)
        compile: Compile the model's layers with torch.compile. Training is faster after about a minute of compilation. Needs a C++ compiler. (true or false; default off)
        max_grad_norm: Clip gradients to this norm; 0 disables clipping. (a number from 0 to 1000000; default 1.0)
        logging_steps: Number of steps between lines of metrics.jsonl. (an integer from 1 to 1000000; default 10)
        nproc_per_node: Number of processes that train together on this machine, each with a GPU of its own or a part of the processors. The training is the same with any number. auto: one for each GPU, and one on a CPU. (auto or an integer from 1 to 1024; default 1)
        max_restarts: With several processes: how many times the training goes on from its last checkpoint (save_steps) after one of them has ended unexpectedly. (an integer from 0 to 1000000; default 0)
        save_total_limit: Maximum number of checkpoints to keep, always including the newest and the best; 0 keeps all. (an integer from 0 to 1000000; default 0)
        eval_steps: Number of steps between evaluations; 0 evaluates after each epoch. (an integer from 0 to 1000000000; default 0)
        early_stopping_patience: Stop after this many consecutive evaluations without a lower loss; 0 disables early stopping. (an integer from 0 to 1000000; default 0)
        load_best_model_at_end: Save the weights with the lowest evaluation loss instead of the last ones. (true or false; default off)
        sample_prompts: Number of prompts that the model answers before and after training, for the report: of held-out rows if there are some, else of training rows. The answers are greedy and have at most 48 tokens, so all together take about as long as 100 tokens of one answer. 0 asks nothing. (an integer from 0 to 100; default 4)
        report_to: Where to report metrics besides metrics.jsonl: tensorboard (in the step's folder `tensorboard`), wandb, trackio. If unset: nowhere else. (a non-empty list of tensorboard, wandb, trackio; unset by default)
        lora_rank: Rank of the LoRA matrices. If unset: the value of checkpoint_lora, otherwise 8. (an integer from 1 to 65536; unset by default)
        target_modules: Names of the layers that LoRA adapts. In a model without layers of the default names: all linear layers of the transformer blocks. If unset: the value of checkpoint_lora, otherwise q_proj k_proj v_proj o_proj gate_proj up_proj down_proj. (a non-empty list of non-empty strings; unset by default)
        load_in_4bit: Load the frozen model in 4-bit nf4 (QLoRA). (true or false; default off)
        learning_rate: Peak learning rate. (a number above 0 and at most 10; default 2e-4)
        lora_alpha: LoRA scaling: the adapter's output is multiplied by lora_alpha / lora_rank. If unset: the value of checkpoint_lora, otherwise 32. (an integer from 1 to 1000000; unset by default)
        lora_dropout: Dropout on the adapter's input. If unset: the value of checkpoint_lora, otherwise 0.05. (a number from 0 to 0.99; unset by default)
        checkpoint_lora: Existing adapter to start from: a folder or a session's step. (a folder or a session's step; unset by default)
        checkpoint_mode: How to use checkpoint_lora: continue trains that adapter further; stack freezes it, keeps it active and trains a new adapter on top. (one of continue, stack; default continue)
        forgetting_rows: With checkpoint_lora: how many rows of each earlier stage's data set the loss is measured on, before and after training, to show what is forgotten. They are spread evenly over the data set. 0 measures nothing. (an integer from 0 to 1000000000; default 1000)
        use_rslora: Divide lora_alpha by the square root of the rank instead of the rank (rsLoRA, arXiv 2312.03732). If unset: the value of checkpoint_lora, otherwise off. (true or false; unset by default)
        use_dora: Train the direction and the magnitude of each weight separately (DoRA, arXiv 2402.09353). If unset: the value of checkpoint_lora, otherwise off. (true or false; unset by default)
        loraplus_ratio: Learning rate of the LoRA B matrices as a multiple of learning_rate (LoRA+, arXiv 2402.12354), for example 16. If unset: the same rate for A and B. (a number from 1 to 10000; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def flatten(
    session: str | None,
    model: str | PathLike[str],
    *,
    base_model: str | PathLike[str] | None = None,
    verify: bool = True,
    verify_tokens: int = 64,
    max_kl: float | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Combine stacked adapters into one adapter, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None creates a new one.
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        base_model: Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name. (a path or a name; unset by default)
        verify: Check that the output is its source model, within the error of its type. The step fails if it is not. On the command line --no-verify turns it off. (true or false; default on)
        verify_tokens: Number of tokens on which the proof compares predictions. (an integer from 16 to 1000000000; default 64)
        max_kl: Highest mean divergence (KL, in nats) of the predictions from the model's that the proof allows. If unset: by the type of the file. (a number above 0 and at most 1000; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def merge(
    session: str | None,
    model: str | PathLike[str],
    *,
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    base_model: str | PathLike[str] | None = None,
    verify: bool = True,
    verify_tokens: int = 64,
    max_kl: float | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Merge an adapter into its base model, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None creates a new one.
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        dtype: Dtype of the merged model: auto keeps the base model's dtype. (one of auto, bf16, fp16, fp32; default auto)
        base_model: Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name. (a path or a name; unset by default)
        verify: Check that the output is its source model, within the error of its type. The step fails if it is not. On the command line --no-verify turns it off. (true or false; default on)
        verify_tokens: Number of tokens on which the proof compares predictions. (an integer from 16 to 1000000000; default 64)
        max_kl: Highest mean divergence (KL, in nats) of the predictions from the model's that the proof allows. If unset: by the type of the file. (a number above 0 and at most 1000; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def quantize_model(
    session: str | None,
    model: str | PathLike[str],
    *,
    bits: Literal[4, 8, 16] = 4,
    quant_type: Literal["nf4", "fp4"] = "nf4",
    double_quant: bool = False,
    base_model: str | PathLike[str] | None = None,
    verify: bool = True,
    verify_tokens: int = 64,
    max_kl: float | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Write a smaller copy of the model: 4-bit, 8-bit or 16-bit, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None creates a new one.
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        bits: Bits per weight: 4 (bitsandbytes nf4 or fp4), 8 (bitsandbytes int8) or 16 (cast to bf16). (one of 4, 8, 16; default 4)
        quant_type: The 16 levels of 4 bits: nf4 has them where weights of a normal distribution are dense, fp4 those of a number with 2 bits of exponent. nf4 is more accurate for nearly all models. (one of nf4, fp4; default nf4)
        double_quant: Quantize the scales of the 4-bit blocks too, to 8 bits: 4.1 instead of 4.5 bits per weight. (true or false; default off)
        base_model: Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name. (a path or a name; unset by default)
        verify: Check that the output is its source model, within the error of its type. The step fails if it is not. On the command line --no-verify turns it off. (true or false; default on)
        verify_tokens: Number of tokens on which the proof compares predictions. (an integer from 16 to 1000000000; default 64)
        max_kl: Highest mean divergence (KL, in nats) of the predictions from the model's that the proof allows. If unset: by the type of the file. (a number above 0 and at most 1000; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def compute_imatrix(
    session: str | None,
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    shape: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "preference"] = "auto",
    columns: Mapping[str, str] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    max_length: int = 2048,
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error",
    thinking: Literal["keep", "drop", "mask"] = "keep",
    drop_duplicates: bool = False,
    eval_split: float = 0.0,
    seed: int = 42,
    imatrix_tokens: int = 131072,
    base_model: str | PathLike[str] | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Compute an importance matrix for GGUF files of few bits, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None creates a new one.
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        dataset_path: Conversations on which the importance is computed, such as those of the training: files or patterns as for a training. (a path, a list of paths, or tables {path, weight, max_rows}; required)
        shape: Shape of the conversations: auto detects it by the keys of a file's first conversations. (one of auto, messages, sharegpt, alpaca, prompt_completion, question_answer, text, preference; default auto)
        columns: Columns under other names: which key of a conversation holds what, such as `user` the question and `assistant` the answer. (names and strings (NAME=STRING), with NAME one of messages, system, user, input, assistant, text, chosen, rejected, tools, documents, history, train; unset by default)
        template_kwargs: Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence. (names and values (NAME=VALUE); unset by default)
        max_length: Maximum length of a sample, in tokens. (an integer from 8 to 1048576; default 2048)
        overlong: How to handle samples longer than max_length: error lists them and stops, drop omits them, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: How to handle the assistant's reasoning (`<think>…</think>`, `reasoning_content`): keep trains on it where the chat template includes it, drop removes it, mask keeps it in the input without training on it. (one of keep, drop, mask; default keep)
        drop_duplicates: Omit conversations that are identical to an earlier one. (true or false; default off)
        eval_split: Fraction of the conversations, chosen with the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Random seed for the data order, dropout, new weights and the evaluation split. (an integer from 0 to 4294967295; default 42)
        imatrix_tokens: Number of tokens on which an importance matrix is computed, at most. If the data set has more, its conversations are chosen evenly. (an integer from 16 to 1000000000; default 131072)
        base_model: Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name. (a path or a name; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def convert_model_to_gguf(
    session: str | None,
    model: str | PathLike[str],
    *,
    outtype: str | Sequence[str] = "f16",
    imatrix: str | PathLike[str] | None = None,
    token_embedding_type: str | None = None,
    output_tensor_type: str | None = None,
    tensor_type: Mapping[str, Any] | None = None,
    base_model: str | PathLike[str] | None = None,
    imatrix_tokens: int = 131072,
    verify: bool = True,
    verify_tokens: int = 64,
    max_kl: float | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Convert the model to GGUF for llama.cpp and Ollama, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None creates a new one.
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        outtype: Types of the files, as llama-quantize names them, in either case. One file is written for each. In those of 6 bits and fewer, some matrices get more bits. (a non-empty list of f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q2_k_s, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m, q6_k, iq4_nl, iq4_xs; default f16)
        imatrix: Importance matrix: the step compute_imatrix, a file of llama-imatrix, or conversations on which it is computed. It says how much each column of each matrix matters, and makes files of 6 bits and fewer more accurate. (a file of llama-imatrix, a session's step or a data set; unset by default)
        token_embedding_type: Tensor type of the token embedding. If unset: by outtype. (one of f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs; unset by default)
        output_tensor_type: Tensor type of the output matrix. If unset: by outtype. (one of f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs; unset by default)
        tensor_type: Tensor types by name: PATTERN=TYPE, such as `ffn_down=q6_k`. The pattern is a regular expression, searched in the tensor's name; the first that matches decides. (names and values (NAME=VALUE); unset by default)
        base_model: Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name. (a path or a name; unset by default)
        imatrix_tokens: Number of tokens on which an importance matrix is computed, at most. If the data set has more, its conversations are chosen evenly. (an integer from 16 to 1000000000; default 131072)
        verify: Check that the output is its source model, within the error of its type. The step fails if it is not. On the command line --no-verify turns it off. (true or false; default on)
        verify_tokens: Number of tokens on which the proof compares predictions. (an integer from 16 to 1000000000; default 64)
        max_kl: Highest mean divergence (KL, in nats) of the predictions from the model's that the proof allows. If unset: by the type of the file. (a number above 0 and at most 1000; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def convert_lora_to_gguf(
    session: str | None,
    adapter: str | PathLike[str],
    *,
    outtype: str | Sequence[str] = "f16",
    base_model: str | PathLike[str] | None = None,
    verify: bool = True,
    verify_tokens: int = 64,
    max_kl: float | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Convert a LoRA adapter to GGUF, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None creates a new one.
        adapter: LoRA adapter: a folder or a session's step. (a folder or a session's step; required)
        outtype: Data types of the matrices. One file is written for each. (a non-empty list of f32, f16, bf16, q8_0; default f16)
        base_model: Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name. (a path or a name; unset by default)
        verify: Check that the output is its source model, within the error of its type. The step fails if it is not. On the command line --no-verify turns it off. (true or false; default on)
        verify_tokens: Number of tokens on which the proof compares predictions. (an integer from 16 to 1000000000; default 64)
        max_kl: Highest mean divergence (KL, in nats) of the predictions from the model's that the proof allows. If unset: by the type of the file. (a number above 0 and at most 1000; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def verify(
    session: str | None,
    model: str | PathLike[str],
    *,
    candidate: str | PathLike[str],
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    shape: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "preference"] = "auto",
    columns: Mapping[str, str] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    max_length: int = 2048,
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error",
    thinking: Literal["keep", "drop", "mask"] = "keep",
    drop_duplicates: bool = False,
    eval_split: float = 0.0,
    seed: int = 42,
    max_kl: float | None = None,
    verify_tokens: int = 512,
    base_model: str | PathLike[str] | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Prove that a file is the model that it was made from, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None creates a new one.
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        candidate: What was made of the model: a GGUF file, a folder with a model or an adapter, or a session's step. (a file, a folder or a session's step; required)
        dataset_path: Conversations on which the two models are compared. If unset: a few built-in ones. (a path, a list of paths, or tables {path, weight, max_rows}; unset by default)
        shape: Shape of the conversations: auto detects it by the keys of a file's first conversations. (one of auto, messages, sharegpt, alpaca, prompt_completion, question_answer, text, preference; default auto)
        columns: Columns under other names: which key of a conversation holds what, such as `user` the question and `assistant` the answer. (names and strings (NAME=STRING), with NAME one of messages, system, user, input, assistant, text, chosen, rejected, tools, documents, history, train; unset by default)
        template_kwargs: Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence. (names and values (NAME=VALUE); unset by default)
        max_length: Maximum length of a sample, in tokens. (an integer from 8 to 1048576; default 2048)
        overlong: How to handle samples longer than max_length: error lists them and stops, drop omits them, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: How to handle the assistant's reasoning (`<think>…</think>`, `reasoning_content`): keep trains on it where the chat template includes it, drop removes it, mask keeps it in the input without training on it. (one of keep, drop, mask; default keep)
        drop_duplicates: Omit conversations that are identical to an earlier one. (true or false; default off)
        eval_split: Fraction of the conversations, chosen with the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Random seed for the data order, dropout, new weights and the evaluation split. (an integer from 0 to 4294967295; default 42)
        max_kl: Highest mean divergence (KL, in nats) of the candidate's predictions from the model's. If unset: by the type of the file. (a number above 0 and at most 1000; unset by default)
        verify_tokens: Number of tokens on which the predictions are compared. (an integer from 16 to 1000000000; default 512)
        base_model: Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name. (a path or a name; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def inference(
    session: str | None,
    model: str | PathLike[str],
    *,
    prompt: str | Sequence[str | Sequence[Message]] | Sequence[Message] | None = None,
    prompts_file: str | PathLike[str] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: str | Sequence[str] | None = None,
    n: int = 1,
    parallel: int | None = None,
    adapter: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    adapter_scale: float | Sequence[float] | None = None,
    seed: int = 42,
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    base_model: str | PathLike[str] | None = None,
    step: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Summary:
    """Generate answers to prompts, as a step of a session; returns the step's summary.

    Args:
        session: Name of the session; None creates a new one.
        model: Model: a GGUF file, a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml; of a step with several GGUF files the first, or step:q8_0), builtin:tiny or a Hugging Face hub name. (a file, a folder, a session's step or a name; required)
        prompt: Prompt: a string or, in Python, Rust and pipeline.toml, a whole conversation. Several may be given. (a non-empty string, or a list of such strings and of conversations ([{"role": …, "content": …}, …]); unset by default)
        prompts_file: File of prompts: a JSON list or JSON Lines of strings or conversations, any data set, or a .txt file with one prompt per line. (a path; unset by default)
        template_kwargs: Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence. (names and values (NAME=VALUE); unset by default)
        max_new_tokens: Maximum number of generated tokens per answer. (an integer from 1 to 1048576; default 256)
        temperature: Sampling temperature; 0 is greedy decoding. If unset: the value in the model's generation config. (a number from 0 to 100; unset by default)
        top_p: Nucleus sampling: use only the most likely tokens whose probabilities sum to this. If unset: the value in the model's generation config. (a number above 0 and at most 1; unset by default)
        top_k: Sample only from this many of the most likely tokens. If unset: the value in the model's generation config. (an integer from 1 to 1000000; unset by default)
        min_p: Sample only from tokens that are at least this fraction as likely as the likeliest (arXiv 2407.01082). If unset: the value in the model's generation config. (a number from 0 to 1; unset by default)
        repetition_penalty: Divide the logits of tokens that are in the prompt or the answer by this if they are positive, otherwise multiply (arXiv 1909.05858); 1 is off. If unset: the value in the model's generation config. (a number above 0 and at most 100; unset by default)
        stop: Strings that end an answer and are not part of it. (a non-empty string, or a list of them; unset by default)
        n: Number of answers to each prompt. They are drawn with the seeds `seed`, `seed` + 1 and so on. (an integer from 1 to 10000; default 1)
        parallel: Number of prompts that are answered at once; by a folder only at temperature 0. If unset: up to 8. (an integer from 1 to 64; unset by default)
        adapter: Adapter in GGUF, added to the model if that is a GGUF file: a file or a session's step. Several may be given. (a GGUF file or a session's step, or a list of them; unset by default)
        adapter_scale: Factor of each adapter in GGUF. If unset: 1. (a number from -1000 to 1000, or a list of them; unset by default)
        seed: Random seed for sampling. (an integer from 0 to 4294967295; default 42)
        dtype: Dtype of the computation: auto is bf16 on CUDA (fp16 if bf16 is not supported) and fp32 on a CPU. (one of auto, bf16, fp16, fp32; default auto)
        base_model: Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name. (a path or a name; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
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
        session: Name of the session; None creates a new one.
        script: Script: a .py file. (a path; required)
        params: The script's own parameters, checked against its PARAMS. (names and values (NAME=VALUE); unset by default)
        step: Name of the step, which is also its folder in the session. If unset: the task's name. (a string; unset by default)
        overwrite: Replace an existing step of the same name. The old step is kept until the new one has succeeded. (true or false; default off)
        dry_run: Show the resolved parameters without running the step. (true or false; default off)
        offline: Do not use the network: models must be local folders, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def serve(
    session: str | None,
    model: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    adapter: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    engine: Literal["llama", "vllm", "transformers"] = "llama",
    llama_server: str | PathLike[str] | None = None,
    outtype: str = "q8_0",
    api_key: str | None = None,
    parallel: int = 4,
    ctx_size: int | None = None,
    step: str | None = None,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Server:
    """Serve models and adapters by an HTTP API like OpenAI's, as a step of a session; returns the running server.

    Args:
        session: Name of the session; None creates a new one.
        model: Model: a GGUF file, a session's step (of a step with several files the first, or step:q8_0), a folder or a hub name. Several may be given. Requests call it NAME, or as it is written here (a file: its name without .gguf). (a GGUF file or a session's step, or a list of them, each as NAME=… if it has a name; required)
        adapter: Adapter, as a model of its own name: a GGUF file, a session's step or a folder. It is used with the first model that it fits. Several may be given. (a GGUF file or a session's step, or a list of them, each as NAME=… if it has a name; unset by default)
        host: Address to listen on. Others than this machine's own (127.0.0.1, ::1, localhost) need an API key. (a string; default 127.0.0.1)
        port: Port to listen on; 0 is any free one. (an integer from 0 to 65535; default 8080)
        engine: What computes: llama is llama.cpp with files in GGUF, vllm and transformers are those projects' own servers with folders, if they are installed. (one of llama, vllm, transformers; default llama)
        llama_server: With the engine llama: a llama-server that you built, in place of the llama.cpp of the package xllamacpp. (a path; unset by default)
        outtype: Type of the GGUF file to which a model is converted that is not in GGUF. The file is kept in the cache. (one of f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q2_k_s, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m, q6_k, iq4_nl, iq4_xs; default q8_0)
        api_key: Key that requests must have (`Authorization: Bearer KEY`). If unset: the environment variable PYRUST_NN_API_KEY, otherwise none. (a string; unset by default)
        parallel: Number of answers at once, of each model. More requests wait. (an integer from 1 to 64; default 4)
        ctx_size: Positions of an answer with its prompt. If unset: those of the model, at most 8192. (an integer from 1 to 16777216; unset by default)
        step: Name of the step, which is also its folder in the session. If unset: serve, serve-2, …. (a string; unset by default)
        offline: Do not use the network, except to listen. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
    """

def board(
    *,
    port: int = 0,
    allow_control: bool = False,
    runs_dir: str | PathLike[str] | None = None,
) -> Board:
    """Show all sessions in the browser, live: states, reports, logs and comparisons; returns the running board.

    Args:
        port: Port to listen on, at 127.0.0.1; 0 is any free one. (an integer from 0 to 65535; default 0)
        allow_control: Let the pages stop and resume sessions. Without it they only show. (true or false; default off)
        runs_dir: Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
    """

def prepare_dataset(
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    add_tokens: str | Sequence[str] | None = None,
    shape: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "preference"] = "auto",
    columns: Mapping[str, str] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    max_length: int = 2048,
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error",
    thinking: Literal["keep", "drop", "mask"] = "keep",
    drop_duplicates: bool = False,
    eval_split: float = 0.0,
    seed: int = 42,
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
) -> PreparedDataset:
    """Prepare a data set: rows of token ids and labels as Arrow, stored in the cache.

    Args:
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        dataset_path: Training conversations: files or patterns such as `data/*.jsonl`. Each file is a JSON list or JSON Lines (also .gz and .zst) of `{"messages": [{"role": …, "content": …}, …]}`, or Parquet, Arrow or a folder of the datasets library. (a path, a list of paths, or tables {path, weight, max_rows}; required)
        add_tokens: New tokens, such as `<call>`, which are then one token in every text. Their embeddings begin as the mean of the tokens that the text had before, and are trained; the tokenizer is saved with them. (a non-empty string, or a list of them; unset by default)
        shape: Shape of the conversations: auto detects it by the keys of a file's first conversations. (one of auto, messages, sharegpt, alpaca, prompt_completion, question_answer, text, preference; default auto)
        columns: Columns under other names: which key of a conversation holds what, such as `user` the question and `assistant` the answer. (names and strings (NAME=STRING), with NAME one of messages, system, user, input, assistant, text, chosen, rejected, tools, documents, history, train; unset by default)
        template_kwargs: Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence. (names and values (NAME=VALUE); unset by default)
        max_length: Maximum length of a sample, in tokens. (an integer from 8 to 1048576; default 2048)
        overlong: How to handle samples longer than max_length: error lists them and stops, drop omits them, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: How to handle the assistant's reasoning (`<think>…</think>`, `reasoning_content`): keep trains on it where the chat template includes it, drop removes it, mask keeps it in the input without training on it. (one of keep, drop, mask; default keep)
        drop_duplicates: Omit conversations that are identical to an earlier one. (true or false; default off)
        eval_split: Fraction of the conversations, chosen with the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Random seed for the data order, dropout, new weights and the evaluation split. (an integer from 0 to 4294967295; default 42)
        offline: Do not use the network: the model must be a local folder, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions, used if the model is a session's step. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
    """

def check_dataset(
    model: str | PathLike[str],
    *,
    dataset_path: str | PathLike[str] | Sequence[str | PathLike[str]],
    add_tokens: str | Sequence[str] | None = None,
    shape: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "preference"] = "auto",
    columns: Mapping[str, str] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    max_length: int = 2048,
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error",
    thinking: Literal["keep", "drop", "mask"] = "keep",
    drop_duplicates: bool = False,
    eval_split: float = 0.0,
    seed: int = 42,
    eval_dataset_path: str | PathLike[str] | None = None,
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
    html: str | PathLike[str] | None = None,
    probe: bool = False,
    device: str = "auto",
    offline: bool = False,
    runs_dir: str | PathLike[str] | None = None,
) -> CheckReport:
    """Check a data set without loading weights: problems, statistics, samples and the estimated cost of training.

    Args:
        model: Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name. (a path or a name; required)
        dataset_path: Training conversations: files or patterns such as `data/*.jsonl`. Each file is a JSON list or JSON Lines (also .gz and .zst) of `{"messages": [{"role": …, "content": …}, …]}`, or Parquet, Arrow or a folder of the datasets library. (a path, a list of paths, or tables {path, weight, max_rows}; required)
        add_tokens: New tokens, such as `<call>`, which are then one token in every text. Their embeddings begin as the mean of the tokens that the text had before, and are trained; the tokenizer is saved with them. (a non-empty string, or a list of them; unset by default)
        shape: Shape of the conversations: auto detects it by the keys of a file's first conversations. (one of auto, messages, sharegpt, alpaca, prompt_completion, question_answer, text, preference; default auto)
        columns: Columns under other names: which key of a conversation holds what, such as `user` the question and `assistant` the answer. (names and strings (NAME=STRING), with NAME one of messages, system, user, input, assistant, text, chosen, rejected, tools, documents, history, train; unset by default)
        template_kwargs: Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence. (names and values (NAME=VALUE); unset by default)
        max_length: Maximum length of a sample, in tokens. (an integer from 8 to 1048576; default 2048)
        overlong: How to handle samples longer than max_length: error lists them and stops, drop omits them, truncate_left and truncate_right cut them. (one of error, drop, truncate_left, truncate_right; default error)
        thinking: How to handle the assistant's reasoning (`<think>…</think>`, `reasoning_content`): keep trains on it where the chat template includes it, drop removes it, mask keeps it in the input without training on it. (one of keep, drop, mask; default keep)
        drop_duplicates: Omit conversations that are identical to an earlier one. (true or false; default off)
        eval_split: Fraction of the conversations, chosen with the seed, that is held out for evaluation. (a number from 0 to 0.9; default 0.0)
        seed: Random seed for the data order, dropout, new weights and the evaluation split. (an integer from 0 to 4294967295; default 42)
        eval_dataset_path: Conversations for evaluation, in the same formats as dataset_path. (a path; unset by default)
        num_epochs: Number of passes over the data set. (a number above 0 and at most 100000; default 3.0)
        batch_size: Rows of a training step, before they are multiplied by gradient_accumulation_steps. How many are computed at once is decided by max_tokens_per_batch. (an integer from 1 to 65536; default 4)
        gradient_accumulation_steps: Multiplies batch_size: a training step has batch_size times this many rows, whose gradients are summed before the update. (an integer from 1 to 65536; default 1)
        max_tokens_per_batch: Maximum number of tokens in one micro-batch. It affects only memory and speed (and the balance of the router in a mixture of experts). If unset: 768 on a CPU; 16384 on CUDA, reduced after an out-of-memory error. (an integer from 1 to 16777216; unset by default)
        packing: Concatenate samples into one sequence, without attention between them, instead of padding them: auto does so if the model's layers support it. (one of auto, on, off; default auto)
        dtype: Dtype of the computation: auto is bf16 on CUDA (fp16 if bf16 is not supported) and fp32 on a CPU. (one of auto, bf16, fp16, fp32; default auto)
        save_steps: Number of steps between checkpoints; 0 writes none. (an integer from 0 to 1000000000; default 0)
        lora_rank: Rank of the LoRA matrices. If unset: the value of checkpoint_lora, otherwise 8. (an integer from 1 to 65536; unset by default)
        target_modules: Names of the layers that LoRA adapts. In a model without layers of the default names: all linear layers of the transformer blocks. If unset: the value of checkpoint_lora, otherwise q_proj k_proj v_proj o_proj gate_proj up_proj down_proj. (a non-empty list of non-empty strings; unset by default)
        load_in_4bit: Load the frozen model in 4-bit nf4 (QLoRA). (true or false; default off)
        task: Fine-tuning method whose memory, disk space and time are estimated. (one of finetune_full, finetune_lora; default finetune_lora)
        show: Number of conversations to show, from the first, with the trained tokens marked. (an integer from 0 to 1000; default 1)
        show_index: Show these conversations instead, by index from 0. (a list of integers, each at least 0; unset by default)
        html: Also write the report to this file as a page for a browser, which needs no network. (a path; unset by default)
        probe: Estimate the training time by timing two layers of the model's size. This starts Python. (true or false; default off)
        device: Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N. (auto, cpu, cuda or cuda:N; default auto)
        offline: Do not use the network: the model must be a local folder, builtin:tiny or already downloaded. (true or false; default off)
        runs_dir: Folder of all sessions, used if the model is a session's step. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory. (a path; unset by default)
    """
