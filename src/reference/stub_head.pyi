"""The native module. Generated from src/params and src/tasks by `make generate`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, final

from pyrust_nn.types import CheckReport, Message, PreparedDataset, Summary

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
