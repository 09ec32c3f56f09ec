"""report.html, as its reader has it: what is in it, that nothing of a session is markup, its size, and how a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]

VOID = {"meta", "input", "br"}
WIDEST = 2_000_000
CURVES = (Path(__file__).parents[2] / "src/report/curves.js").read_text(encoding="utf-8")
EVIL = (
    '</style></title></script><script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="alert(3) \' {{ 7*7 }} '
    "{% raw %} &amp; \x1b[2J \x00\x07 \u202eabc \u2028 שלום 🙂 <!-- ]]>"
)


class Page(HTMLParser):
    """A page's text, elements, and the attributes of each."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.style = ""
        self.script = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        elif self.open and self.open[-1] == "script":
            self.script += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(session: Path) -> Page:
    return checked((session / "report.html").read_text(encoding="utf-8"))


def checked(text: str) -> Page:
    """The page, if it can load nothing and run nothing but the script that draws its curves."""
    assert len(text.encode()) < WIDEST
    read = Page(text)
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"img", "link", "iframe", "object", "embed", "form", "base", "image", "use", "foreignobject"}
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "srcdoc", "xlink:href")], (
            tag,
            attributes,
        )
        if "href" in attributes:
            assert (attributes["href"] or "").startswith(("#", "./")), attributes
    policies = [one["content"] for one in read.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    style, script = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (read.style, read.script))
    allowed = f"style-src 'sha256-{style}'; script-src 'sha256-{script}'"
    assert policies == [f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"]
    assert read.all("script") == [{}] and read.script == CURVES, "the one script holds nothing of a session"
    assert "url(" not in read.style and "@import" not in read.style
    assert not [character for character in text if ord(character) < 32 and character not in "\n\t"]
    identifiers = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {(one["href"] or "")[1:] for one in read.all("a") if (one["href"] or "").startswith("#")}
    assert targets <= set(identifiers), "every link leads somewhere"
    return read


def summary(task: str, step: str, **more: Any) -> dict[str, Any]:
    made = {"task": task, "session": "s", "step": step, "status": "Success", "params": {}, "outputs": {}, "metrics": {}, "result": None}
    times = {"error": None, "started_at": "2026-01-01T00:00:00.000Z", "finished_at": "2026-01-01T00:01:00.000Z", "duration_s": 60.0}
    return made | times | more


def write_session(runs: Path, summaries: list[dict[str, Any]], name: str = "s", **record: Any) -> Path:
    """A session's folder as an earlier process left it."""
    folder = runs / name
    folder.mkdir(parents=True)
    invocations = []
    for one in summaries:
        (folder / one["step"]).mkdir()
        (folder / one["step"] / "summary.json").write_text(json.dumps(one))
        ended = {"finished_at": one["finished_at"], "status": one["status"], "error": (one["error"] or {}).get("kind")}
        invocations.append({"task": one["task"], "step": one["step"], "argv": [], "pid": 1, "started_at": one["started_at"], **ended})
    known = {"id": name, "created": "2026-01-01T00:00:00.000Z", "version": "0.1.0", "state": "success", "invocations": invocations}
    (folder / "session.json").write_text(json.dumps(known | record))
    return folder


def write_metrics(step: Path, lines: Iterator[dict[str, Any]]) -> None:
    (step / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def curve(page: Page, title: str) -> str:
    (label,) = [one["aria-label"] for one in page.all("svg") if (one.get("aria-label") or "").startswith(f"{title}:")]
    assert label is not None
    return label


SCRIPT = """
PARAMS = {'fail': False}
def run(params, session):
    session.metric({'step': 1, 'loss': 2.0, 'own number': 5})
    session.metric({'step': 2, 'loss': 1.0, 'own number': 7})
    if params.fail:
        try:
            raise KeyError('the <inner> cause')
        except KeyError as cause:
            raise ValueError('no such thing <b>') from cause
    return {'metrics': {'score': 0.25}}
"""


def test_the_report_is_there_after_every_step_and_after_a_failure(runs: Path, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    pyrust_nn.run_script("s", script, step="first", runs_dir=runs)
    report = runs / "s/report.html"
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    first = page(runs / "s")
    assert "The only step succeeded." in first.text and "Nothing: this session has no training." in first.text
    assert curve(first, "own number") == "own number: own number from 5 at step 1 to 7 at step 2, lowest 5 at step 1"
    with pytest.raises(pyrust_nn.ScriptError):
        pyrust_nn.run_script("s", script, step="second", params={"fail": True}, runs_dir=runs)
    second = page(runs / "s")
    assert "One step of 2 failed." in second.text and "no such thing <b>" in second.text and "the <inner> cause" in second.text
    assert "kind script" in second.text and "score" in second.text, "the first step stays"
    assert not list((runs / "s").glob(".report*"))


def test_an_error_of_the_report_is_a_warning_and_no_failure(runs: Path, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    (runs / "s/report.html").mkdir(parents=True)
    (runs / "s/report.html/kept").write_text("the user's")
    assert pyrust_nn.run_script("s", script, runs_dir=runs)["status"] == "Success"
    log = (runs / "s/pipeline.log").read_text()
    assert re.search(r"\[WARN \] .*report\.html of session s was not written", log)
    assert json.loads((runs / "s/session.json").read_text())["state"] == "success"
    assert (runs / "s/report.html/kept").read_text() == "the user's"


def test_the_first_screen_says_what_was_trained_on_what_how_it_went_and_what_to_use(cli: Cli, data_json: str, tmp_path: Path) -> None:
    """And the command in it works."""
    runs = tmp_path / "my runs"
    tuned = pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data_json, num_epochs=2, lora_rank=4, logging_steps=2, runs_dir=runs)
    read = page(runs / "s")
    metrics = tuned["metrics"]
    for words in (
        "finetune_lora: a LoRA adapter of rank 4 of builtin:tiny, on data.json.",
        f"31 conversations, {metrics['tokens']:,} tokens, {metrics['target_tokens']:,} of them learned; 2 epochs, {metrics['steps']} steps",
        f"{metrics['trainable_parameters']:,} parameters trained",
        "finetune_lora/adapter",
        "LoRA adapter, beside its base model",
        hashlib.sha256(Path(data_json).read_bytes()).hexdigest(),
        "base model",
        "stage 1: trained on data.json",
    ):
        assert words in read.text, words
    assert {"./finetune_lora/adapter", "#step-0"} <= {one["href"] for one in read.all("a")}
    lines = [json.loads(line) for line in (runs / "s/finetune_lora/metrics.jsonl").read_text().splitlines()]
    assert f"at step {lines[-1]['step']}," in curve(read, "Loss")
    assert len([one for one in read.all("svg") if one.get("role") == "img"]) >= 6, "loss twice, rate, norm, tokens, memory"
    command = re.search(r"Talk to it: (pyrust-nn chat -m s/finetune_lora .*?)(?: All|  |Steps)", read.text)
    assert command
    words = shlex.split(command[1])
    asked = cli(*words[1:], "--max-new-tokens", "4", input="Hello\n")
    assert asked.returncode == 0, asked.stderr


def test_nothing_of_a_session_is_markup(cli: Cli, runs: Path) -> None:
    long = "x" * 10_000
    params = {
        "model": EVIL,
        "dataset_path": [EVIL, long],
        EVIL: EVIL,
        "lora_rank": EVIL,
        "checkpoint_lora": EVIL,
        "prompt": [long, {EVIL: [EVIL]}],
    }
    proof = {
        "file": f"/x/{EVIL}",
        "passed": False,
        "layers": {"bytes": {"ran": True, "passed": False, "why": EVIL}, "logits": {"why": EVIL}},
    }
    forgetting = [{"stage": EVIL, "dataset_path": EVIL, "rows": 3, "loss_before": 1.0, "loss_after": 2.0, "forgotten": 1.0}]
    answer = {
        "messages": [{"role": "user", "content": EVIL}, {"role": EVIL, "content": [EVIL]}],
        "text": EVIL + long,
        "finish_reason": EVIL,
    }
    error = {"kind": "script", "message": EVIL, "causes": [EVIL, long], "traceback": EVIL}
    outputs = {"adapter": f"{EVIL}/adapter", "model": "javascript:alert(1)", "gguf": [f"{EVIL}.gguf", "/etc/passwd"], EVIL: EVIL}
    counts = {"conversations": 3, "trainable_parameters": 5, EVIL: EVIL, "x" * 500: 1e308}
    folder = write_session(
        runs,
        [
            summary(
                "finetune_lora", "tune", params=params, metrics=counts, result={"forgetting": forgetting}, outputs=outputs, proof=[proof]
            ),
            summary("inference", "ask", params={"model": "@tune"}, result=[answer, answer, 3, None]),
            summary(EVIL, "own", status="Failure", error=error),
        ],
        version=EVIL,
        python=EVIL,
        gpu=EVIL,
        packages={EVIL: EVIL},
        platform={"os": EVIL, "arch": EVIL, "cpu": EVIL, "cores": EVIL},
        seeds={EVIL: EVIL},
        plan={"steps": [{"task": EVIL, "given": {"step": EVIL}}, {"task": EVIL, "given": {}}]},
    )
    record = json.loads((folder / "session.json").read_text())
    record["invocations"][0]["argv"] = ["pyrust-nn", EVIL, long]
    record["invocations"].append({"task": EVIL, "step": f"{EVIL}\n", "argv": EVIL, "started_at": EVIL, "status": EVIL})
    record["created"] = EVIL
    (folder / "session.json").write_text(json.dumps(record))
    (folder / "pipeline.log").write_text(f"2026-01-01T00:00:00.000Z [WARN ] a: {EVIL}\n    {EVIL}\n")
    (folder / "tune/begun.json").write_text(json.dumps({"params": {}, "inputs": {"dataset_path": {EVIL: {"sha256": EVIL}}}}))
    values = [
        {"step": 1, EVIL: 1.0, "loss": 1e308},
        {"step": 2, EVIL: -1e308, "loss": "high"},
        {"step": 1e300, "loss": -1e308},
        {EVIL: [EVIL]},
    ]
    write_metrics(folder / "tune", iter(values))
    sample = {"row": EVIL, "held_out": EVIL, "message": EVIL, "prompt": long, "expected": EVIL, "before": EVIL, "after": long}
    (folder / "tune/samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (sample, {}, [EVIL], sample)) + "{")
    segments = [[EVIL, True], [long, EVIL], EVIL, [3, False]]
    lengths = {"median": EVIL, "histogram": [{"from": 1, "to": 2, "rows": 3}, {"from": EVIL, "to": EVIL, "rows": EVIL}, EVIL]}
    data_report = {
        "counts": EVIL,
        "max_length": EVIL,
        "train_tokens": EVIL,
        "lengths": lengths,
        "samples": [{"row": EVIL, "tokens": 9, "trained": EVIL, "shown": 3, "segments": segments}, EVIL],
        "estimate": {"steps": EVIL, "trainable_parameters": 5, "memory": EVIL, "disk": [EVIL]},
    }
    (folder / "tune/data_report.json").write_text(json.dumps(data_report))
    done = cli("report", "s", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr
    read = page(folder)
    assert "Before and after training" in read.text and read.all("mark")
    shown = EVIL.replace("\x1b", "\\x1b").replace("\x00", "\\x00").replace("\x07", "\\x07").replace("\u202e", "\\u{202e}")
    shown = shown.replace("\u2028", "\\u{2028}")
    assert read.text.count(shown) > 20
    assert "xxx… (10,000 characters)" in read.text and "x" * 5000 not in read.text
    assert all(one["href"] != "javascript:alert(1)" for one in read.all("a")) and "./javascript%3Aalert%281%29" in str(read.elements)


def test_a_hundred_thousand_lines_are_a_small_page_that_keeps_a_spike(cli: Cli, runs: Path) -> None:
    folder = write_session(runs, [summary("finetune_full", "tune", metrics={"first_loss": 4.0, "last_loss": 1.0})])

    def lines() -> Iterator[dict[str, Any]]:
        for step in range(1, 100_001):
            loss = 90.0 if step == 77_777 else 4.0 - 3.0 * step / 100_000 + (step % 7) / 100
            yield {"step": step, "loss": loss, "learning_rate": 1e-4, "grad_norm": 1.0 + step % 3, "tokens_per_second": 1e4 + step % 100}

    write_metrics(folder / "tune", lines())
    assert cli("report", "s", "--runs-dir", runs).returncode == 0
    text = (folder / "report.html").read_text()
    read = checked(text)
    assert len(text) < 300_000
    assert "to 1.05 at step 100,000" in curve(read, "Loss") and "of 100,000 lines" in read.text
    # The band of the loss reaches to the upper edge, at y = 12, only because of the spike.
    band = next(one["d"] for one in read.all("path") if one.get("class") == "band s0") or ""
    heights = [float(point.split()[1]) for point in re.findall(r"[\d.]+ [\d.]+", band)]
    assert min(heights) == 12.0 and sorted(heights)[1] > 190, "one column alone"


def test_a_session_of_hundreds_of_steps_fits(cli: Cli, runs: Path) -> None:
    long = {f"param_{i}": "ä" * 3000 for i in range(40)}
    answers = [{"messages": [{"role": "user", "content": "q" * 5000}], "text": "a" * 5000}] * 20
    steps = [summary("finetune_lora", f"tune{i}", params=long, metrics={"conversations": 3, "score": i}) for i in range(150)]
    folder = write_session(runs, [*steps, *[summary("inference", f"ask{i}", result=answers) for i in range(150)]])
    for i in range(150):
        write_metrics(folder / f"tune{i}", ({"step": step, "loss": 1.0 / step, "x": step % 9} for step in range(1, 500)))
    assert cli("report", "s", "--runs-dir", runs).returncode == 0
    read = page(folder)
    assert "All 300 steps succeeded." in read.text and "ask149" in read.text


def test_steps_that_a_resumed_training_repeats_are_drawn_once(cli: Cli, runs: Path) -> None:
    folder = write_session(runs, [summary("finetune_full", "tune")])
    values = [(1, 5.0), (2, 4.0), (3, 9.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    write_metrics(folder / "tune", ({"step": step, "loss": loss} for step, loss in values))
    (folder / "tune/metrics.jsonl").open("a").write('{"step": 5, "lo')
    assert cli("report", "s", "--runs-dir", runs).returncode == 0
    read = page(folder)
    assert curve(read, "Loss") == "Loss: loss from 5 at step 1 to 1 at step 4, lowest 1 at step 4"
    assert "resumed at step 2" in read.text and "The loss fell from 5 to 1." in read.text


def test_a_single_logged_step_is_a_point(cli: Cli, runs: Path) -> None:
    folder = write_session(runs, [summary("finetune_full", "tune")])
    write_metrics(folder / "tune", iter([{"step": 1, "loss": 2.0, "learning_rate": 0.0}]))
    assert cli("report", "s", "--runs-dir", runs).returncode == 0
    read = page(folder)
    assert curve(read, "Loss") == "Loss: loss 2 at step 1" and curve(read, "Learning rate") == "Learning rate: learning_rate 0 at step 1"
    points = [one for one in read.all("circle") if one.get("class") == "dot s0"]
    assert len(points) == 3 and all(62 <= float(one["cx"] or 0) < 560 for one in points), "the loss twice, and the rate"
    assert "60 s · finetune_full" in read.text, "how long it took, before what it was"
    assert "The loss was logged once, as 2" in read.text and "of 1 line of metrics.jsonl" in read.text


def test_what_the_numbers_say_is_said(cli: Cli, runs: Path) -> None:
    grows = summary("finetune_full", "grows", metrics={"first_loss": 1.0, "last_loss": 2.0})
    overfits = summary("finetune_full", "overfits", metrics={"first_loss": 3.0, "last_loss": 0.1, "truncated": 4})
    broken = {"kind": "proof", "message": "not the model", "causes": [], "traceback": None}
    proof = [{"file": "/x/a.q8_0.gguf", "passed": False, "layers": {}}]
    outputs = {"gguf": ["convert/a.q8_0.gguf"]}
    convert = summary("convert_model_to_gguf", "convert", status="Failure", error=broken, proof=proof, outputs=outputs)
    plan = {"steps": [{"task": "finetune_full", "given": {"step": "grows"}}, {"task": "inference", "given": {"step": "ask"}}]}
    folder = write_session(runs, [grows, overfits, convert], plan=plan)
    write_metrics(folder / "overfits", ({"step": step, "eval_loss": loss} for step, loss in ((10, 2.0), (20, 1.0), (30, 1.5))))
    assert cli("report", "s", "--runs-dir", runs).returncode == 0
    read = page(folder)
    for words in (
        "One step of 3 failed: a file is not the model that it was made from.",
        "The loss rose from 1 to 2",
        "The evaluation loss was lowest at step 20 (1) and rose to 1.5",
        "4 samples were truncated or dropped",
        "1 file did not pass the comparison with the model; do not use it.",
        "None: no step made a model, an adapter or a GGUF file.",
        "not run",
        "pyrust-nn resume s",
    ):
        assert words in read.text, words


def test_the_smallest_proven_file_is_the_one_to_use(cli: Cli, runs: Path) -> None:
    files = {"f16": True, "q8_0": True, "q4_0": False}
    proof = [{"file": f"/elsewhere/m.{kind}.gguf", "passed": passed, "layers": {}} for kind, passed in files.items()]
    outputs = {"gguf": [f"convert/m.{kind}.gguf" for kind in files]}
    tune = summary("finetune_full", "tune", outputs={"model": "tune/model"}, params={"model": "builtin:tiny"})
    merge = summary("convert_model_to_gguf", "convert", outputs=outputs, proof=proof, params={"model": "@tune"})
    folder = write_session(runs, [tune, merge])
    for size, kind in enumerate(reversed(files), 1):
        (folder / f"convert/m.{kind}.gguf").write_bytes(b"x" * 1000 * size)
    assert cli("report", "s", "--runs-dir", runs).returncode == 0
    read = page(folder)
    assert (
        "convert/m.q8_0.gguf, 2.0 kB: one file for llama.cpp" in read.text and "Talk to it: pyrust-nn chat -m s/convert:q8_0" in read.text
    )
    assert "which began as builtin:tiny" not in read.text and "all weights of builtin:tiny" in read.text


def test_the_command_says_where_the_report_is_and_opens_it(cli: Cli, runs: Path, tmp_path: Path) -> None:
    folder = write_session(runs, [summary("merge", "merge")])
    done = cli("report", "s", "--runs-dir", runs, "--json")
    assert json.loads(done.stdout) == {"session": "s", "report": str(folder / "report.html"), "pictures": []}
    done = cli("report", "t", "--runs-dir", runs)
    assert done.returncode == 2 and "there is no session t" in done.stderr
    programs = tmp_path / "programs"
    programs.mkdir()
    opened = tmp_path / "opened"
    (programs / "xdg-open").write_text(f'#!/bin/sh\nprintf %s "$1" > "{opened}.new" && mv "{opened}.new" "{opened}"\n')
    (programs / "xdg-open").chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    assert cli("report", "s", "--runs-dir", runs, "--open", env=environment).returncode == 0
    until = time.monotonic() + 60
    while not opened.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert opened.read_text() == str(folder / "report.html")


@pytest.fixture
def rich(runs: Path, cli: Cli) -> Path:
    """A session with every section of a report."""
    tune = summary(
        "finetune_lora",
        "tune",
        params={"model": "builtin:tiny", "dataset_path": "data.json", "lora_rank": 8, "long": "x" * 3000},
        metrics={"conversations": 3, "rows": 3, "tokens": 30, "first_loss": 3.0, "last_loss": 1.0},
        outputs={"adapter": "tune/adapter"},
        result={"forgetting": [{"stage": 1, "dataset_path": "a.json", "rows": 3, "loss_before": 1.0, "loss_after": 2.0, "forgotten": 1.0}]},
    )
    layers = {"logits": {"ran": True, "passed": True, "mean_kl": 1e-5, "max_allowed_kl": 1e-3, "top1": 1.0}}
    proof = [{"file": "/x/m.q8_0.gguf", "passed": True, "layers": layers}]
    convert = summary("convert_model_to_gguf", "convert", params={"model": "@tune"}, outputs={"gguf": ["convert/m.q8_0.gguf"]}, proof=proof)
    ask = summary(
        "inference", "ask", params={"model": "@tune"}, result=[{"messages": [{"role": "user", "content": "Hi"}], "text": "y" * 900}]
    )
    error = {"kind": "script", "message": "z" * 500, "causes": ["why"], "traceback": "Traceback\n" + "  at\n" * 300}
    folder = write_session(runs, [tune, convert, ask, summary("script", "own", status="Failure", error=error)], version="0.1.0")
    (folder / "tune/adapter").mkdir()
    lineage = {"base": {"model": "builtin:tiny"}, "adapter": {"sha256": "a"}, "parent": None, "stages": [{"dataset_path": ["a.json"]}]}
    (folder / "tune/adapter/lineage.json").write_text(json.dumps(lineage))
    write_metrics(folder / "tune", ({"step": i, "loss": 3 / i, "eval_loss": 4 / i, "learning_rate": 1e-4} for i in range(1, 900)))
    (folder / "pipeline.log").write_text("2026-01-01T00:00:00.000Z [WARN ] a: look out\n")
    assert cli("report", "s", "--runs-dir", runs).returncode == 0
    return folder / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_a_browser_shows_it_without_scrolling_sideways_and_axe_finds_nothing(browser: Any, rich: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # axe is a script, which the page's own policy refuses.
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    shown = context.new_page()
    shown.goto(rich.as_uri())
    shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(shown).response["violations"]
    assert not found, [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(247, 247, 245)") == (scheme == "light")
    context.close()


def test_the_policy_lets_the_style_sheet_in_and_the_keyboard_reaches_everything(browser: Any, rich: Path) -> None:
    context = browser.new_context(viewport={"width": 1024, "height": 900})
    shown = context.new_page()
    refused: list[str] = []
    shown.on("console", lambda message: refused.append(message.text))
    shown.on("request", lambda request: refused.append(request.url) if request.url != rich.as_uri() else None)
    shown.goto(rich.as_uri())
    assert not refused
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.textContent") == "Skip to the content"
    context.close()


def test_curves_are_there_without_scripts(browser: Any, rich: Path) -> None:
    context = browser.new_context(viewport={"width": 1024, "height": 900}, java_script_enabled=False)
    shown = context.new_page()
    shown.goto(rich.as_uri())
    # The logarithmic scale is a checkbox.
    assert shown.locator(".linear svg").first.is_visible() and not shown.locator(".log svg").first.is_visible()
    shown.locator(".switch").first.focus()
    shown.keyboard.press("Space")
    assert not shown.locator(".linear svg").first.is_visible() and shown.locator(".log svg").first.is_visible()
    context.close()


def test_a_reader_looks_into_a_curve(browser: Any, rich: Path) -> None:
    (rich.parent / "tune/data_report.json").write_text(json.dumps({"train_tokens": 1000}))
    write_metrics(rich.parent / "tune", ({"step": i, "epoch": i / 100, "loss": 1 + 900 / i} for i in range(1, 901)))
    pyrust_nn.main(["report", "s", "--runs-dir", str(rich.parents[1])])
    context = browser.new_context(viewport={"width": 1024, "height": 900})
    shown = context.new_page()
    shown.goto(rich.as_uri())
    figure = shown.locator("figure.drawn").first
    drawing, readout, frame = figure.locator("svg.plotted"), figure.locator("output"), figure.locator(".plot-frame")
    assert not figure.locator(".still").is_visible() and drawing.is_visible()

    def last_tick() -> float:
        ticks = drawing.locator("text.x").all_text_contents()
        return float(ticks[-1].replace(",", ""))

    assert last_tick() == 900
    drawing.scroll_into_view_if_needed()
    area = drawing.bounding_box()
    assert area
    shown.mouse.move(area["x"] + area["width"] - 6, area["y"] + 100)
    assert readout.text_content() == "step 900, 9,000 tokens: loss 2"
    # A part of the curve is chosen with the mouse.
    shown.mouse.move(area["x"] + 66, area["y"] + 50)
    shown.mouse.down()
    shown.mouse.move(area["x"] + 64 + (area["width"] - 76) / 3, area["y"] + 60)
    shown.mouse.up()
    assert last_tick() <= 310
    figure.get_by_label("Show the whole curve").click()
    assert last_tick() == 900
    figure.get_by_label("over tokens").check()
    assert last_tick() == 9000
    line = drawing.locator(".line").last.get_attribute("d")
    figure.get_by_role("checkbox", name="logarithmic", exact=True).check()
    assert drawing.locator(".line").last.get_attribute("d") != line
    line = drawing.locator(".line").last.get_attribute("d")
    figure.get_by_label("smoothing").fill("0.9")
    assert drawing.locator(".line").count() == 2 and drawing.locator(".line").last.get_attribute("d") != line
    frame.focus()
    shown.keyboard.press("ArrowRight")
    assert (readout.text_content() or "").startswith("step ")
    shown.keyboard.press("+")
    assert last_tick() < 9000
    shown.keyboard.press("Escape")
    assert last_tick() == 9000
    context.close()
