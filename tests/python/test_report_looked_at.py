"""Reports as they are judged: of every kind of session, at the widths of a screen, a tablet and a phone, light and dark."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_report import EVIL, checked, summary, write_metrics, write_session

LONG = "x" * 10_000
KINDS = ("failed", "interrupted", "resumed", "single", "hundred-thousand", "hostile")


def write_kinds(runs: Path) -> None:
    """A session of each kind."""
    tuned = {"model": "Qwen/Qwen3-0.6B", "dataset_path": "chats.jsonl", "lora_rank": 8}
    counts = {"conversations": 900, "rows": 900, "tokens": 90_000, "target_tokens": 30_000, "first_loss": 3.0, "last_loss": 1.0}
    tune = summary("finetune_lora", "tune", params=tuned, metrics=counts, outputs={"adapter": "tune/adapter"})
    error = {"kind": "script", "message": f"no such column\n{LONG}", "causes": ["a cause"], "traceback": "at\n" * 200}
    write_session(runs, [tune, summary("script", "own", status="Failure", error=error)], "failed", state="failure")
    stopped = {"kind": "interrupted", "message": "interrupted by Ctrl-C", "causes": [], "traceback": None}
    write_session(runs, [summary("finetune_lora", "tune", status="Failure", params=tuned, error=stopped)], "interrupted")
    folder = write_session(runs, [tune], "resumed")
    repeated = [*range(1, 60), *range(40, 90)]
    write_metrics(folder / "tune", ({"step": i, "loss": 3 / i, "eval_loss": 4 / i, "learning_rate": 1e-4} for i in repeated))
    folder = write_session(runs, [tune], "single")
    write_metrics(folder / "tune", iter([{"step": 1, "loss": 2.0, "learning_rate": 1e-4, "peak_memory_bytes": 7e9}]))
    folder = write_session(runs, [tune], "hundred-thousand")
    steps = range(1, 100_001)
    write_metrics(folder / "tune", ({"step": i, "loss": 4 / i + i % 7 / 9, "grad_norm": i % 3, "tokens_per_second": i % 99} for i in steps))
    answers = [{"messages": [{"role": "user", "content": f"שלום עולם 🙂 {EVIL}"}], "text": f"مرحبا {EVIL} {LONG}"}] * 2
    failed = {"kind": "script", "message": EVIL + LONG, "causes": [EVIL, LONG], "traceback": EVIL}
    hostile = summary("finetune_lora", "tune", params={"model": EVIL, "dataset_path": [EVIL, LONG], EVIL: LONG}, metrics={EVIL: EVIL})
    ask = summary("inference", "ask", params={"model": "@tune"}, result=answers)
    folder = write_session(runs, [hostile, ask, summary(EVIL, "own", status="Failure", error=failed)], "hostile", state="failure")
    write_metrics(folder / "tune", ({"step": i, "loss": 3 / i, EVIL: i, "損失": i} for i in range(1, 9)))
    sample = {"row": 3, "held_out": True, "message": EVIL, "prompt": LONG, "expected": f"שלום {EVIL}", "before": LONG, "after": EVIL}
    (folder / "tune/samples.jsonl").write_text(json.dumps(sample) + "\n")
    rows = [{"row": 0, "tokens": 9, "trained": 3, "shown": 9, "segments": [[EVIL, True], [LONG, False]]}]
    (folder / "tune/data_report.json").write_text(json.dumps({"lengths": {}, "samples": rows, "warnings": [EVIL + LONG]}))
    (folder / "pipeline.log").write_text(f"2026-01-01T00:00:00.000Z [WARN ] a: {EVIL}{LONG}\n")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, binary: Path) -> Path:
    """The reports of all kinds."""
    runs = tmp_path_factory.mktemp("kinds")
    write_kinds(runs)
    for kind in KINDS:
        subprocess.run([binary, "report", kind, "--runs-dir", runs], check=True, stdout=subprocess.DEVNULL)
    return runs


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_one_safe_file_and_says_its_state(kinds: Path, kind: str) -> None:
    read = checked((kinds / kind / "report.html").read_text(encoding="utf-8"))
    words = {
        "failed": "failure One step of 2 failed.",
        "interrupted": "interrupted It was interrupted",
        "hostile": "failure One step of 3 failed.",
    }
    assert words.get(kind, "success The only step succeeded.") in read.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_each_fits_the_window_is_accessible_and_runs_nothing(browser: Any, kinds: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for kind in KINDS:
        address = (kinds / kind / "report.html").as_uri()
        # First as it is, with its policy: nothing is refused, asked for, or run.
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("dialog", lambda dialog, said=said: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request, said=said, address=address: said.append(request.url) if request.url != address else None)
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, kind
        # No text of an axis is beside its drawing, where it would be cut off.
        beside = """all => all.filter((text) => {
          const [own, whole] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
          return own.width && (own.left < whole.left - 1 || own.right > whole.right + 1);
        }).map((text) => text.textContent)"""
        assert page.locator("svg.plotted text").evaluate_all(beside) == [], kind
        # However long a text is, what follows it is near.
        assert page.locator("[data-tall]").evaluate_all("all => all.every(one => one.clientHeight < 300)")
        assert page.locator("#pipeline").evaluate("one => one.getBoundingClientRect().top + scrollY") < 4000, kind
        assert said == [], kind
        context.close()
        # axe is a script, which the page's own policy refuses.
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        found = axe.Axe().run(page).response["violations"]
        assert not found, (kind, [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found])
        context.close()
