"""The board, as its reader has it: who may see it, what it lists, that pages grow while a session runs, that it stops and resumes."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_report import EVIL, Page, summary, write_metrics, write_session

import pyrust_nn


class Response:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers = answer.status, answer.headers
        self.text = answer.read().decode()


def ask(url: str, method: str = "GET") -> Response:
    """The answer to a request, without following where it leads."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""))
    response = Response(connection.getresponse())
    connection.close()
    return response


class Events:
    """The stream of a page's changes."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self.connection.request("GET", f"{parts.path}?{parts.query}")
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200 and self.answer.headers["content-type"] == "text/event-stream"

    def next(self) -> dict[str, Any]:
        while not (line := self.answer.readline().decode()).startswith("data:"):
            assert line, "the stream has ended"
        return json.loads(line.removeprefix("data:"))

    def close(self) -> None:
        self.connection.close()


def address(page: str) -> str:
    """Where a page listens for changes, and from which version on."""
    read = Page(page)
    (body,) = read.all("body")
    return f"{body['data-events']}&shown={body['data-shown']}"


@contextmanager
def board(binary: Path, runs: Path, *words: str) -> Iterator[str]:
    """A board of the command line; its address."""
    process = subprocess.Popen([binary, "board", "--runs-dir", runs, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def root(url: str) -> str:
    return url.removesuffix("/")


def origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@pytest.fixture
def several(runs: Path) -> Path:
    """Sessions of every state, and one whose texts are hostile."""
    good = summary("finetune_lora", "tune", params={"model": "Qwen/Qwen3-0.6B"}, metrics={"first_loss": 3.0, "last_loss": 0.25})
    folder = write_session(runs, [good], "good")
    write_metrics(folder / "tune", ({"step": i, "loss": 3 / i} for i in range(1, 13)))
    (folder / "pipeline.log").write_text(
        "2026-01-01T00:00:00.000Z [DEBUG] a: a detail\n2026-01-01T00:00:01.000Z [INFO ] a: a fact\n"
        "2026-01-01T00:00:02.000Z [WARN ] a: a warning\n    of two lines\n2026-01-01T00:00:03.000Z [ERROR] a: an error\n"
    )
    error = {"kind": "script", "message": "it broke", "causes": [], "traceback": None}
    write_session(runs, [summary("merge", "merge", status="Failure", error=error)], "bad", state="failure")
    hostile = summary("finetune_lora", "tune", params={"model": EVIL, "note": EVIL}, result=[{"messages": [], "text": EVIL}])
    hostile["error"] = {"kind": "script", "message": EVIL, "causes": [EVIL], "traceback": EVIL}
    hostile["status"] = "Failure"
    folder = write_session(runs, [hostile], "hostile", state="failure")
    record = json.loads((folder / "session.json").read_text())
    record["invocations"][0]["task"] = EVIL
    (folder / "session.json").write_text(json.dumps(record))
    (folder / "pipeline.log").write_text(f"2026-01-01T00:00:00.000Z [WARN ] a: {EVIL}\n")
    (runs / "<script>alert(1)<").mkdir()
    return runs


def test_only_the_address_with_the_token_shows_anything(binary: Path, several: Path) -> None:
    with board(binary, several) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[0-9a-f]{48}/", url)
        token = urlsplit(url).path.strip("/")
        assert "session/good" in ask(url).text
        wrong = [
            f"{origin(url)}{path}" for path in ("/", "/wrong/", f"/{token[:-1]}/", "/x/session/good", "/x/board.js", f"/?token={token}")
        ]
        for refused in wrong:
            answer = ask(refused)
            assert answer.status == 401 and "session/good" not in answer.text and token not in answer.text, refused
        assert ask(f"{origin(url)}/x/session/good/stop", "POST").status == 401
        for path, status in {"/": 200, "": 308, "/session/good": 200, "/board.js": 200, "/session/none": 404, "/none": 404}.items():
            answer = ask(root(url) + path)
            assert answer.status == status, path
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] == "no-store"
        assert "did you mean good?" in ask(f"{root(url)}/session/god").text


def test_the_list_is_searched_filtered_sorted_and_has_pages(binary: Path, several: Path) -> None:
    def names(query: str) -> list[str]:
        return [str(one["value"]) for one in Page(ask(url + query).text).all("input") if one.get("name") == "s"]

    with board(binary, several) as url:
        assert sorted(names("")) == ["bad", "good", "hostile"]
        assert (
            names("?q=QWEN3") == ["good"]
            and names("?q=nothing") == []
            and names("?state=failure&sort=session&order=asc") == ["bad", "hostile"]
        )
        assert names("?sort=loss&order=asc")[0] == "good", "what has no loss comes last"
        text = Page(ask(url).text).text
        assert "3 sessions: 1 success, 2 failure." in text and "on disk" in text and "free" in text and "it broke" in text
        for number in range(150):
            write_session(several, [summary("merge", "merge")], f"more-{number:03}")
        first, second = names("?sort=session&order=asc"), names("?sort=session&order=asc&page=2")
        assert len(first) == 100 and len(second) == 53 and sorted(first + second) == first + second
        assert "Page 1 of 2" in Page(ask(url).text).text


def test_no_text_of_a_session_is_markup(binary: Path, several: Path) -> None:
    with board(binary, several) as url:
        write_session(several, [summary("finetune_lora", "tune", params={"model": EVIL, EVIL: 1})], "other")
        list_page, compared = ask(url), ask(f"{url}compare?s=good&s=other")
        for answer in (
            list_page,
            ask(f"{url}session/hostile?level=debug"),
            compared,
            ask(f"{url}session/{EVIL.split()[0]}".replace("<", "%3C")),
        ):
            read = Page(answer.text)
            tags = {tag for tag, _ in read.elements}
            assert not tags & {"img", "iframe", "object", "link", "base"}
            scripts = [one.get("src") for one in read.all("script")]
            assert all(str(source).startswith("/") and str(source).rpartition("/")[2] in ("board.js", "curves.js") for source in scripts), (
                scripts
            )
            assert not [
                attributes for _, attributes in read.elements if any(name.startswith("on") or name == "style" for name in attributes)
            ]
            assert not [character for character in answer.text if ord(character) < 32 and character not in "\n\t"]
        assert compared.status == 200 and "alert(1)" in Page(compared.text).text
        events = Events(origin(url) + re.sub("shown=.*", "shown=old", address(ask(f"{url}session/hostile").text)))
        whole = events.next()
        events.close()
        assert whole["whole"] and "<script" not in json.dumps(whole["parts"])


def test_the_log_is_filtered_by_level(binary: Path, several: Path) -> None:
    with board(binary, several) as url:
        for level, shown in (("debug", 4), ("info", 3), ("warning", 2), ("error", 1), ("unknown", 3)):
            text = Page(ask(f"{url}session/good?level={level}").text).text
            found = [
                words
                for words in ("a detail", "a fact", "a warning", "an error")
                if words in text.partition("Lowest level")[2].partition("Warnings")[0]
            ]
            assert len(found) == shown, (level, found)


def test_what_is_ticked_is_compared(binary: Path, several: Path) -> None:
    with board(binary, several) as url:
        page = Page(ask(f"{url}compare?s=good&s=bad").text)
        assert "Comparison of Pyrust-NN sessions" in page.text and "All sessions" in page.text
        for query, status in (("", 400), ("s=good", 400), ("s=good&s=good", 400), ("s=good&s=none", 404), ("s=..&s=good", 409)):
            assert ask(f"{url}compare?{query}").status == status, query


GROWING = """
import time
from pathlib import Path
PARAMS = {'folder': ''}
def run(params, session):
    folder = Path(params.folder)
    for step in range(1, 1000):
        session.metric({'step': step, 'loss': 8.0 / step})
        while not (folder / f'go-{step}').exists():
            time.sleep(0.01)
        if (folder / 'end').exists():
            return {'metrics': {'score': step}}
