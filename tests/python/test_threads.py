"""Threads that cannot be started mean fewer threads: the same results, no panic."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from data_engine import assistant, model_folder, user

from pyrust_nn.models.tokenizers import load_tokenizer

NOBODY = 65_534


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can read and write."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def limited(threads: int) -> Callable[[], None]:
    """Makes the process another user's, who may have so many threads. (The limit does not hold for root.)"""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)

    return limit


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user, who has no other threads")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_prepare_with_few_threads(threads: int, open_folder: Path, binary: Path) -> None:
    shutil.copytree(model_folder(load_tokenizer("builtin:tiny")), open_folder / "model")
    rows = [{"messages": [user(f"What is {i}? " + "Why? " * (i % 40)), assistant(f"It is {i}.")]} for i in range(3000)]
    (open_folder / "data.json").write_text(json.dumps(rows))
    program = shutil.copy(binary, open_folder)
    for path in (open_folder / "model", *(open_folder / "model").rglob("*")):
        path.chmod(0o755)
    digests = []
    for name, limit in (("all", None), ("few", limited(threads))):
        cache = open_folder / name
        cache.mkdir()
        cache.chmod(0o777)
        done = subprocess.run(
            [program, "prepare", str(open_folder / "data.json"), "--model", str(open_folder / "model"), "--json"],
            env={"PYRUST_NN_CACHE": str(cache), "PATH": os.environ["PATH"]},
            cwd=open_folder,
            preexec_fn=limit,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if limit and "Permission denied" in done.stderr and not done.stdout:
            pytest.skip("another user may not run this build's Python library")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        digests.append((report["digest"], report["rows"], Path(report["path"]).read_bytes()))
    assert digests[0] == digests[1]
