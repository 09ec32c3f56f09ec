"""A report on paper: printed to PDF by Chromium from a dark screen, nothing of it is cut off, hidden or dark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_report import summary, write_metrics, write_session

Cli = Callable[..., Any]

# Elements whose content is larger than what they show. What only a screen reader is told is no part of it.
CUT_OFF = """() => [...document.body.querySelectorAll('*')].filter((one) => {
  const style = getComputedStyle(one);
  const isShown = one.getClientRects().length && style.display !== 'inline' && !one.closest('svg, .hidden, .skip');
  const isBeside = style.overflowX !== 'visible' || one.getBoundingClientRect().right > innerWidth + 1;
  const isWider = one.scrollWidth > one.clientWidth + 1 && isBeside;
  const isCell = one.matches('td, th') && one.scrollWidth > one.clientWidth + 1;
  return isShown && one.clientWidth && (isWider || isCell || (style.overflowY !== 'visible' && one.scrollHeight > one.clientHeight + 1));
}).map((one) => `${one.tagName} ${one.className}: ${one.textContent.slice(0, 80)}`)"""


@pytest.fixture
def long(runs: Path, cli: Cli) -> Path:
    """The report of a session whose every part is longer than a screen shows."""
    layers = {
        "bytes": {"ran": True, "passed": True, "tensors": 26, "worst": {"ratio": 0.5, "tensor": "model.layers.1.mlp.gate_up_proj.weight"}},
        "logits": {"ran": True, "passed": True, "mean_kl": 1e-5, "max_allowed_kl": 1e-3, "top1": 0.98, "perplexity": 12.5},
        "prompts": {"ran": False, "why": "llama.cpp runs an adapter with its base's GGUF file, which is not at hand"},
        "answers": {"ran": False, "why": "the answers are the last words of this table"},
    }
    tune = summary(
        "finetune_lora",
        "tune",
        params={"model": "builtin:tiny", "dataset_path": "data.json", "note": "a parameter's last words"},
        metrics={"conversations": 3, "rows": 3, "tokens": 30, "first_loss": 3.0, "last_loss": 1.0, "duplicates": 1},
        outputs={"adapter": "tune/adapter"},
    )
    proof = [{"file": f"/x/{'a-long-name-of-a-model-' * 3}.q8_0.gguf", "passed": True, "layers": layers}]
    gguf = summary("convert_model_to_gguf", "convert", params={"model": "@tune"}, outputs={"gguf": ["convert/m.q8_0.gguf"]}, proof=proof)
    error = {
        "kind": "script",
        "message": "the message of the error " * 30,
        "causes": [],
        "traceback": "at\n" * 120 + "the traceback's last words",
    }
    folder = write_session(runs, [tune, gguf, summary("script", "own", status="Failure", error=error)])
    names = {f"a_number_of_my_own_script_{i}_with_a_long_name": float(i) for i in range(4)}
    write_metrics(folder / "tune", ({"step": i, "loss": 3 / i, "eval_loss": 4 / i, "learning_rate": 1e-4} | names for i in range(1, 60)))
    segments = [["a line of a row\n" * 90, False], ["the row's last words", True]]
    histogram = [{"from": 1, "to": 9, "rows": 3}]
    samples = [{"row": 0, "tokens": 900, "trained": 5, "shown": 900, "segments": segments}]
    (folder / "tune/data_report.json").write_text(json.dumps({"lengths": {"median": 5, "histogram": histogram}, "samples": samples}))
    assert cli("report", "s", "--runs-dir", runs).returncode == 0
    return folder / "report.html"


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_nothing_is_cut_off_or_dark_on_paper(browser: Any, long: Path, tmp_path: Path, paper: str) -> None:
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(long.as_uri())
    page.pdf(path=tmp_path / "report.pdf", format=paper, print_background=True)
    context.close()
    document = pdfium.PdfDocument(tmp_path / "report.pdf")
    words = ""
    for number in range(len(document)):
        sheet = document[number]
        width, height = sheet.get_size()
        text = sheet.get_textpage()
        words += " " + text.get_text_range()
        boxes = [(text.get_charbox(i), text.get_text_range(i, 1)) for i in range(text.count_chars())]
        outside = [
            letter for (left, bottom, right, top), letter in boxes if left < 9 or right > width - 9 or bottom < 9 or top > height - 9
        ]
        beside = "".join(outside)
        assert not beside.strip(), f"in the margin of page {number + 1}: {beside}"
        pixels = sheet.render(scale=0.5, grayscale=True).to_numpy()
        assert pixels[0, 0] == 255 and pixels.mean() > 200, f"page {number + 1} is dark"
        text.close()
    document.close()
    # Words are broken where lines end.
    joined = "".join(words.split())
    for shown in (
        "the traceback's last words",
        "the row's last words",
        "a parameter's last words",
        "the answers are the last words of this table",
        "The curves in numbers",
        "All 2 files that can be used",
        "a_number_of_my_own_script_3_with_a_long_name",
        "gate_up_proj.weight",
        "duplicates",
        "Written by Pyrust-NN",
    ):
        assert shown.replace(" ", "") in joined, shown
    assert "smoothing" not in words and "Skip to the content" not in words, "what only a screen can do"


def test_nothing_scrolls_on_paper(browser: Any, long: Path) -> None:
    # A sheet of A4 with the page's margins.
    context = browser.new_context(viewport={"width": 703, "height": 1000})
    page = context.new_page()
    page.goto(long.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate(CUT_OFF) == []
    context.close()
