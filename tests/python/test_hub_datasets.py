"""A data set of the Hugging Face hub by name, through the real `datasets` and `huggingface_hub`, from a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from test_resume import back_to

Cli = Callable[..., subprocess.CompletedProcess[str]]
NAME = "someone/answers"


def lines(answers: list[str]) -> bytes:
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": a}]} for i, a in enumerate(answers)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class Hub:
    """The part of the hub's API that a download of one data set uses. Revisions: a branch `main`, and commits."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.main = ""
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_POST(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, format: str, *values: Any) -> None:
                """Nothing is printed."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def commit(self, **files: bytes) -> str:
        """A commit with these files, which `main` then is."""
        named = {name.replace("__", "/").replace("_jsonl", ".jsonl"): content for name, content in files.items()}
        self.main = hashlib.sha1(repr(sorted(named.items())).encode()).hexdigest()
        self.commits[self.main] = named
        return self.main

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        posted = request.rfile.read(length)
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        found = self.find(path, posted)
        status, headers, content = found or (404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}')
        request.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(content)

    def find(self, path: str, posted: bytes) -> tuple[int, dict[str, str], bytes] | None:
        def as_json(value: Any) -> tuple[int, dict[str, str], bytes]:
            return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

        api, files = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/"
        if path.startswith(files):
            revision, _, name = path.removeprefix(files).partition("/")
            commit = self.main if revision == "main" else revision
            if commit not in self.commits:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            content = self.commits[commit].get(name)
            if content is None:
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
            return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "none"}, content
        if path == api or path.startswith(api + "/"):
            kind, _, rest = path.removeprefix(api).removeprefix("/").partition("/")
            revision, _, inner = rest.partition("/")
            commit = self.main if revision in ("", "main") else revision
            if commit not in self.commits:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}'
            held = self.commits[commit]
            if kind in ("", "revision"):
                return as_json({"id": NAME, "sha": commit, "private": False, "siblings": [{"rfilename": name} for name in held]})
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in held.items()
            ]
            folders = {name.rpartition("/")[0] for name in held} - {""}
            entries += [
                {"type": "directory", "path": folder, "size": 0, "oid": hashlib.sha1(folder.encode()).hexdigest()} for folder in folders
            ]
            if kind == "tree":
                if inner and inner not in folders:
                    return 404, {"X-Error-Code": "EntryNotFound"}, b'{"error": "not found"}'
                return as_json([one for one in entries if not inner or one["path"].startswith(inner + "/")])
            if kind == "paths-info":
                from urllib.parse import parse_qs

                asked = json.loads(posted)["paths"] if posted[:1] == b"{" else parse_qs(posted.decode()).get("paths", [])
                return as_json([one for one in entries if one["path"] in asked])
        return None


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one data set, which the children of this process use."""
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PYRUST_NN_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.server.shutdown()


def train(cli: Cli, runs: Path, data: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["--session", "s", "--model", "builtin:tiny", "--dataset-path", data, "--runs-dir", str(runs), "--device", "cpu"]
    return cli("finetune-lora", *words, "--lora-rank", "2", *more)


def test_a_data_set_of_the_hub_is_trained_on_at_a_revision_that_the_summary_names(hub: Hub, cli: Cli, runs: Path) -> None:
    first = hub.commit(data__train_jsonl=lines(["a", "b"]), data__test_jsonl=lines(["c"]))
    done = train(cli, runs, NAME, "--num-epochs", "2")
    assert done.returncode == 0, done.stderr
    summary = json.loads((runs / "s/finetune_lora/summary.json").read_text())
    assert summary["params"]["dataset_path"] == f"{NAME}::revision={first}"
    assert summary["metrics"]["rows"] == 2 and f"{NAME} is at revision {first} of the hub" in (runs / "s/pipeline.log").read_text()
    lineage = json.loads((runs / "s/finetune_lora/adapter/lineage.json").read_text())
    assert lineage["stages"][0]["dataset_path"] == [f"{NAME}::revision={first}"]

    # A newer commit is another data set; an older one is read again by its name, also for what the next stage forgets.
    second = hub.commit(data__train_jsonl=lines(["a", "b", "d"]), data__test_jsonl=lines(["c"]))
    done = train(cli, runs, f"{NAME}::split=test", "--step", "next", "--checkpoint-lora", "@finetune_lora", "--num-epochs", "1")
    assert done.returncode == 0, done.stderr
    summary = json.loads((runs / "s/next/summary.json").read_text())
    assert summary["params"]["dataset_path"] == f"{NAME}::split=test,revision={second}" and summary["metrics"]["rows"] == 1
    assert summary["result"]["forgetting"][0]["rows"] == 2

    report = json.loads(cli("check", NAME, "--model", "builtin:tiny", "--json").stdout)
    assert report["counts"]["conversations"] == 3 and report["files"] == [NAME]


def test_problems_in_a_data_set_of_the_hub_have_their_places(hub: Hub, cli: Cli) -> None:
    hub.commit(data__train_jsonl=b'{"messages": [{"role": "user", "content": "q"}]}\n')
    done = cli("check", NAME, "--model", "builtin:tiny")
    assert done.returncode == 2 and "line 1, column 1, [0]: has no assistant turn" in done.stdout
    assert "Generating" not in done.stderr, "no progress of libraries"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("someone/nothing", "no data set of the Hugging Face hub could be loaded"),
        (f"{NAME}::revision=other", "no data set of the Hugging Face hub could be loaded"),
        (f"{NAME}::split=dev", "dev"),
    ],
)
def test_what_is_not_on_the_hub_is_refused(hub: Hub, cli: Cli, runs: Path, data: str, words: str) -> None:
    hub.commit(data__train_jsonl=lines(["a"]))
    done = train(cli, runs, data)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert not list(runs.glob("s/*/adapter"))


def test_a_resumed_training_reads_the_revision_that_it_began_with(hub: Hub, cli: Cli, runs: Path) -> None:
    first = hub.commit(data__train_jsonl=lines(["a", "b", "c", "d"]))
    assert train(cli, runs, NAME, "--num-epochs", "3", "--save-steps", "1", "--batch-size", "2").returncode == 0
    step = runs / "s/finetune_lora"
    whole = (step / "adapter/adapter_model.safetensors").read_bytes()
    begun = json.loads((step / "begun.json").read_text())
    assert begun["params"]["dataset_path"] == f"{NAME}::revision={first}"
    hub.commit(data__train_jsonl=lines(["x"]))
    back_to(step, 2)
    done = cli("resume", "s", "--step", "finetune_lora", "--runs-dir", str(runs))
    assert done.returncode == 0, done.stderr
    assert (step / "adapter/adapter_model.safetensors").read_bytes() == whole
