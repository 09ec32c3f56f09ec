"""The cache of prepared data sets: reused, never incomplete, never wrong."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import disturbed
import pytest
from data_engine import assistant, model_folder, rows, user, write
from terminal import Terminal

import pyrust_nn
from pyrust_nn import PyrustNNError
from pyrust_nn.models.tokenizers import load_tokenizer
from pyrust_nn.training.rows import PreparedRows


@pytest.fixture(scope="session")
def model():
    return model_folder(load_tokenizer("builtin:tiny"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("PYRUST_NN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def many(count):
    return [[user(f"What is {i}? " + "Why? " * (i % 40)), assistant(f"It is {i}.")] for i in range(count)]


def prepare(model, path, **params):
    return pyrust_nn.prepare_dataset(model, dataset_path=path, **params)


def plain(report):
    return [(sample.input_ids.tolist(), sample.labels.tolist()) for sample in rows(report["path"])]


def state(cache):
    """The files of the entries. The time of an entry's folder is that of its last use."""
    files = [path for path in (cache / "data").rglob("*") if path.is_file()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def entries(cache):
    return sorted(path.name for path in (cache / "data").iterdir()) if (cache / "data").is_dir() else []


def test_the_second_run_finds_it_and_writes_nothing(model, cache):
    path = write(many(20))
    first = prepare(model, path, eval_split=0.2)
    before = state(cache)
    second = prepare(model, path, eval_split=0.2)
    assert not first["cached"] and second == {**first, "cached": True}
    assert state(cache) == before


def test_the_rows_are_those_of_the_very_data_tokenizer_template_and_parameters(model, cache, tmp_path):
    path = write(many(20))
    seen = {prepare(model, path)["path"]}

    def new(report):
        assert not report["cached"]
        assert report["path"] not in seen
        seen.add(report["path"])

    for params in (
        {"max_length": 1000},
        {"overlong": "drop"},
        {"thinking": "mask"},
        {"drop_duplicates": True},
        {"eval_split": 0.1},
        {"eval_split": 0.1, "seed": 7},
    ):
        new(prepare(model, path, **params))
    assert prepare(model, path, seed=7)["cached"], "nothing is drawn without a split"
    new(prepare(model, write(many(21))))
    for name, old, changed in (("chat_template.jinja", "helpful", "hopeful"), ("tokenizer.json", '"special": true', '"special": false')):
        other = tmp_path / name
        shutil.copytree(model, other)
        text = (other / name).read_text(encoding="utf-8")
        assert old in text
        (other / name).write_text(text.replace(old, changed, 1), encoding="utf-8")
        new(prepare(str(other), path))
    assert prepare(model, path)["cached"]


def test_the_same_content_elsewhere_is_the_same(model, cache):
    first, second = prepare(model, write(many(5))), prepare(model, write(many(5)))
    assert second["cached"] and second["path"] == first["path"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_another_transformers_makes_the_rows_of_an_uncompared_template_again(cache, monkeypatch):
    """A template that the tests compare is rendered without transformers, so its rows do not depend on it."""
    path = write(many(5))
    template = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}{# own #}"
    tokenizer = load_tokenizer("builtin:tiny")
    compared, own = model_folder(tokenizer), model_folder(tokenizer, template)
    metadata_version = importlib.metadata.version
    for version, again in (("5.0.0", False), ("5.0.0", True), ("99.0", False), ("99.0", True)):
        known = {"transformers": version}
        monkeypatch.setattr(importlib.metadata, "version", lambda name, known=known: known.get(name) or metadata_version(name))
        assert prepare(own, path)["cached"] is again, version
        prepare(compared, path)
        assert prepare(compared, path)["cached"]
    assert len(entries(cache)) == 3


@pytest.mark.parametrize("name", ["train.arrow", "eval.arrow", "report.json"])
@pytest.mark.parametrize("how", [cut, flip, Path.unlink, lambda path: path.write_text("{}")], ids=["cut", "flipped", "gone", "garbled"])
def test_damaged_files_are_made_again(model, cache, name, how):
    path = write(many(20))
    first = prepare(model, path, eval_split=0.2)
    wanted = plain(first), [path.read_bytes() for path in sorted(Path(first["path"]).parent.glob("*.arrow"))]
    how(Path(first["path"]).with_name(name))
    second = prepare(model, path, eval_split=0.2)
    if not (name == "report.json" and how is flip and second["cached"]):  # a blank may be flipped
        assert second == first
    assert (plain(second), [path.read_bytes() for path in sorted(Path(second["path"]).parent.glob("*.arrow"))]) == wanted
    assert prepare(model, path, eval_split=0.2)["cached"]
    assert len(entries(cache)) == 1


def test_a_damaged_tokenizer_table_is_made_again(model, cache):
    path = write(many(5))
    wanted = plain(prepare(model, path))
    (table,) = (cache / "tokenizers").iterdir()
    good = table.read_bytes()
    for how in (cut, flip, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(good[:16] + bytes(64))):
        how(table)
        shutil.rmtree(cache / "data")
        assert plain(prepare(model, path)) == wanted
        assert table.read_bytes() == good


def worker(model, path, cache):
    code = "import sys, json, pyrust_nn; print(json.dumps(pyrust_nn.prepare_dataset(sys.argv[1], dataset_path=sys.argv[2])))"
    return disturbed.start(
        [sys.executable, "-c", code, model, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYRUST_NN_CACHE": str(cache)},
    )


@pytest.mark.parametrize("broken", [False, True])
def test_processes_at_once_end_with_one_whole_entry(model, cache, broken):
    path = write(many(3000))
    if broken:
        cut(Path(prepare(model, path)["path"]))
    workers = [worker(model, path, cache) for _ in range(4)]
    outputs = [one.communicate(timeout=300) for one in workers]
    assert [one.returncode for one in workers] == [0] * 4, outputs
    assert len({out.replace(b'"cached": true', b'"cached": false') for out, _ in outputs}) == 1
    assert len(entries(cache)) == 1
    again = prepare(model, path)
    assert again["cached"] and len(plain(again)) == 3000


def test_threads_at_once_do_not_meet(model, cache):
    path, reports = write(many(500)), []
    threads = [threading.Thread(target=lambda: reports.append(prepare(model, path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({report["path"] for report in reports}) == 1 and len(reports) == 4 and len(entries(cache)) == 1


def wrote_rows(cache, process):
    """Waits until the rows are being written; False where the process was quicker."""
    while process.poll() is None:
        if any(path.stat().st_size for path in cache.glob("data/.*.partial-*/train.arrow")):
            return True
        time.sleep(0.002)
    return False


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """Files of growing size, each made when it is asked for: for tests that disturb a process, whatever the machine's speed."""
    folder = tmp_path_factory.mktemp("large")

    def files():
        for count in (300_000, 1_200_000, 4_800_000):
            path = folder / f"{count}.json"
            yield str(path) if path.exists() else write(many(count), path)

    return files


def disturb(cache, large, start, act):
    """Starts processes on larger and larger data until one was at work when `act` came; gives it, ended, with its stderr."""
    for path in large():
        process = start(path)
        if wrote_rows(cache, process):
            act(process)
        _, err = process.communicate(timeout=600)
        if process.returncode != 0:
            return process, err
        for entry in (cache / "data").iterdir():
            shutil.rmtree(entry)
    pytest.fail("each process ended well, although it was disturbed or should have been")


def test_a_killed_process_leaves_no_entry_and_the_next_sweeps(model, cache, large):
    disturb(cache, large, lambda path: worker(model, path, cache), lambda process: process.kill())
    assert entries(cache) and all(".partial-" in name for name in entries(cache))
    report = prepare(model, write(many(5)))
    assert entries(cache) == [Path(report["path"]).parent.name]


def test_a_running_process_is_not_swept_away(model, cache, large):
    for path in large():
        process = worker(model, path, cache)
        at_work = wrote_rows(cache, process)
        prepare(model, write(many(5)))
        at_work = at_work and process.poll() is None
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        if at_work:
            break
        for entry in (cache / "data").iterdir():
            shutil.rmtree(entry)
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("interface", ["binary", "Python"])
def test_ctrl_c_leaves_nothing(model, cache, large, binary, interface):
    def start(path):
        if interface == "Python":
            return worker(model, path, cache)
        words = [binary, "prepare", path, "--model", model]
        return disturbed.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    process, err = disturb(cache, large, start, lambda process: process.send_signal(signal.SIGINT))
    assert process.returncode in ((130,) if interface == "binary" else (130, -signal.SIGINT)), err
    assert b"KeyboardInterrupt" in err if interface == "Python" else b"interrupted" in err
    assert entries(cache) == []


def test_a_cache_that_cannot_be_written_says_so(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PYRUST_NN_CACHE", str(tmp_path / "file"))
    with pytest.raises(PyrustNNError, match="PYRUST_NN_CACHE") as caught:
        prepare(model, write(many(5)))
    assert str(tmp_path / "file") in str(caught.value) and caught.value.kind == "io"


def held(cache, path, model):
    """A process that has prepared `path` and lives on; the entry's folder."""
    code = (
        "import sys, pyrust_nn\n"
        "print(pyrust_nn.prepare_dataset(sys.argv[1], dataset_path=sys.argv[2])['path'], flush=True)\n"
        "sys.stdin.read()"
    )
    process = disturbed.start(
        [sys.executable, "-c", code, model, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYRUST_NN_CACHE": str(cache)},
    )
    return process, Path(process.stdout.readline().decode().strip()).parent


def test_the_oldest_are_removed_and_one_in_use_by_another_process_never(model, cache, cli):
    size = sum(path.stat().st_size for path in Path(prepare(model, write(many(1)))["path"]).parent.iterdir())
    process, first = held(cache, write(many(2)), model)
    # Each is made by a process that ends, so that only one is in use.
    others = []
    for count in (3, 4, 5):
        done = cli("prepare", write(many(count)), "--model", model, "--json")
        others.append(Path(json.loads(done.stdout)["path"]).parent)
    again = cli("prepare", write(many(3)), "--model", model, "--json")
    assert json.loads(again.stdout)["cached"], "now the first of them is the newest"
    listed = {entry["name"]: entry for entry in json.loads(cli("cache", "list", "--json").stdout)["entries"]}
    assert listed[f"data/{first.name}"]["in_use"] and not listed[f"data/{others[0].name}"]["in_use"]
    rows_only = [name for name in listed if name.startswith("data/")]
    assert rows_only.index(f"data/{others[0].name}") == len(rows_only) - 1

    total = pyrust_nn.list_cache()["bytes"]
    limit = {**os.environ, "PYRUST_NN_CACHE_MAX": str(total - size // 2)}
    new = Path(json.loads(cli("prepare", write(many(6)), "--model", model, "--json", env=limit).stdout)["path"]).parent
    assert first.is_dir() and new.is_dir() and others[0].is_dir()
    assert not others[1].exists(), "it was used longest ago"

    left = json.loads(cli("cache", "clear", "--json").stdout)["entries"]
    assert f"data/{first.name}" in {entry["name"] for entry in left} and all(entry["in_use"] for entry in left)
    assert len(list(PreparedRows(first / "train.arrow"))) == 2
    process.communicate(b"", timeout=60)
    assert cli("cache", "clear").returncode == 0
    assert not first.exists()


def test_what_data_are_unpacked_or_read_into_is_listed_and_removed(model, cache, cli, tmp_path):
    data = Path(write(many(3)))
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.write(data, "data.json")
    assert cli("prepare", tmp_path / "data.zip", "--model", model, "--json").returncode == 0
    assert cli("prepare", "-", "--model", model, "--json", input=data.read_text()).returncode == 0
    listed = pyrust_nn.list_cache()["entries"]
    assert {"unzipped", "stdin", "rows", "tokenizer"} <= {entry["kind"] for entry in listed}
    files = [path.stat().st_size for path in cache.rglob("*") if path.is_file()]
    assert sum(entry["bytes"] for entry in listed) == sum(files), "nothing in the cache is without an entry"
    assert cli("cache", "clear").returncode == 0
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_killed_user_holds_nothing(model, cache, cli):
    process, entry = held(cache, write(many(2)), model)
    process.kill()
    process.wait()
    assert cli("cache", "clear").returncode == 0
    assert not entry.exists() and not [path for path in cache.rglob("*") if path.is_file()]


def test_a_limit_below_one_entry_keeps_the_one_in_use(model, cache, monkeypatch):
    monkeypatch.setenv("PYRUST_NN_CACHE_MAX", "0")
    first = prepare(model, write(many(5)))
    assert len(plain(first)) == 5
    assert prepare(model, write(many(5)))["cached"]


def test_a_limit_that_is_not_a_size_is_refused(model, cache, runs, cli, monkeypatch):
    monkeypatch.setenv("PYRUST_NN_CACHE_MAX", "plenty")
    with pytest.raises(pyrust_nn.UsageError, match=r"PYRUST_NN_CACHE_MAX=plenty.*20GiB"):
        prepare(model, write(many(5)))
    assert cli("cache", "list").returncode == 2
    done = cli("finetune-lora", "--model", "builtin:tiny", "--dataset-path", write(many(5)), "--session", "s", "--runs-dir", runs)
    assert done.returncode == 2 and not runs.exists()


def test_the_list_drops_nothing_at_80_columns(model, cache, cli, binary):
    prepare(model, write(many(3)))
    (entry,) = [one for one in json.loads(cli("cache", "list", "--json").stdout)["entries"] if one["name"].startswith("data/")]
    terminal = Terminal(binary, "cache", "list")
    assert terminal.finish() == 0
    assert max(map(len, terminal.lines)) <= 80, terminal.text
    (line,) = [line for line in terminal.lines if entry["name"][-10:] in line]
    used = entry["used_at"][:19].replace("T", " ")
    assert entry["kind"] in line and used in line and re.search(r"\d (B|kB)", line), terminal.text
