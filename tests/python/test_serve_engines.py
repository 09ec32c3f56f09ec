"""`serve` with other engines: transformers' own server answers as `inference` does; what vLLM is told; a llama-server of the user's."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_serve import KEY, QUESTION, Served, ask, by_inference
from test_serve import made as made

import pyrust_nn
from pyrust_nn.serving import programs

# A program with vLLM's command line, since vLLM needs a GPU: it keeps what it was told, and answers with it.
VLLM = """#!{python}
import http.server, json, os, sys
arguments = sys.argv[1:]
json.dump({{"arguments": arguments, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "key": os.environ["VLLM_API_KEY"],
            "ours": os.environ.get("PYRUST_NN_API_KEY")}}, open("{told}", "w"))
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404, {{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        authorized = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        choice = {{"index": 0, "finish_reason": "stop", "message": {{"role": "assistant", "content": json.dumps(body)}}}}
        self.answer(200 if authorized else 401, {{"object": "chat.completion", "choices": [choice], "model": body["model"]}})
    def log_message(self, *words): pass
host, port = (arguments[arguments.index(flag) + 1] for flag in ("--host", "--port"))
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""

# llama.cpp's server with a command line like llama-server's: the package has no such program.
LLAMA_SERVER = """#!{python}
import argparse, os, sys
parser = argparse.ArgumentParser()
for flag in ("model", "alias", "host", "port", "parallel", "threads", "threads-batch", "ctx-size", "n-gpu-layers"):
    parser.add_argument("--" + flag)
for flag in ("jinja", "metrics", "no-slots", "no-webui", "no-kv-unified", "lora-init-without-apply"):
    parser.add_argument("--" + flag, action="store_true")
parser.add_argument("--lora", action="append", default=[])
given = parser.parse_args()
open("{told}", "w").write(" ".join(sys.argv))
import xllamacpp
common = xllamacpp.CommonParams()
common.model.path, common.model_alias = given.model, [given.alias]
common.n_ctx, common.n_parallel, common.kv_unified, common.warmup = int(given.ctx_size), int(given.parallel), not given.no_kv_unified, False
common.cpuparams.n_threads, common.use_jinja, common.port, common.hostnames = int(given.threads), given.jinja, int(given.port), [given.host]
common.api_keys, common.verbosity = [os.environ["LLAMA_API_KEY"]], 2
common.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in given.lora]
common.lora_init_without_apply = given.lora_init_without_apply
server = xllamacpp.Server(common)
import signal; signal.pause()
"""


def program(folder: Path, name: str, source: str) -> tuple[Path, Path]:
    """An executable of this name, and the file in which it keeps what it was told."""
    path, told = folder / name, folder / "told.json"
    path.write_text(source.format(python=sys.executable, told=told))
    path.chmod(0o755)
    return path, told


@pytest.fixture
def with_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `vllm` on PATH. The file has what it was told."""
    folder = tmp_path / "programs"
    folder.mkdir()
    _, told = program(folder, "vllm", VLLM)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return told


def test_transformers_answers_as_inference_does(made: Path, trained: dict[str, str], binary: Path) -> None:
    """Two models, each in a server of its own; whole and streamed."""
    pyrust_nn.merge("m", "m/lora-one", step="merged-one", verify=False, runs_dir=made)
    words = ["-m", f"base={trained['full']}", "-m", "one=m/merged-one", "--engine", "transformers", "--session", "hf", "--device", "cpu"]
    with Served(binary, made, *words, PYRUST_NN_API_KEY=KEY) as served:
        for name, model in (("base", trained["full"]), ("one", "m/merged-one")):
            (wanted,) = by_inference(made, model, [QUESTION])
            assert ask(served.client, name, QUESTION) == wanted
            parts = served.client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": QUESTION}], max_tokens=64, temperature=0, stream=True
            )
            assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == wanted
        assert served.request("POST", "/v1/chat/completions", {"model": "none", "messages": []})[0] == 404
        assert served.request("POST", "/v1/chat/completions", {}, Authorization="Bearer wrong")[0] == 401
        # Without a model: the first one.
        status, answer = served.request(
            "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 64}
        )
        assert status == 200 and answer["choices"][0]["message"]["content"] == by_inference(made, trained["full"], [QUESTION])[0]
        held = served.children()
        os.kill(held[0], signal.SIGKILL)
        served.until("it was started again")
        assert ask(served.client, "base", QUESTION) == by_inference(made, trained["full"], [QUESTION])[0]
        served.process.terminate()
        served.process.wait(60)
        assert served.process.returncode == 0 and served.summary()["status"] == "Success"
        assert KEY not in served.log
    for child in held:
        assert not Path(f"/proc/{child}").exists()


def test_what_vllm_is_told(made: Path, trained: dict[str, str], binary: Path, with_vllm: Path) -> None:
    words = ["-m", f"base={trained['full']}", "--adapter", "one=m/lora-one", "--adapter", "m/lora-two", "--engine", "vllm"]
    with Served(binary, made, *words, "--ctx-size", "512", "--parallel", "3", "--session", "v", PYRUST_NN_API_KEY=KEY) as served:
        told = json.loads(with_vllm.read_text())
        arguments: list[str] = told["arguments"]
        after = {flag: arguments[i + 1] for i, flag in enumerate(arguments[:-1]) if flag.startswith("--")}
        assert arguments[:2] == ["serve", str(Path(trained["full"]).resolve())]
        assert (after["--host"], after["--served-model-name"], after["--max-model-len"], after["--max-num-seqs"]) == (
            "127.0.0.1",
            "base",
            "512",
            "3",
        )
        assert "--enable-lora" in arguments and (after["--max-loras"], after["--max-lora-rank"]) == ("2", "8")
        modules = [json.loads(one) for one in arguments[arguments.index("--lora-modules") + 1 :]]
        wanted = [("one", made / "m/lora-one/adapter"), ("m/lora-two", made / "m/lora-two/adapter")]
        assert [(one["name"], Path(one["path"]), one["base_model_name"]) for one in modules] == [(*pair, "base") for pair in wanted]
        assert told["key"] not in arguments and told["key"] != KEY and told["ours"] is None
        # A request goes through as it is, an adapter's too.
        for name in ("base", "one", "m/lora-two"):
            assert json.loads(ask(served.client, name, "a", seed=5, extra_body={"min_p": 0.1})) == {
                "model": name,
                "messages": [{"role": "user", "content": "a"}],
                "max_tokens": 64,
                "temperature": 0,
                "seed": 5,
                "min_p": 0.1,
            }
        served.process.terminate()
        assert served.process.wait(60) == 0


def test_a_llama_server_of_ones_own(made: Path, binary: Path, tmp_path: Path) -> None:
    path, told = program(tmp_path, "llama-server", LLAMA_SERVER)
    words: list[str | Path] = ["-m", "base=m/gguf", "--adapter", "one=m/one", "--llama-server", path, "--parallel", "2", "--session", "own"]
    with Served(binary, made, *words, PYRUST_NN_API_KEY=KEY) as served:
        assert "--no-kv-unified" in told.read_text() and "--cache-ram" not in told.read_text(), "flags that its --help has"
        assert KEY not in told.read_text()
        (wanted,) = by_inference(made, "m/gguf", [QUESTION])
        (tuned,) = by_inference(made, "m/gguf", [QUESTION], adapter=["m/one"])
        for _ in range(2):
            assert ask(served.client, "base", QUESTION) == wanted and ask(served.client, "one", QUESTION) == tuned != wanted
        served.process.terminate()
        assert served.process.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "m/gguf", "--engine", "vllm"], "serves folders, and .* is in GGUF"),
        (["-m", "m/lora-one", "--engine", "vllm"], "serves an adapter beside its base: -m .* --adapter "),
        (["-m", "FULL", "--adapter", "STACKED", "--engine", "vllm"], "it was trained on top of other adapters; merge it"),
        (["-m", "m/lora-one", "--engine", "transformers"], "serves whole models, and .* is an adapter: merge it first"),
        (["-m", "FULL", "--adapter", "OTHER", "--engine", "vllm"], "has another chat template"),
        (["-m", "FULL", "--engine", "vllm", "--llama-server", "x"], "--llama-server is llama.cpp's"),
        (["-m", "m/gguf", "--llama-server", "nowhere"], "llama_server is nowhere, which is no program here"),
        (["-m", "m/gguf", "--llama-server", "/bin/false"], "/bin/false --help does not run"),
        (["-m", "FULL", "--engine", "ollama"], '--engine must be one of llama, vllm, transformers, not "ollama"'),
    ],
)
def test_what_an_engine_cannot_serve(
    words: list[str], message: str, made: Path, trained: dict[str, str], cli: Callable[..., Any], with_vllm: Path
) -> None:
    stacked = made / "m/lora-stacked"
    if not stacked.exists():
        for name in ("stacked", "other"):
            copy_of(made / "m/lora-one/adapter", made / f"m/lora-{name}")
        (stacked / "parents").mkdir()
        (made / "m/lora-other/chat_template.jinja").write_text("{{ messages }}")
    places = {"FULL": trained["full"], "STACKED": str(stacked), "OTHER": str(made / "m/lora-other")}
    given = [places.get(word, word) for word in words]
    done = cli("serve", *given, "--port", "0", "--runs-dir", made, "--session", "refused")
    assert done.returncode in (1, 2) and re.search(message, done.stderr), done.stderr
    assert not with_vllm.exists()


def copy_of(folder: Path, copy: Path) -> None:
    """A copy of an adapter's folder."""
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != "summary.json":
            (copy / path.name).write_bytes(path.read_bytes())


def test_an_engine_that_is_not_installed_is_named_with_its_installation(
    made: Path, trained: dict[str, str], cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("serve", "-m", trained["full"], "--engine", "vllm", "--port", "0", "--runs-dir", made)
    assert done.returncode == 1 and "needs the program vllm, which is not installed: pip install vllm" in done.stderr, done.stderr
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"needs fastapi and uvicorn: pip install 'transformers\[serving\]'"):
        programs.find_program("transformers")
