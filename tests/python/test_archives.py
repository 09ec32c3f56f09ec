"""`export` and `import`: a session as one file, which is checked against its own hashes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]


def content(folder: Path) -> dict[str, str]:
    """The hash of each file of a session, without its lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_json: str) -> Path:
    """A runs folder with the session `first`: a short training, and a name that needs a long path in the archive."""
    runs = tmp_path_factory.mktemp("archives") / "runs"
    pyrust_nn.finetune_lora("first", "builtin:tiny", dataset_path=data_json, num_epochs=1, runs_dir=runs)
    long = runs / "first" / ("a" * 120) / ("b" * 120)
    long.mkdir(parents=True)
    (long / "ü.txt").write_text("a file of the user")
    return runs


def entries(archive: Path) -> dict[str, bytes]:
    """What an archive holds, read by Python's own tarfile."""
    with pa.input_stream(str(archive), compression="zstd") as stream:
        plain = stream.read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def write(archive: Path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return compressed(archive, buffer.getvalue())


def compressed(archive: Path, data: bytes) -> Path:
    with pa.output_stream(str(archive), compression="zstd") as stream:
        stream.write(data)
    return archive


def test_a_session_comes_back_as_it_was(made: Path, cli: Cli, tmp_path: Path, data_json: str) -> None:
    done = cli("export", "first", "--runs-dir", made, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("first.tar.zst: "), done.stderr
    archive = tmp_path / "first.tar.zst"
    held, wanted = entries(archive), content(made / "first")
    manifest = json.loads(held.pop("first/manifest.json"))
    assert {file["path"]: file["sha256"] for file in manifest["files"]} == wanted
    spdx = json.loads(held.pop("first/spdx.json"))
    assert {name.removeprefix("first/"): hashlib.sha256(data).hexdigest() for name, data in held.items()} == wanted

    again = cli("export", "first", "--runs-dir", made, cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    done = cli("import", archive, "--runs-dir", tmp_path / "other", "--json")
    assert json.loads(done.stdout)["session"] == "first", done.stderr
    imported = content(tmp_path / "other/first")
    assert {name for name in wanted.keys() | imported.keys() if wanted.get(name) != imported.get(name)} == {"session.json", "spdx.json"}
    record = json.loads((tmp_path / "other/first/session.json").read_text())
    assert record["imported"]["exported_at"] == manifest["exported_at"] and record["imported"]["session"] == "first"
    assert cli("import", archive, "--runs-dir", tmp_path / "other").returncode == 2, "it exists"

    # The session can be used: another step takes the adapter, whose base is built in.
    name = pyrust_nn.import_session(archive, "again", runs_dir=tmp_path / "other")
    assert name == "again"
    merged = pyrust_nn.merge("again", "again/finetune_lora", runs_dir=tmp_path / "other")
    assert merged["status"] == "Success"

    # An imported session can be exported again.
    pyrust_nn.export_session("again", tmp_path / "again.tar.zst", runs_dir=tmp_path / "other")
    assert pyrust_nn.import_session(tmp_path / "again.tar.zst", "third", runs_dir=tmp_path / "other") == "third"

    # What it was made from.
    inputs = {one["name"]: one["checksums"][0]["checksumValue"] for one in spdx["packages"] if "checksums" in one}
    assert inputs["data.json"] == hashlib.sha256(Path(data_json).read_bytes()).hexdigest()
    versions = {one["name"]: one.get("versionInfo") for one in spdx["packages"]}
    import torch

    assert versions["torch"] == torch.__version__.split("+")[0] and versions["pyrust-nn"] == pyrust_nn.__version__


def test_spdx_is_valid(made: Path, tmp_path: Path) -> None:
    """As the reference implementation of SPDX judges it."""
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    pyrust_nn.export_session("first", tmp_path / "a.tar.zst", runs_dir=made)
    document = tmp_path / "a.spdx.json"
    document.write_bytes(entries(tmp_path / "a.tar.zst")["first/spdx.json"])
    assert [str(message) for message in validate_full_spdx_document(parse_file(str(document)))] == []


Members = dict[str, bytes]


def changed(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    members["first/finetune_lora/summary.json"] = members["first/finetune_lora/summary.json"].replace(b"e", b"o")
    return list(members.items())


def missing(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    del members["first/finetune_lora/summary.json"]
    return list(members.items())


def added(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    return [*members.items(), ("first/more", b"x")]


def twice(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    return [*members.items(), ("first/session.json", members["first/session.json"])]


def outside(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    manifest = json.loads(members["first/manifest.json"])
    manifest["files"].append({"path": "../../evil", "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()})
    members["first/manifest.json"] = json.dumps(manifest).encode()
    return [*members.items(), ("first/../../evil", b"x")]


def absolute(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    return [*members.items(), ("/tmp/pyrust-nn-evil", b"x")]


def linked(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    link = tarfile.TarInfo("first/finetune_lora/summary.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members.pop("first/finetune_lora/summary.json")
    return [*members.items(), (link, b"")]


def another_format(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    manifest = json.loads(members["first/manifest.json"]) | {"format": 2}
    return [*(members | {"first/manifest.json": json.dumps(manifest).encode()}).items()]


def another_name(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    manifest = json.loads(members["first/manifest.json"]) | {"session": "../first"}
    return [*(members | {"first/manifest.json": json.dumps(manifest).encode()}).items()]


def no_manifest(members: Members) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    del members["first/manifest.json"]
    return list(members.items())


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (changed, "SHA-256 differs"),
        (missing, "is missing"),
        (added, "does not name"),
        (twice, "or twice"),
        (outside, "leaves the folder"),
        (absolute, "does not name"),
        (linked, "is not the file of"),
        (another_format, "its format is 2"),
        (another_name, "is not valid"),
        (no_manifest, "no manifest.json"),
    ],
)
def test_an_archive_that_is_not_what_was_exported(made: Path, tmp_path: Path, forge: Callable[[Members], list[Any]], message: str) -> None:
    pyrust_nn.export_session("first", tmp_path / "a.tar.zst", runs_dir=made)
    forged = write(tmp_path / "forged.tar.zst", forge(entries(tmp_path / "a.tar.zst")))
    with pytest.raises(pyrust_nn.InputError, match=message):
        pyrust_nn.import_session(forged, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir()), "nothing is left"
    assert not (tmp_path / "evil").exists()


def test_damaged_archives(made: Path, tmp_path: Path) -> None:
    pyrust_nn.export_session("first", tmp_path / "a.tar.zst", runs_dir=made)
    whole = (tmp_path / "a.tar.zst").read_bytes()
    cases = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "no archive": b"hello",
        "flipped": whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 255]) + whole[len(whole) // 2 + 1 :],
        "an empty archive": compressed(tmp_path / "empty", b"").read_bytes(),
    }
    for name, data in cases.items():
        (tmp_path / "b.tar.zst").write_bytes(data)
        with pytest.raises(pyrust_nn.InputError):
            pyrust_nn.import_session(tmp_path / "b.tar.zst", runs_dir=tmp_path / "runs")
        assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir()), name


def test_what_cannot_be_exported(made: Path, cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(pyrust_nn.UsageError, match="did you mean first"):
        pyrust_nn.export_session("frist", tmp_path / "a.tar.zst", runs_dir=made)
    shutil.copytree(made / "first", tmp_path / "runs/linked")
    os.symlink("/etc/passwd", tmp_path / "runs/linked/finetune_lora/link")
    with pytest.raises(pyrust_nn.InputError, match="link is a symbolic link"):
        pyrust_nn.export_session("linked", tmp_path / "a.tar.zst", runs_dir=tmp_path / "runs")
    assert not list(tmp_path.glob("*.zst")) and not list(tmp_path.glob(".*partial*"))
    assert cli("import", tmp_path / "nowhere.tar.zst").returncode == 1
