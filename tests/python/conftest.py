"""Shared fixtures: the sample data, a runs folder per test, models trained once, the binary."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported, and for children too: more threads than processors would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"


def crash_file(run: str, worker: str) -> Path:
    """Where a worker writes the stacks of its threads if it crashes."""
    return Path(tempfile.gettempdir()) / f"pyrust-nn-crash-{run}-{worker}.txt"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """A worker's standard error is lost among that of the others, so its crash goes to a file: see `pytest_handlecrashitem`."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(config, "workerinput"):
        path = crash_file(os.environ["PYTEST_XDIST_TESTRUNUID"], worker)
        file = path.open("w")
        faulthandler.enable(file)
        config.add_cleanup(lambda: (faulthandler.disable(), file.close(), path.unlink(missing_ok=True)))


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport) -> None:
    """Show where a worker crashed."""
    node: Any = report.node
    path = crash_file(node.workerinput["testrunuid"], node.gateway.id)
    if path.is_file():
        report.longrepr = f"{report.longrepr}\n{path.read_text(errors='replace')}"
        path.unlink()


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests write into temporary files of their own is removed with pytest's folders."""
    tempfile.tempdir = str(tmp_path_factory.mktemp("temporary"))
    yield
    tempfile.tempdir = None


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A separate cache for this process and its children."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["PYRUST_NN_CACHE"] = str(folder)
    os.environ.pop("PYRUST_NN_RUNS", None)
    return folder


@pytest.fixture(scope="session", autouse=True)
def heard_signals() -> None:
    """Signals that whoever started pytest ignores (nohup, a job in the background) reach the children, which would ignore them too."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the checkout as its working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A separate runs folder."""
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def data_json() -> str:
    """The sample conversations."""
    return str(CHECKOUT / "data.json")


@pytest.fixture(scope="session")
def conversations(data_json: str) -> list[list[dict[str, str]]]:
    """Their messages."""
    return [one["messages"] for one in json.loads(Path(data_json).read_text(encoding="utf-8"))]


@pytest.fixture(scope="session")
def sample(data_json: str) -> dict[str, dict[str, Any]]:
    """The sample pipeline's steps by name, each with its parameters."""
    table = tomllib.loads((CHECKOUT / "pipeline.toml").read_text(encoding="utf-8"))
    only = table.pop("for", {}).get("builtin:tiny", {})
    common = {key: value for key, value in table.items() if key not in ("step", "session")}
    common["dataset_path"] = data_json
    steps = {}
    for row in table["step"]:
        name = row.get("name", row["task"])
        steps[name] = common | only.get(name, {}) | {key: value for key, value in row.items() if key not in ("task", "name")}
    return steps


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, sample: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Folders of the sample pipeline's full fine-tune (`full`) and of the LoRA trained on it (`lora`)."""
    import pyrust_nn

    runs = tmp_path_factory.mktemp("trained")
    full = dict(sample["finetune_full"])
    made = pyrust_nn.finetune_full("trained", full.pop("model"), **full, runs_dir=runs)
    folder = runs / "trained" / made["outputs"]["model"]
    lora = dict(sample["finetune_lora"])
    lora.pop("model")
    adapter = pyrust_nn.finetune_lora("trained", folder, **lora, runs_dir=runs)
    return {"full": str(folder), "lora": str(runs / "trained" / adapter["outputs"]["adapter"])}


@pytest.fixture(scope="session")
def binary() -> Path:
    """The binary: `make test` names the one it has built, otherwise the one of `make build`."""
    path = Path(os.environ.get("PYRUST_NN_BINARY", CHECKOUT / "target/release/pyrust-nn"))
    if not path.is_file():
        pytest.fail(f"{path} is not there; `make build` makes it")
    return path


@pytest.fixture
def cli(binary: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the binary with these arguments."""

    def run(*words: str | Path, timeout: float = 300, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(binary), *map(str, words)], capture_output=True, text=True, timeout=timeout, **more)

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()
