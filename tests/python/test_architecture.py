"""The structure of the Python half: imports without circles, short files, one module that writes files."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT = CHECKOUT / "python"
PACKAGE, SCRIPTS = ROOT / "pyrust_nn", CHECKOUT / "scripts"
MAX_LINES, MAX_MEDIAN = 450, 200
WRITER = "pyrust_nn.files"
"""The one module that may write files."""


def module_name(path: Path) -> str:
    """`pyrust_nn.training.loop` for a file of the package, `scripts.merge` for a script."""
    parts = path.relative_to(ROOT if path.is_relative_to(ROOT) else CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, ast.Module]:
    """Every file of the package and of scripts/ by its module name. The native module is its stub."""
    paths = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi"), *SCRIPTS.glob("*.py")]
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths}


def imported_from(trees: dict[str, ast.Module], module: str, name: str) -> str | None:
    """The file that defines `name` of `module`, through re-exports; None if the module is not ours."""
    if f"{module}.{name}" in trees:
        return f"{module}.{name}"
    if module not in trees:
        return None
    for statement in ast.walk(trees[module]):
        if isinstance(statement, ast.ImportFrom) and not statement.level:
            for alias in statement.names:
                if (alias.asname or alias.name) == name and statement.module:
                    return imported_from(trees, statement.module, alias.name) or module
    return module


def import_graph(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """For each file the files that it imports from, anywhere: in functions and under TYPE_CHECKING too."""
    graph: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for statement in ast.walk(tree):
            if isinstance(statement, ast.Import):
                graph[name] |= {alias.name for alias in statement.names if alias.name in trees}
            elif isinstance(statement, ast.ImportFrom):
                assert not statement.level, f"{name} has a relative import; write the full name"
                found = {imported_from(trees, statement.module or "", alias.name) for alias in statement.names}
                graph[name] |= {target for target in found if target} - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """The strongly connected components of more than one file (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[list[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                yield from visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                yield component

    for node in sorted(graph):
        if node not in index:
            yield from visit(node)


def circle_through(graph: dict[str, set[str]], component: list[str]) -> list[str]:
    """A shortest circle within a component, its first file repeated at the end."""
    start, members = min(component), set(component)
    paths = [[start]]
    for path in paths:  # breadth first: the list grows while it is read
        for target in sorted(graph[path[-1]] & members):
            if target == start:
                return [*path, start]
            if all(target not in earlier for earlier in paths):
                paths.append([*path, target])
    raise AssertionError(f"no circle in {component}")


def folder(module: str) -> str:
    """The subpackage of a file; the file itself if it is directly in the package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "pyrust_nn" else parts[0]


def test_imports_have_no_circles() -> None:
    graph = import_graph(sources())
    found = [" -> ".join(circle_through(graph, component)) for component in circles(graph)]
    assert not found, "files import each other in a circle; move the shared code into a file below both:\n" + "\n".join(found)


def test_subpackages_have_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for module, targets in import_graph(sources()).items():
        if not (PACKAGE / module.replace(".", "/").removeprefix("pyrust_nn/") / "__init__.py").is_file():
            graph.setdefault(folder(module), set()).update(folder(target) for target in targets if folder(target) != folder(module))
    for target in set().union(*graph.values()) - graph.keys():
        graph[target] = set()
    found = [" -> ".join(circle_through(graph, component)) for component in circles(graph)]
    assert not found, "subpackages import each other in a circle:\n" + "\n".join(found)


def test_a_circle_is_found_and_shown() -> None:
    texts = {
        "a": "def f():\n    from b import g",
        "b": "from c import h as g",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\ndef h(): ...",
    }
    trees = {name: ast.parse(text) for name, text in texts.items()}
    graph = import_graph(trees)
    assert graph == {"a": {"c"}, "b": {"c"}, "c": {"a"}}  # a's import of b.g resolves to the file that defines it
    (component,) = circles(graph)
    assert circle_through(graph, component) == ["a", "c", "a"]


def test_each_folder_is_named_on_the_page() -> None:
    page = (CHECKOUT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = [path.parent.name for path in (CHECKOUT / "python/pyrust_nn").glob("*/__init__.py")]
    assert len(folders) > 5
    assert [name for name in folders if f"`{name}/`" not in page] == []


def test_scripts_are_imported_by_nobody() -> None:
    for name, targets in import_graph(sources()).items():
        assert not any(target.startswith("scripts.") for target in targets), f"{name} imports a script"


def test_files_are_short() -> None:
    paths = [*PACKAGE.rglob("*.py"), *SCRIPTS.glob("*.py")]
    lines = {str(path.relative_to(CHECKOUT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert not {path: count for path, count in lines.items() if count > MAX_LINES}, f"a file has at most {MAX_LINES} lines; split it"
    assert statistics.median(lines.values()) < MAX_MEDIAN


def writes(tree: ast.Module) -> Iterator[int]:
    """The lines of calls that write, replace or copy files."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
        owner = function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        literals = [arg.value for arg in [*node.args, *(word.value for word in node.keywords)] if isinstance(arg, ast.Constant)]
        opens = name in ("open", "fdopen") and any(
            isinstance(mode, str) and set(mode) & set("wax+") and len(mode) <= 3 for mode in literals
        )
        moves = (owner, name) in {
            ("os", "replace"),
            ("os", "rename"),
            *(("shutil", move) for move in ("move", "copy", "copy2", "copyfile")),
        }
        if opens or moves or (name in ("write_text", "write_bytes") and isinstance(function, ast.Attribute)):
            yield node.lineno


@pytest.mark.parametrize(
    "text",
    [
        "path.write_text('x')",
        "path.write_bytes(b'x')",
        "open('x', 'w')",
        "path.open('ab')",
        "open('x', mode='wb')",
        "os.replace(a, b)",
        "shutil.move(a, b)",
    ],
)
def test_a_write_is_found(text: str) -> None:
    assert list(writes(ast.parse(text))) == [1]
    assert not list(writes(ast.parse("write_text(path, 'x'); open('words'); path.open('rb'); text.replace('a', 'b')")))


def test_one_module_writes() -> None:
    for name, tree in sources().items():
        if name != WRITER:
            lines = list(writes(tree))
            assert not lines, f"{name} writes a file in line {lines}; use a function of {WRITER}"
