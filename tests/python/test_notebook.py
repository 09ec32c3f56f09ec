"""What the output of a notebook's cells holds, with a real kernel: answers and warnings, and no log lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Run]:
    """Runs the code of a cell in a kernel of its own; the messages with the cell's output."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))

    def run(code: str) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = []
        reply = client.execute_interactive(code, timeout=300, store_history=False, output_hook=lambda message: shown.append(message))
        assert reply["content"]["status"] == "ok" or "raises" in code, shown
        kinds = ("stream", "display_data", "execute_result", "error")
        return [message["content"] | {"kind": message["msg_type"]} for message in shown if message["msg_type"] in kinds]

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def text(outputs: list[dict[str, Any]], name: str) -> str:
    return "".join(one["text"] for one in outputs if one.get("name") == name)


def test_answers_are_streamed_and_no_log_line_is_among_the_cells(cell: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import logging, time\n\ndef run(params, session):\n    print('for the log')\n    session.progress(0, 3)\n"
        "    for word in ('one ', 'two ', 'three'):\n        session.stream(word)\n        time.sleep(0.3)\n    session.stream('\\n')\n"
        "    logging.info('for the log too')\n    logging.warning('look out')\n"
    )
    outputs = cell("import pyrust_nn\nmade = pyrust_nn.run_script('s', 'mine.py')")
    assert text(outputs, "stdout") == "one two three\n"
    assert text(outputs, "stderr") == "warning: look out\n"
    assert len([one for one in outputs if one.get("name") == "stdout"]) > 1, "word by word"
    assert all(one["kind"] == "stream" for one in outputs)
    assert "for the log too" in (tmp_path / "runs/s/pipeline.log").read_text()
    # The kernel has its streams back, and a request for log lines is heard.
    assert text(cell("print('mine again')"), "stdout") == "mine again\n"
    outputs = cell("pyrust_nn.set_console(True)\nmade = pyrust_nn.run_script('s', 'mine.py', overwrite=True)")
    assert "for the log too" in text(outputs, "stderr")
    assert not cell("pyrust_nn.set_console(False)\nmade = pyrust_nn.run_script('s', 'mine.py', overwrite=True)")


def test_a_training_and_its_answer(cell: Run, data_json: str) -> None:
    train = f"import pyrust_nn\nmade = pyrust_nn.finetune_lora('s', 'builtin:tiny', dataset_path={data_json!r}, num_epochs=0.2)"
    assert not text(cell(train), "stdout")
    ask = "made = pyrust_nn.inference('s', 's/finetune_lora', prompt=['Hello'], max_new_tokens=8, temperature=0)"
    answer = text(cell(ask), "stdout")
    assert answer == text(cell("print(made['result'][0]['text'])"), "stdout")


def test_a_failure_is_the_exception_alone(cell: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def run(params, session):\n    raise ValueError('no such thing')\n")
    outputs = cell("import pyrust_nn\npyrust_nn.run_script('s', 'mine.py')  # raises")
    assert [one["kind"] for one in outputs] == ["error"]
    assert outputs[0]["ename"] == "ScriptError"


def html(outputs: list[dict[str, Any]]) -> str:
    (shown,) = [one["data"]["text/html"] for one in outputs if one["kind"] == "execute_result"]
    return str(shown)


def test_a_summary_is_shown_as_a_table_with_the_curve_and_stays_a_dict(cell: Run, data_json: str) -> None:
    train = f"import pyrust_nn\npyrust_nn.finetune_lora('s', 'builtin:tiny', dataset_path={data_json!r}, num_epochs=1, logging_steps=1)"
    shown = html(cell(train))
    assert "finetune_lora/adapter" in shown and 'aria-label="Loss: loss from ' in shown and "<script" not in shown
    code = (
        "open('mine.py', 'w').write('def run(params, session): pass')\nimport json\nmade = pyrust_nn.run_script('s', 'mine.py')\n"
        "print(isinstance(made, dict), json.load(open('runs/s/script/summary.json')) == made, json.loads(json.dumps(made)) == made)"
    )
    assert text(cell(code), "stdout") == "True True True\n"


def test_a_failed_step_is_shown_by_its_exception_s_summary(cell: Run) -> None:
    code = (
        "import pyrust_nn\nopen('mine.py', 'w').write('def run(params, session):\\n    raise ValueError(\"<b>no\")\\n')\n"
        "try:\n    pyrust_nn.run_script('s', 'mine.py')\nexcept pyrust_nn.ScriptError as error:\n    shown = error.summary\nshown"
    )
    shown = html(cell(code))
    assert "&lt;b&gt;no" in shown and "<b>no" not in shown and "failure" in shown