"""


@contextmanager
def growing(binary: Path, runs: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A session whose step logs a number when the file `go-N` appears, and ends with the file `end`."""
    script = tmp_path / "growing.py"
    script.write_text(GROWING)
    process = subprocess.Popen(
        [binary, "script", script, "--session", "grows", "--runs-dir", runs, "--param", f"folder={tmp_path}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: (runs / "grows/script/metrics.jsonl").exists() or process.poll() is not None)
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until(is_so: Callable[[], bool], timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_page_grows_with_its_session_and_gets_only_what_has_changed(binary: Path, several: Path, tmp_path: Path) -> None:
    with growing(binary, several, tmp_path) as process, board(binary, several) as url:
        listed, page = ask(url), ask(f"{url}session/grows")
        assert "running" in Page(listed.text).text and "A step is running" in Page(page.text).text
        of_list, of_session = Events(origin(url) + address(listed.text)), Events(origin(url) + address(page.text))
        (tmp_path / "go-1").touch()
        grown = of_session.next()
        while "at step 2" not in json.dumps(grown["parts"]):
            grown = of_session.next()
        if not grown["whole"]:
            assert "part-step-0" in [part for part, _ in grown["parts"]]
        (tmp_path / "go-2").touch()
        grown = of_session.next()
        while "at step 3" not in json.dumps(grown["parts"]):
            grown = of_session.next()
        ids = [part for part, _ in grown["parts"]]
        assert not grown["whole"] and "part-step-0" in ids and not {"part-overview", "part-rest"} & set(ids), "nothing else has changed"
        (tmp_path / "end").touch()
        (tmp_path / "go-3").touch()
        assert process.wait(60) == 0
        changed = of_list.next()
        while "success" not in dict(changed["parts"]).get("row-grows", ""):
            changed = of_list.next()
        while "The only step succeeded." not in json.dumps(grown["parts"]):
            grown = of_session.next()
        of_list.close()
        of_session.close()


def test_a_page_of_a_hundred_thousand_steps_is_small_and_grows(binary: Path, runs: Path) -> None:
    folder = write_session(runs, [summary("finetune_full", "tune")], "long")
    write_metrics(folder / "tune", ({"step": i, "loss": 4 / i, "learning_rate": 1e-4, "grad_norm": i % 7} for i in range(1, 100_001)))
    with board(binary, runs) as url:
        page = ask(f"{url}session/long")
        assert page.status == 200 and "at step 100,000" in page.text and len(page.text) < 300_000
        events = Events(origin(url) + address(page.text))
        with (folder / "tune/metrics.jsonl").open("a") as file:
            file.write('{"step": 100001, "loss": 9.5}\n{"step": 100002, "lo')
        change = events.next()
        while "to 9.5 at step 100,001" not in json.dumps(change["parts"]):
            change = events.next()
        assert len(json.dumps(change)) < 400_000, "however many steps there are"
        events.close()


def test_only_a_board_with_permission_stops_and_resumes(binary: Path, several: Path, tmp_path: Path) -> None:
    with growing(binary, several, tmp_path) as process:
        with board(binary, several) as url:
            assert "Stop" not in Page(ask(f"{url}session/grows").text).text
            for what in ("stop", "resume"):
                answer = ask(f"{url}session/grows/{what}", "POST")
                assert answer.status == 403 and "--allow-control" in answer.text
                assert ask(f"{url}session/grows/{what}").status == 405
            assert process.poll() is None
        with board(binary, several, "--allow-control") as url:
            assert "Stop this session" in Page(ask(f"{url}session/grows").text).text
            assert ask(f"{url}session/grows/resume", "POST").status == 409, "it is in use"
            assert ask(f"{url}session/good/stop", "POST").status == 409, "nothing runs"
            assert ask(f"{url}session/none/stop", "POST").status == 404
            answer = ask(f"{url}session/grows/stop", "POST")
            assert answer.status == 303 and "was asked to stop" in Page(ask(origin(url) + answer.headers["location"]).text).text
            assert process.wait(60) == 130
            page = Page(ask(f"{url}session/grows").text)
            assert "interrupted" in page.text and "Resume this session" in page.text
            for step in (1, 2):
                (tmp_path / f"go-{step}").touch()
            (tmp_path / "end").touch()
            assert ask(f"{url}session/grows/resume", "POST").status == 303
            wait_until(lambda: json.loads((several / "grows/session.json").read_text())["state"] == "success")
            assert "The only step succeeded." in Page(ask(f"{url}session/grows").text).text


def test_a_board_of_python_ends_with_its_block(several: Path) -> None:
    with pyrust_nn.board(runs_dir=several) as started:
        assert ask(started.url).status == 200
    with pytest.raises(OSError):
        ask(started.url)
    with pytest.raises(pyrust_nn.UsageError, match="port must be"):
        pyrust_nn.board(port=70000)
    with pytest.raises(TypeError, match="nothing by position"):
        pyrust_nn.board(8080)  # type: ignore[call-arg]


def test_a_board_of_python_resumes_sessions(several: Path, tmp_path: Path) -> None:
    script = tmp_path / "once.py"
    script.write_text("from pathlib import Path\nPARAMS = {'flag': ''}\ndef run(params, session):\n    assert Path(params.flag).exists()\n")
    with pytest.raises(pyrust_nn.ScriptError):
        pyrust_nn.run_script("again", script, params={"flag": str(tmp_path / "flag")}, runs_dir=several)
    (tmp_path / "flag").touch()
    with pyrust_nn.board(runs_dir=several, allow_control=True) as started:
        assert ask(f"{started.url}session/again/resume", "POST").status == 303
        wait_until(lambda: json.loads((several / "again/session.json").read_text())["state"] == "success")


def test_a_port_that_is_taken_is_said(binary: Path, several: Path, cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    with board(binary, several) as url:
        refused = cli("board", "--port", str(urlsplit(url).port), "--runs-dir", several)
        assert refused.returncode == 2 and "is taken by another program" in refused.stderr


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_a_browser_shows_every_page_and_axe_finds_nothing(browser: Any, binary: Path, several: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with board(binary, several, "--allow-control") as url:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
        for path in ("", "session/good", "session/hostile", "compare?s=good&s=hostile", "session/none"):
            shown = context.new_page()
            shown.goto(url + path)
            shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert shown.evaluate("document.documentElement.scrollWidth") <= width, path
            found = axe.Axe().run(shown).response["violations"]
            assert not found, (path, [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found])
            shown.close()
        context.close()


@pytest.mark.parametrize("width", [1440, 1100, 1024, 820, 390])
def test_every_column_of_the_list_is_in_the_window(browser: Any, binary: Path, several: Path, tmp_path: Path, width: int) -> None:
    slow = {"step": 1200, "steps": 50_000, "loss": 2.0345, "tokens_per_second": 12345.0, "eta_seconds": 86_000.0}
    with growing(binary, several, tmp_path):
        (several / "grows/script/metrics.jsonl").write_text(json.dumps(slow) + "\n")
        name = "a-customer-support-assistant-with-a-name-that-is-long-2026-01"
        error = {"kind": "script", "message": "a message without an end " * 20, "causes": [], "traceback": None}
        steps = [summary("finetune_lora", f"a_step_with_a_long_name_{i}", params={"model": "Organisation/A-Model-30B"}) for i in range(3)]
        write_session(several, [*steps, summary("merge", "merge", status="Failure", error=error)], name, state="failure")
        with board(binary, several) as url:
            page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
            page.goto(url)
            page.locator("#row-grows .chip.running").wait_for()
            # The list's place can be scrolled, so the page itself says nothing.
            beside = "all => all.filter(one => one.getBoundingClientRect().right > innerWidth).map(one => one.textContent)"
            assert page.locator(".sessions tr, .sessions th, .sessions td, .sessions td *").evaluate_all(beside) == []
            assert page.locator("#row-good td", has_text="kB").is_visible(), "the size"
            assert page.get_by_role("link", name="size").is_visible() and page.get_by_role("link", name="loss").is_visible()
            page.context.close()


def test_one_word_for_the_state_of_a_session(binary: Path, runs: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """A step failed, and a later one succeeded: every place says what `resume` acts on."""
    script = tmp_path / "own.py"
    script.write_text("PARAMS = {'fail': False}\ndef run(params, session):\n    assert not params.fail, 'it broke'\n")
    pyrust_nn.run_script("s", script, step="first", runs_dir=runs)
    with pytest.raises(pyrust_nn.ScriptError):
        pyrust_nn.run_script("s", script, step="second", params={"fail": True}, runs_dir=runs)
    pyrust_nn.run_script("s", script, step="third", runs_dir=runs)

    def words() -> set[str]:
        listed = json.loads(cli("sessions", "--json", "--runs-dir", runs).stdout)[0]["state"]
        status = json.loads(cli("status", "s", "--json", "--runs-dir", runs).stdout)["state"]
        report = Page((runs / "s/report.html").read_text())
        shown = next(one["class"] for one in report.all("p") if (one.get("class") or "").startswith("verdict")) or ""
        with board(binary, runs) as url:
            row = ask(url).text.partition('id="row-s"')[2]
        of_board = re.search(r'class="chip \w+">(\w+)<', row)
        assert of_board
        record = json.loads((runs / "s/session.json").read_text())["state"]
        return {listed, status, pyrust_nn.list_sessions(runs_dir=runs)[0]["state"], shown.removeprefix("verdict "), of_board[1], record}

    assert words() == {"failure"}
    report = Page((runs / "s/report.html").read_text()).text
    assert "failure One step of 3 failed." in report and "To go on: pyrust-nn resume s" in report
    with board(binary, runs) as url:
        assert "second: AssertionError: it broke" in Page(ask(url).text).text, "the list says which step"
    pyrust_nn.run_script("s", script, step="second", runs_dir=runs)
    assert words() == {"success"}
    assert "success All 3 steps succeeded." in Page((runs / "s/report.html").read_text()).text


def test_a_browser_follows_a_session_and_keeps_what_was_ticked(browser: Any, binary: Path, several: Path, tmp_path: Path) -> None:
    with growing(binary, several, tmp_path), board(binary, several) as url:
        context = browser.new_context(viewport={"width": 1024, "height": 900})
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(url)
        page.get_by_text("live", exact=True).wait_for()
        page.locator("#tick-good").check()
        page.locator("#tick-bad").check()
        (tmp_path / "end").touch()
        (tmp_path / "go-1").touch()
        page.locator("#row-grows .chip.success").wait_for()
        assert page.locator("#tick-good").is_checked() and page.locator("#ticked").text_content() == "2 ticked"
        page.get_by_label("Search").fill("hostile")
        page.get_by_role("button", name="Show", exact=True).click()
        page.locator("#row-hostile").wait_for()
        assert page.locator("#row-good").count() == 0
        page.get_by_role("button", name="Compare the ticked sessions").click()
        page.wait_for_url("**/compare?**")
        assert "good" in (page.locator("h1").text_content() or "") and "bad" in (page.locator("h1").text_content() or "")
        assert not said, "the policy refuses nothing that the pages need"
        context.close()


def test_an_opened_part_stays_open_while_the_page_grows(browser: Any, binary: Path, several: Path, tmp_path: Path) -> None:
    with growing(binary, several, tmp_path), board(binary, several) as url:
        page = browser.new_context(viewport={"width": 1024, "height": 900}).new_page()
        page.goto(f"{url}session/grows")
        page.get_by_text("live", exact=True).wait_for()
        page.locator("#part-step-0 summary", has_text="in numbers").click()
        (tmp_path / "go-1").touch()
        page.locator("#part-step-0 svg.plotted[aria-label*='at step 2']").first.wait_for()
        assert page.locator("#part-step-0 details", has_text="in numbers").first.get_attribute("open") is not None
        page.context.close()


def test_python_is_not_needed_for_a_board(binary: Path, several: Path, tmp_path: Path) -> None:
    # Neither an environment nor its packages: it only reads files.
    with board(binary, several, "--python-env", str(tmp_path / "none"), "--no-setup") as url:
        assert ask(f"{url}session/good").status == 200
