"""What the output of a notebook's cells holds, with a real kernel: progress, answers and warnings, and no log lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
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
        kinds = ("stream", "display_data", "update_display_data", "execute_result", "error")
        return [message["content"] | {"kind": message["msg_type"]} for message in shown if message["msg_type"] in kinds]

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def text(outputs: list[dict[str, Any]], name: str) -> str:
    return "".join(one["text"] for one in outputs if one.get("name") == name)


def displays(outputs: list[dict[str, Any]]) -> list[list[str]]:
    """Of each display the texts that it showed, one after the other."""
    shown: dict[str, list[str]] = {}
    for one in outputs:
        if one["kind"].endswith("display_data"):
            assert (one["kind"] == "display_data") == (one["transient"]["display_id"] not in shown), "it is made once and then updated"
            shown.setdefault(one["transient"]["display_id"], []).append(one["data"]["text/plain"])
    return list(shown.values())


def test_answers_are_streamed_and_no_log_line_is_among_the_cells(cell: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import logging, time\n\ndef run(params, session):\n    print('for the log')\n    session.progress(0, 3)\n"
        "    for word in ('one ', 'two ', 'three'):\n        session.stream(word)\n        time.sleep(0.3)\n    session.stream('\\n')\n"
        "    logging.info('for the log too')\n    logging.warning('look out')\n"
    )
    outputs = cell("import pyrust_nn\nmade = pyrust_nn.run_script('s', 'mine.py')")
    assert displays(outputs) == [["one ", "one two ", "one two three", "one two three\n"]], "word by word in one output that grows"
    assert text(outputs, "stderr") == "warning: look out\n" and not text(outputs, "stdout")
    assert "for the log too" in (tmp_path / "runs/s/pipeline.log").read_text()
    # The kernel has its streams back, and a request for log lines is heard.
    assert text(cell("print('mine again')"), "stdout") == "mine again\n"
    outputs = cell("pyrust_nn.set_console(True)\nmade = pyrust_nn.run_script('s', 'mine.py', overwrite=True)")
    assert "for the log too" in text(outputs, "stderr")
    assert len(displays(outputs)) == 1, "not that of the first step"
    assert not cell("pyrust_nn.set_console(False)\nmade = pyrust_nn.run_script('s', 'mine.py', overwrite=True)")


def test_a_training_and_its_answer(cell: Run, data_json: str) -> None:
    train = f"import pyrust_nn\nmade = pyrust_nn.finetune_lora('s', 'builtin:tiny', dataset_path={data_json!r}, num_epochs=0.2)"
    assert not text(cell(train), "stdout")
    ask = "made = pyrust_nn.inference('s', 's/finetune_lora', prompt=['Hello'], max_new_tokens=8, temperature=0)"
    (answer,) = displays(cell(ask))
    assert answer[-1] == text(cell("print(made['result'][0]['text'])"), "stdout")
    assert all(later.startswith(earlier) for earlier, later in pairwise(answer))


def test_many_words_a_second_are_few_updates_and_a_long_text_some_outputs(cell: Run, tmp_path: Path) -> None:
    body = "for i in range(40_000):\n        session.stream(f'{i} ')\n        session.progress(i, 40_000)"
    (tmp_path / "mine.py").write_text(f"def run(params, session):\n    {body}\n")
    shown = displays(cell("import pyrust_nn\nmade = pyrust_nn.run_script('s', 'mine.py')"))
    assert "".join(one[-1] for one in shown) == "".join(f"{i} " for i in range(40_000))
    assert 2 <= len(shown) <= 8, "each update has the whole text of its output"
    assert sum(map(len, shown)) < 4_000


def test_markup_of_a_model_or_a_script_is_text(cell: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def run(params, session):\n    session.progress(1, 2, '<b>loss')\n    session.stream('<script>alert(1)</script>')\n"
    )
    outputs = cell("import pyrust_nn\nmade = pyrust_nn.run_script('s', 'mine.py')")
    markup = " ".join(one["data"]["text/html"] for one in outputs if one["kind"] == "display_data")
    assert "&lt;b&gt;loss" in markup and "&lt;script&gt;" in markup and "<script" not in markup and "<b>" not in markup


def test_an_executed_notebook_has_one_bar_that_ended_one_answer_and_the_summary(tmp_path: Path, data_json: str) -> None:
    """As nbclient, papermill and a saved notebook have it."""
    import nbclient
    import nbformat

    train = f"pyrust_nn.finetune_lora('s', 'builtin:tiny', dataset_path={data_json!r}, num_epochs=2, logging_steps=1)"
    ask = "made = pyrust_nn.inference('s', 's/finetune_lora', prompt=['Hello', 'How are you?'], max_new_tokens=12)"
    cells = [nbformat.v4.new_code_cell(code) for code in ("import pyrust_nn", train, ask)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    _, trained, asked = (one["outputs"] for one in notebook["cells"])
    # Warnings may be there too, as text.
    bar, summary = [one for one in trained if one["output_type"] != "stream"]
    assert re.match(r"finetune_lora  100%  16/16  loss \d.*tokens/s", bar["data"]["text/plain"]), bar
    assert 'value="16" max="16"' in bar["data"]["text/html"]
    assert summary["output_type"] == "execute_result" and "finetune_lora/adapter" in summary["data"]["text/html"]
    (answers,) = [one for one in asked if one["output_type"] != "stream"]
    assert answers["data"]["text/plain"].startswith("> Hello\n") and "> How are you?\n" in answers["data"]["text/plain"]


def test_an_interrupt_while_an_output_is_shown_ends_the_step(cell: Run, tmp_path: Path) -> None:
    """It may come while the step is in the code that draws."""
    (tmp_path / "mine.py").write_text("def run(params, session):\n    while True:\n        session.stream('x')\n")
    code = "import pyrust_nn, threading, _thread\nthreading.Timer(2, _thread.interrupt_main).start()\n"
    outputs = cell(code + "try:\n    pyrust_nn.run_script('s', 'mine.py')  # raises\nexcept KeyboardInterrupt:\n    print('interrupted')")
    assert text(outputs, "stdout") == "interrupted\n"


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
