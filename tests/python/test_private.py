"""A session's files are its user's alone, and what stands in their place is not followed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]


def trained(cli: Cli, data_json: str, **env: str) -> set[tuple[str, int]]:
    """Kinds and modes of everything in a session with a training, its checkpoints, and a script's files."""
    Path("own.py").write_text("PARAMS = {}\ndef run(params, session):\n    (session.step_folder / 'x').write_text('x')\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYRUST_NN_SHARED"} | env
    words = ["--session", "s", "--model", "builtin:tiny", "--dataset-path", data_json, "--num-epochs", "1", "--save-steps", "4"]
    for step in (["finetune-lora", *words], ["script", "own.py", "--session", "s"]):
        done = cli(*step, env=environment)
        assert done.returncode == 0, done.stderr
    places = [Path("runs/s"), *Path("runs/s").rglob("*")]
    assert {"adapter_model.safetensors", "pipeline.log", "session.json", "x"} <= {path.name for path in places}
    return {("folder" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode)) for path in places}


def test_no_other_user_can_read_a_session(cli: Cli, data_json: str) -> None:
    assert trained(cli, data_json) == {("folder", 0o700), ("file", 0o600)}


def test_a_shared_session_has_the_modes_of_the_umask(cli: Cli, data_json: str) -> None:
    before = os.umask(0o022)
    try:
        assert trained(cli, data_json, PYRUST_NN_SHARED="1") == {("folder", 0o755), ("file", 0o644)}
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["session.json", "lock", "pipeline.log"])
@pytest.mark.parametrize("target", ["/dev/zero", "../../precious"])
def test_a_link_in_the_place_of_our_file_is_refused(name: str, target: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("PARAMS = {}\ndef run(params, session):\n    pass\n")
    (tmp_path / "precious").write_text("kept", encoding="utf-8")
    (tmp_path / "runs/s").mkdir(parents=True)
    (tmp_path / "runs/s" / name).symlink_to(target)
    done = cli("script", "own.py", "--session", "s", "--json", timeout=60)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (1, "io")
    assert "symbolic link" in json.dumps(error) and name in json.dumps(error)
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "kept"


def test_a_pipe_in_the_place_of_the_log_does_not_block(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs/s").mkdir(parents=True)
    (tmp_path / "runs/s/session.json").write_text("{}", encoding="utf-8")
    os.mkfifo(tmp_path / "runs/s/pipeline.log")
    done = cli("status", "s", timeout=60)
    assert done.returncode == 1 and "not a regular file" in done.stderr
