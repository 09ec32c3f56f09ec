"""The sample pipeline, run by the binary: models answer exactly as data.json, and every file has the right content."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, binary: Path) -> Path:
    """The session's folder after `pyrust-nn` without any word more, in a folder that holds the sample's two files alone."""
    folder = tmp_path_factory.mktemp("sample")
    for name in ("pipeline.toml", "data.json"):
        shutil.copy(CHECKOUT / name, folder)
    done = subprocess.run([binary, "--session", "sample", "--offline"], cwd=folder, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert table[0].split() == ["step", "state", "time", "result", "output"]
    assert all(line.split()[1] == "success" for line in table[1:-2])
    assert [line.split()[0] for line in table if "31 of 31 answers as expected" in line] == [
        "ask_full",
        "ask_lora",
        "ask_continued",
        "ask_8bit",
    ]
    assert table[-1] == "next: ollama create sample-convert_model_to_gguf -f runs/sample/convert_model_to_gguf/Modelfile.f16"
    return folder / "runs/sample"


@pytest.mark.parametrize("step", ["ask_full", "ask_lora", "ask_continued", "ask_8bit"])
def test_the_very_words(step: str, session: Path, conversations: list[list[dict[str, str]]]) -> None:
    answers = [json.loads(line) for line in (session / step / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == len(conversations) >= 20
    for answer, conversation in zip(answers, conversations, strict=True):
        assert answer["messages"] == conversation[:-1]
        assert answer["text"] == conversation[-1]["content"]
        assert answer["finish_reason"] == "stop"
        assert answer["prompt_tokens"] > 0 and answer["completion_tokens"] > 0 and answer["seconds"] > 0


def test_every_step_left_its_summary_and_its_outputs(session: Path) -> None:
    made: dict[str, Any] = {}
    for path in session.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        assert summary["status"] == "Success" and summary["error"] is None
        assert (path.parent / "script.py").is_file()
        for name, outputs in summary["outputs"].items():
            for output in outputs if isinstance(outputs, list) else [outputs]:
                assert (session / output).exists(), output
                made.setdefault(name, []).append(output)
    assert set(made) == {"model", "adapter", "gguf", "answers"}
    assert (session / "convert_model_to_gguf/Modelfile.f16").is_file()
    record = json.loads((session / "session.json").read_text())
    assert [one["status"] for one in record["invocations"]] == ["Success"] * len(list(session.glob("*/summary.json")))


def test_the_quantized_model_is_smaller_and_loads_with_plain_transformers(session: Path) -> None:
    from transformers import AutoModelForCausalLM

    metrics = json.loads((session / "quantize_model/summary.json").read_text())["metrics"]
    assert metrics["size_after_bytes"] < metrics["size_before_bytes"]
    model = AutoModelForCausalLM.from_pretrained(session / "quantize_model/model")
    assert any(type(module).__name__ == "Linear8bitLt" for module in model.modules())


def test_torch_is_imported_once(session: Path) -> None:
    record = json.loads((session / "session.json").read_text())
    assert len({one["pid"] for one in record["invocations"]}) == 1 < len(record["invocations"])


def test_sessions_and_status_show_it(session: Path, cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    listed = json.loads(cli("sessions", "--json", "--runs-dir", session.parent).stdout)
    assert [(one["session"], one["state"]) for one in listed] == [("sample", "success")]
    shown = cli("status", "sample", "-n", "3", "--runs-dir", session.parent).stdout.splitlines()
    assert len(shown) == 1 + len(listed[0]["steps"]) + 1 + 3
