"""Models of others: templates, tokenizers and configurations made to run forever, to use all memory or to end the process."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import disturbed
import pytest
from disturbed import wait_for

import pyrust_nn
from pyrust_nn.models.model_folder import model_folder

Cli = Callable[..., subprocess.CompletedProcess[str]]

MEMORY = 6 << 30


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder that a test may spoil."""
    return Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path / "model"))


def limited() -> None:
    """Bound the memory of a child process: using more ends it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def assert_refused(done: subprocess.CompletedProcess[str], *words: str, recorded: bool = True) -> None:
    """The step ended with kind `input` and no panic: with a summary and a log line if `recorded`, else without a session."""
    assert done.returncode == 2, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["error"]["kind"] == "input" and "panicked" not in done.stderr
    assert all(word in json.dumps(summary["error"], ensure_ascii=False) for word in words), summary["error"]
    session = Path("runs") / summary["session"]
    if not recorded:
        assert not session.exists(), "data that cannot be prepared refuse the attempt"
        return
    assert json.loads((session / summary["step"] / "summary.json").read_text())["error"] == summary["error"]
    assert all(word in (session / "pipeline.log").read_text() for word in words)


LOOP = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "an endless loop": (LOOP, "4000000 steps"),
    "a doubling string": ("{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "256 MB"),
    "an indentation": ("{{ 'x'|indent(10**9) }}", "256 MB"),
    "an indentation of JSON": ("{{ messages|tojson(indent=10**9) }}", "the limit is 1000"),
    "a product": ("{{ 'x' * 10**9 }}", "256 MB"),
    "a range": ("{{ range(10**12)|list|length }}", "range has too many elements"),
    "a recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion limit"),
    "a chain of operators": ("{{ 1" + "+1" * 40_000 + " }}", "2000 operators"),
    "nested brackets": ("{{ " + "[" * 40_000 + "]" * 40_000 + " }}", "2000 operators"),
    "a large file": ("x" * 300_000, "the limit is 262144"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_stops_at_its_limits(name: str, model: Path, cli: Cli, data_json: str) -> None:
    text, words = TEMPLATES[name]
    (model / "chat_template.jinja").write_text(text)
    done = cli("prepare", data_json, "--model", model, "--json", timeout=200)
    assert done.returncode == 2 and "panicked" not in done.stderr, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "input" and words in error["message"] and str(model) in error["message"]


@pytest.mark.parametrize("name", ["an endless loop", "a chain of operators", "a doubling string"])
def test_every_task_that_renders_has_the_limits(name: str, model: Path, cli: Cli, data_json: str) -> None:
    text, words = TEMPLATES[name]
    (model / "chat_template.jinja").write_text(text)
    assert_refused(
        cli("finetune-lora", "--dataset-path", data_json, "--model", model, "--session", "a", "--json"), words, str(model), recorded=False
    )
    assert_refused(cli("inference", "--prompt", "hi", "--model", model, "--session", "b", "--json"), words, str(model))
    with pytest.raises(pyrust_nn.InputError, match=words):
        pyrust_nn.prepare_dataset(str(model), dataset_path=data_json)


def test_ctrl_c_ends_a_rendering(model: Path, binary: Path, tmp_path: Path, data_json: str) -> None:
    # Sums of lists that were doubled sixty times: one step of minijinja that would take years.
    lists = "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}"
    (model / "chat_template.jinja").write_text(lists)
    words = [binary, "finetune-lora", "--dataset-path", data_json, "--model", model, "--session", "s"]
    process = disturbed.start([str(word) for word in words], stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "runs/s/session.json")
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 130


@pytest.mark.parametrize("place", ["vocabulary", "added tokens"])
@pytest.mark.parametrize("number", [99_999_999, 2**32 - 1])
def test_an_enormous_token_id_is_refused_before_memory_is_taken(number: int, place: str, model: Path, cli: Cli, data_json: str) -> None:
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    if place == "vocabulary":
        content["model"]["vocab"]["zzz"] = number
    else:
        content["added_tokens"].append(content["added_tokens"][0] | {"id": number, "content": "<|zzz|>"})
    (model / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    done = cli("prepare", data_json, "--model", model, "--json", preexec_fn=limited)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (2, "input") and str(number) in error["message"]
    words = ["--model", model, "--session"]
    assert_refused(
        cli("finetune-lora", "--dataset-path", data_json, *words, "a", "--json", preexec_fn=limited), str(number), recorded=False
    )
    assert_refused(cli("inference", "--prompt", "hi", *words, "b", "--json", preexec_fn=limited), str(number))
    assert_refused(cli("convert-model-to-gguf", *words, "c", "--json", preexec_fn=limited), str(number))
    with pytest.raises(pyrust_nn.InputError, match=str(number)):
        pyrust_nn.prepare_dataset(str(model), dataset_path=data_json)


def test_an_enormous_vocab_size_is_refused(model: Path, cli: Cli) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 10**12}))
    done = cli("convert-model-to-gguf", "--model", model, "--session", "s", "--json", preexec_fn=limited)
    assert done.returncode in (1, 2), done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] in ("model", "input") and "vocab_size" in error["message"] and "panicked" not in done.stderr


V: dict[str, int] = {"a": 0, "é": 51, "aé": 50}
PANICS = {
    # Each panics in the tokenizers library; the second and the third end the process, so no panic could be caught.
    "a broken normalizer": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "a prefix within a character": {"model": {"type": "BPE", "vocab": V, "continuing_subword_prefix": "x", "merges": ["a é"]}},
    "a padding without end": {"padding": {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                                          "pad_type_id": 0, "pad_token": "a"}},
    "chunks of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}  # fmt: skip


@pytest.mark.parametrize("name", PANICS)
def test_a_panic_of_the_tokenizers_library_is_an_error(name: str, model: Path, cli: Cli, data_json: str) -> None:
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    (model / "tokenizer.json").write_text(json.dumps(content | PANICS[name]), encoding="utf-8")
    done = cli("prepare", data_json, "--model", model, "--json", preexec_fn=limited)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (2, "input") and "tokenizer" in error["message"], done.stderr
    with pytest.raises(pyrust_nn.InputError):
        pyrust_nn.prepare_dataset(str(model), dataset_path=data_json)
