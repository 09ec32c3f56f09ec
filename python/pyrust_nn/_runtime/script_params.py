"""A user's own script's parameters: its PARAMS, {name: default}, and the given values.

They are checked twice: before the step begins against what the script's text says, so that a wrong one starts no step; then against the
PARAMS of the executed script, which may be computed.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyrust_nn import _core

TYPES = {kind.__name__: kind for kind in (str, int, float, bool, list, dict)}
CHANGING = ("update", "setdefault", "pop", "popitem", "clear")
UNKNOWN = object()
"""A default that only executing the script would tell."""


def refuse_wrong_params(script: Path, given_json: str, from_text: bool) -> None:
    """Raise UsageError for parameters that the script's text rules out, and InputError for a text that cannot run. Called by Rust."""
    try:
        text = Path(script).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    check_text(script, text)
    given = json.loads(given_json) or {}
    defaults = declared_params(text)
    if defaults is None:
        return
    check_names(defaults, given)
    known = {name: default for name, default in defaults.items() if default is not UNKNOWN}
    check_params(known, {name: value for name, value in given.items() if name in known}, from_text)


def check_text(script: Path, text: str) -> None:
    """Raise InputError if the script is no Python, or has no function `run`."""
    try:
        tree = ast.parse(text)
    except SyntaxError as cause:
        raise _core.InputError(f"script {script}, line {cause.lineno}: {cause.msg}; correct it") from None
    except ValueError:
        return
    if not any(_may_define_run(node) for node in ast.walk(tree)):
        raise _core.InputError(f"script {script} has no function run(params, session); define one")


def _may_define_run(node: ast.AST) -> bool:
    match node:
        case ast.FunctionDef(name="run") | ast.ClassDef(name="run") | ast.Name(id="run", ctx=ast.Store()):
            return True
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return any((alias.asname or alias.name) in ("run", "*") for alias in names)
        case ast.Call(func=ast.Name(id="globals" | "exec" | "eval" | "setattr")):
            return True
        case _:
            return False


def declared_params(text: str) -> dict[str, Any] | None:
    """PARAMS by the script's text, with UNKNOWN for defaults that are computed. None if only executing it would tell the names."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    nodes = list(ast.walk(tree))
    stars = any(isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names) for node in nodes)
    if "PARAMS" not in text and not stars:
        return {}
    assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and _targets(node) == ["PARAMS"]]
    stored = [node for node in nodes if isinstance(node, ast.Name) and node.id == "PARAMS" and not isinstance(node.ctx, ast.Load)]
    if stars or len(assigned) != 1 or len(stored) != 1 or any(_changes(node) for node in nodes):
        return None
    value = assigned[0].value
    if not isinstance(value, ast.Dict):
        return None
    names = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
    if not all(isinstance(name, str) for name in names):
        return None
    return {str(name): _default(node) for name, node in zip(names, value.values, strict=True)}


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The names that are assigned to."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id if isinstance(target, ast.Name) else "" for target in targets]


def _changes(node: ast.AST) -> bool:
    """Whether it may change PARAMS in place, or gives it another name by which that can be done."""
    match node:
        case ast.Subscript(value=ast.Name(id="PARAMS"), ctx=ast.Store() | ast.Del()):
            return True
        case ast.Attribute(value=ast.Name(id="PARAMS"), attr=attr):
            return attr in CHANGING
        case ast.Assign(value=ast.Name(id="PARAMS")) | ast.NamedExpr(value=ast.Name(id="PARAMS")):
            return True
        case ast.Call(func=ast.Name(id="globals" | "exec" | "eval" | "setattr")):
            return True
        case ast.ImportFrom(names=names):
            return any("PARAMS" in (alias.name, alias.asname) for alias in names)
        case _:
            return False


def _default(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return TYPES.get(node.id, UNKNOWN)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def check_names(names: Iterable[str], given: Iterable[str]) -> None:
    """Raise UsageError for a given parameter that the script does not have."""
    names = list(names)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            fix = f"did you mean {near[0]}?" if near else f"it has {', '.join(names) or 'none'}"
            raise _core.UsageError(f"the script has no parameter {name}; {fix}")


def check_params(defaults: Any, given: dict[str, Any], from_text: bool) -> dict[str, Any]:
    """Check a user's parameters against the script's PARAMS, {name: default}. A default's type is the type of the parameter."""
    if not isinstance(defaults, dict):
        raise _core.InputError(f"PARAMS of the script is a {type(defaults).__name__}; it must be a dict of names and defaults")
    check_names(defaults, given)
    return {name: convert_param(name, default, given.get(name, default), from_text) for name, default in defaults.items()}


def convert_param(name: str, default: Any, value: Any, from_text: bool) -> Any:
    """The value in the default's type. A string from the command line is parsed as that type; elsewhere the types must match."""
    wanted = default if isinstance(default, type) else type(default)
    if isinstance(default, type) and value is default:
        raise _core.UsageError(f"the script needs the parameter {name} ({wanted.__name__})")
    if value is default:
        return value
    if from_text and isinstance(value, str) and wanted is not str:
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if wanted is type(None) or (value is None and default is None):
        return value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise _core.UsageError(f"the script's parameter {name} must be of type {wanted.__name__}, not {value!r}")
    return value
