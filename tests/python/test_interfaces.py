"""The binary, the Python module and the Rust crate have the same names and results; each runs outside of the checkout."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyrust_nn

CHECKOUT = Path(__file__).resolve().parents[2]

Cli = Callable[..., subprocess.CompletedProcess[str]]

# The functions that take what only tasks take. A user's own script is tested by itself.
FUNCTIONS = [name for name in pyrust_nn.__all__ if inspect.isroutine(getattr(pyrust_nn, name)) and name != "run_script"]
TASKS = [name for name in FUNCTIONS if "dry_run" in inspect.signature(getattr(pyrust_nn, name)).parameters]


def test_the_tasks_are_found() -> None:
    assert {"finetune_full", "finetune_lora", "inference"} < set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_parameters_with_the_same_defaults_at_every_interface(
    task: str, cli: Cli, runs: Path, data_json: str, tmp_path: Path
) -> None:
    subject = "adapter" if task == "convert_lora_to_gguf" else "model"
    given: dict[str, Any] = {"dataset_path": data_json} if task.startswith(("finetune", "compute_imatrix")) else {}
    if task == "verify":
        given = {"candidate": "builtin:tiny"}
    if task == "inference":
        given = {"prompt": "hi"}
    flags = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", value)]
    (tmp_path / "adapter_config.json").write_text("{}")
    name = str(tmp_path) if subject == "adapter" or task in ("merge", "flatten") else "builtin:tiny"
    done = cli(task.replace("_", "-"), "--session", "s", f"--{subject}", name, *flags, "--dry-run", "--json")
    by_command = json.loads(done.stdout)["params"]
    by_python = getattr(pyrust_nn, task)("s", name, **given, dry_run=True)["params"]
    assert by_command == by_python

    signature = inspect.signature(getattr(pyrust_nn, task))
    assert set(signature.parameters) == {"session", *by_command}
    for key, parameter in signature.parameters.items():
        if parameter.default is not inspect.Parameter.empty and key not in (*given, "dry_run"):
            default = parameter.default
            assert by_command[key] == ([default] if isinstance(by_command[key], list) else default), key
    assert not runs.exists() and not Path("runs").exists(), "a dry run leaves nothing"


def test_the_stub_is_the_module() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy.stubtest", "pyrust_nn._core"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_is_light_and_needs_no_ml_stack(tmp_path: Path) -> None:
    # A package folder of its own, seen by an interpreter that sees nothing else.
    shutil.copytree(Path(pyrust_nn.__file__).parent, tmp_path / "site/pyrust_nn")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import pyrust_nn\n"
        "assert not {'torch', 'transformers', 'numpy', 'peft', 'datasets'} & set(sys.modules)\n"
        "print(pyrust_nn.list_sessions())\n"
        "try: import torch\nexcept ImportError: print('no torch')"
    )
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    done = subprocess.run([base, "-I", "-S", "-c", code, tmp_path / "site"], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["[]", "no torch"], done.stderr


def test_the_installed_command(runs: Path, tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "pyrust-nn"
    (tmp_path / "mine.py").write_text("def run(params, session):\n    return {'metrics': {'n': 2}}\n")
    done = subprocess.run([command, "script", "mine.py", "--session", "s", "--runs-dir", runs, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == {"n": 2}
    assert subprocess.run([command, "finetune-lra"], capture_output=True).returncode == 2


def test_the_embedded_package_wins_over_an_installed_one(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import pyrust_nn\ndef run(params, session):\n    return {'result': pyrust_nn.__file__}\n")
    done = cli("script", "mine.py", "--session", "s", "--runs-dir", runs, "--json")
    assert json.loads(done.stdout)["result"] == "python/pyrust_nn/__init__.py", done.stderr


def test_a_program_of_its_own_embeds_the_crate(tmp_path: Path, data_json: str, binary: Path) -> None:
    project = tmp_path / "embed"
    shutil.copytree(CHECKOUT / "examples/embed", project, ignore=shutil.ignore_patterns("target", "runs"))
    manifest = (project / "Cargo.toml").read_text()
    # What the crate is built of is there already, if versions and profile are the same.
    shutil.copy(CHECKOUT / "Cargo.lock", project)
    profiles = re.search(r"\[profile\.quick\].*?(?=\n\[(?!profile\.quick))", (CHECKOUT / "Cargo.toml").read_text(), re.DOTALL)
    assert profiles, "the profile of tests"
    # The crate is compiled anew, since it is no member of this project: in less time without optimization.
    own = "[profile.quick.package.pyrust-nn]\nopt-level = 0\ndebug-assertions = true\noverflow-checks = true\n"
    pinned = manifest.replace('path = "../.."', f'path = "{CHECKOUT}"')
    (project / "Cargo.toml").write_text(f"{pinned}\n{profiles[0]}\n{own}")
    env = os.environ | {"CARGO_TARGET_DIR": str(binary.parents[1])}
    command = ["cargo", "run", "--profile", "quick", "--quiet", "--", data_json, "s"]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert (project / "runs/s/finetune_lora/adapter/adapter_model.safetensors").is_file()
    assert json.loads((project / "runs/s/count_threads/summary.json").read_text())["metrics"]["threads"] >= 1
    assert "from the embedded Python" in (project / "runs/s/pipeline.log").read_text()
    assert re.search(r"answer \".+\"", done.stdout), done.stdout
    slowest = re.search(r"slowest status ([\d.]+) ms", done.stdout)
    assert slowest, done.stdout
    # The program asked for no console, so only its own words are there.
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["adapter", "further:", "answer", "summary"], done.stdout
    assert done.stderr == ""


def test_status_answers_while_a_step_runs_and_a_second_step_is_refused(runs: Path, data_json: str) -> None:
    result: dict[str, Any] = {}

    def work() -> None:
        result["summary"] = pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data_json, num_epochs=4, runs_dir=runs)

    thread = threading.Thread(target=work)
    thread.start()
    seen = []
    while thread.is_alive():
        if (runs / "s/pipeline.log").exists():
            seen.append(pyrust_nn.get_status("s", 5, runs_dir=runs))
            if len(seen) == 1:
                with pytest.raises(pyrust_nn.BusyError, match="finetune_lora of session s"):
                    pyrust_nn.quantize_model("other", "builtin:tiny", runs_dir=runs)
        time.sleep(0.02)
    thread.join()
    assert result["summary"]["status"] == "Success"
    assert len(set(seen)) > 3, "the log was seen growing"
    assert "other" not in pyrust_nn.get_status("s", runs_dir=runs)
    assert not (runs / "other").exists()


def test_a_host_gets_its_logging_and_streams_back(runs: Path, tmp_path: Path) -> None:
    import logging
    import signal

    (tmp_path / "mine.py").write_text(
        "import logging\ndef run(params, session):\n    logging.getLogger().addHandler(logging.NullHandler())\n"
    )
    before = (sys.stdout, sys.stderr, logging.getLogger().handlers[:], logging.getLogger().level, signal.getsignal(signal.SIGINT))
    pyrust_nn.run_script("s", tmp_path / "mine.py", runs_dir=runs)
    after = (sys.stdout, sys.stderr, logging.getLogger().handlers[:], logging.getLogger().level, signal.getsignal(signal.SIGINT))
    assert before == after


def test_a_host_s_other_threads_keep_their_streams(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("import time\ndef run(params, session):\n    print('of the step')\n    time.sleep(0.5)\n")
    ready, go = threading.Event(), threading.Event()

    def print_line() -> None:
        ready.set()
        go.wait()
        print("of the host")

    thread = threading.Thread(target=print_line)
    thread.start()
    ready.wait()
    threading.Timer(0.25, go.set).start()
    pyrust_nn.run_script("s", tmp_path / "mine.py", runs_dir=runs)
    thread.join()
    log = pyrust_nn.get_status("s", runs_dir=runs)
    assert "of the step" in log and "of the host" not in log
    assert "of the host" in capsys.readouterr().out


def test_json_is_the_only_thing_on_stdout(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def run(params, session):\n    print('noise')\n    session.stream('noise')\n")
    for words in (["script", "mine.py", "--session", "s"], ["sessions"], ["status", "s"]):
        done = cli(*words, "--json", "--runs-dir", runs)
        assert done.returncode == 0
        json.loads(done.stdout)
    failed = cli("script", "mine.py", "--session", "s", "--json", "--runs-dir", runs)
    assert failed.returncode == 2 and json.loads(failed.stdout)["error"]["kind"] == "usage"


def test_help_says_what_the_stub_says() -> None:
    stub = ast.parse((CHECKOUT / "python/pyrust_nn/_core.pyi").read_text())
    functions = [node for node in stub.body if isinstance(node, ast.FunctionDef) and node.name in pyrust_nn.__all__]
    assert len(functions) > 10
    for function in functions:
        found = getattr(pyrust_nn, function.name).__doc__ or ""
        assert found.split()[:8] == (ast.get_docstring(function) or "").split()[:8] != [], function.name
