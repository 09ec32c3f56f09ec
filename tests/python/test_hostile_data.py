"""Data of others: files that unpack to one enormous value end at a limit, not at the end of the memory."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]

SIZE = 900 << 20


def limited() -> None:
    """Bound the memory of a child process: using more ends it."""
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))


def packed(path: Path, before: bytes, after: bytes) -> None:
    """A gzip file of a megabyte with 900 MB of one letter."""
    block = b"x" * (1 << 20)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(before)
        for _ in range(SIZE >> 20):
            file.write(block)
        file.write(after)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("data.json.gz", b'[{"messages": [{"role": "user", "content": "', b'"}, {"role": "assistant", "content": "a"}]}]'),
        ("data.csv.gz", b'question,answer\n"', b'",a\n'),
    ],
)
def test_one_enormous_value_ends_at_a_limit(name: str, before: bytes, after: bytes, cli: Cli, tmp_path: Path) -> None:
    packed(tmp_path / name, before, after)
    done = cli("prepare", name, "--model", "builtin:tiny", "--json", preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "input" and "67108864 bytes" in json.dumps(error) and "PYRUST_NN_MAX_RECORD_BYTES" in json.dumps(error)


def test_the_limit_can_be_changed(cli: Cli, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x" * 5_000_000}, {"role": "assistant", "content": "a"}]
    (tmp_path / "data.json").write_text(json.dumps([{"messages": turns}]))
    words = ["prepare", "data.json", "--model", "builtin:tiny", "--overlong", "truncate_right", "--json"]
    refused = cli(*words, env=os.environ | {"PYRUST_NN_MAX_RECORD_BYTES": "4000000"})
    assert refused.returncode == 2 and "larger than 4000000 bytes" in refused.stdout
    assert "larger than" not in cli(*words).stdout
