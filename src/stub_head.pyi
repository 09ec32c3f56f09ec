"""The native module. Generated from src/params.rs by `make generate`."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pyrust_nn.types import CheckReport, Message, PreparedDataset, Summary

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
def tokenize_by_library(folder: str | PathLike[str], texts: Sequence[str]) -> list[list[int]]: ...
def embedded_text(path: str) -> str: ...
def cache_folder() -> Path: ...
def write_gguf(plan_path: str | PathLike[str], progress: Callable[[int, int, str], Any]) -> int: ...
