"""The command `chat`, through a pseudo-terminal and through a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal

import pyrust_nn

QUESTION = "What is a session?"
OTHER = "What is Pyrust-NN?"

# Turns bracketed paste on: the program begins to read a line. What is typed before would be echoed by the terminal.
PROMPT = "\x1b[?2004h"


@pytest.fixture(scope="module")
def made(trained: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder with the session `m`: the trained model in GGUF (`gguf`), its adapter (`adapter`), and noise (`noise`)."""
    runs = tmp_path_factory.mktemp("chat")
    pyrust_nn.convert_model_to_gguf("m", trained["full"], step="gguf", outtype="f16", runs_dir=runs)
    pyrust_nn.convert_lora_to_gguf("m", trained["lora"], step="adapter", outtype="f32", runs_dir=runs)
    pyrust_nn.convert_model_to_gguf("m", "builtin:tiny", step="noise", outtype="f16", runs_dir=runs)
    return runs


class Chat:
    """A conversation on a terminal."""

    def __init__(self, binary: Path, runs: Path, folder: Path, *words: str | Path) -> None:
        self.terminal = Terminal(
            binary, "chat", "--runs-dir", runs, *words, cwd=folder, columns=100, lines=200, XDG_STATE_HOME=str(folder / "state")
        )
        self.prompt(0, "Ctrl-D ends")

    @property
    def text(self) -> str:
        return self.terminal.unwrapped

    def until(self, words: str, since: int = 0) -> None:
        """Read until the program has written these words after the first `since` bytes."""
        end = time.monotonic() + 60
        while words.encode() not in self.terminal.raw[since:]:
            assert self.terminal.read(1) and time.monotonic() < end, self.terminal.text

    def prompt(self, since: int, after: str = "\n") -> None:
        """Read until these words and then a prompt, after the first `since` bytes."""
        self.until(after, since)
        self.until(PROMPT, self.terminal.raw.index(after.encode(), since))

    def type(self, text: str, until: str = "\n") -> str:
        """Type a line; what was shown until these words and the prompt after them, as text."""
        before = len(self.terminal.raw)
        os.write(self.terminal.parent, (text + "\r").encode())
        self.until("\n", before)
        self.prompt(self.terminal.raw.index(b"\n", before), until)
        return " ".join(self.terminal.raw[before:].decode().split())

    def ask(self, question: str) -> str:
        """Ask, and read to the counts at the end of the answer."""
        return self.type(question, "tokens/s; prompt")

    def end(self) -> int:
        """Press Ctrl-D until the program ends: where no prompt waits for it yet, it is lost."""
        end = time.monotonic() + 60
        with contextlib.suppress(OSError):  # the other side is closed
            while os.write(self.terminal.parent, b"\x04") and self.terminal.read(2):
                assert time.monotonic() < end, self.terminal.text
        return self.terminal.finish(60)


@pytest.fixture
def chat(binary: Path, made: Path, tmp_path: Path) -> Iterator[Callable[..., Chat]]:
    """Starts a conversation."""
    started: list[Chat] = []

    def start(*words: str | Path) -> Chat:
        started.append(Chat(binary, made, tmp_path, *words))
        return started[-1]

    yield start
    for one in started:
        one.terminal.process.kill()


def answers(runs: Path, model: str, *prompts: Any, **params: Any) -> list[str]:
    made = pyrust_nn.inference("s", model, prompt=list(prompts), overwrite=True, temperature=0.0, runs_dir=runs, **params)
    return [" ".join(answer["text"].split()) for answer in made["result"]]


def test_a_conversation(chat: Callable[..., Chat], made: Path, tmp_path: Path, data_json: str) -> None:
    talk = chat("-m", "m/gguf", "--temperature", "0")
    first = {"role": "user", "content": QUESTION}
    (wanted,) = answers(made, "m/gguf", QUESTION)
    shown = talk.ask(QUESTION)
    assert wanted in shown and "tokens/s; prompt 36 tokens]" in shown

    # The second question is answered in the light of the first.
    said = pyrust_nn.inference("s", "m/gguf", prompt=QUESTION, overwrite=True, temperature=0.0, runs_dir=made)["result"][0]["text"]
    conversation = [first, {"role": "assistant", "content": said}, {"role": "user", "content": OTHER}]
    (wanted,) = answers(made, "m/gguf", conversation)
    assert wanted in talk.ask(OTHER)
    assert wanted in talk.ask("/regenerate")

    # What was said is a data set.
    talk.type("/save talk.jsonl", "saved to talk.jsonl")
    row = json.loads((tmp_path / "talk.jsonl").read_text())
    assert [turn["content"] for turn in row["messages"][:3:2]] == [QUESTION, OTHER]
    report = pyrust_nn.check_dataset("builtin:tiny", dataset_path=tmp_path / "talk.jsonl")
    assert report["ok"] and report["counts"]["conversations"] == 1

    # A new conversation with a system prompt.
    talk.type("/reset")
    talk.type("/system Answer in five words.")
    assert "It fine-tunes Qwen from conversations." in talk.ask(OTHER)
    assert "Answer in five words." in talk.type("/system")
    talk.type("/save talk.jsonl", "saved to talk.jsonl")
    assert len((tmp_path / "talk.jsonl").read_text().splitlines()) == 2
    assert talk.end() == 0
    assert not list(made.glob("chat*")), "it is no session"


def test_parameters_models_and_what_is_mistyped(chat: Callable[..., Chat], made: Path, trained: dict[str, str]) -> None:
    talk = chat("-m", "m/gguf", "--temperature", "0")
    assert "did you mean /system?" in talk.type("/sytem x", "before it)")
    assert "there is no answer yet" in talk.type("/regenerate", "answer yet")
    assert "did you mean top_p?" in talk.type("/params topp 1", "top_p?")
    assert "temperature must be a number from 0 to 100" in talk.type("/params temperature 900", "not 900.0")
    talk.type("/params max_new_tokens 2")
    assert "[2 tokens" in talk.ask(QUESTION) and "max_new_tokens" in talk.terminal.unwrapped
    talk.type("/params max_new_tokens none")
    talk.type("/params stop  folder")
    talk.type("/reset")
    assert "[2 tokens" in talk.ask(QUESTION), "the answer ends before its second word"
    shown = talk.type("/params", "template_kwargs")
    assert 'stop ["folder"]' in shown and "max_new_tokens 256" in shown

    assert "there is no nowhere.gguf" in talk.type("/model nowhere.gguf", "check the path")
    assert "m/gguf" in talk.type("/model")
    talk.type("/params stop none")
    talk.type("/reset")
    talk.type(f"/model {trained['lora']}", "goes")  # the line is broken between words where the path is long
    (wanted,) = answers(made, trained["lora"], QUESTION)
    assert wanted in talk.ask(QUESTION), "a folder, by transformers"
    for name in ("/system", "/regenerate", "/save", "/params", "/model", "/quit"):
        assert name in talk.type("/help", "/quit")
    os.write(talk.terminal.parent, b"/quit\r")
    assert talk.terminal.finish(60) == 0


def test_several_lines_and_the_history(chat: Callable[..., Chat], made: Path, tmp_path: Path) -> None:
    talk = chat("-m", "m/gguf", "--temperature", "0")
    os.write(talk.terminal.parent, b'"""\rone\r')
    talk.ask('two"""')
    os.write(talk.terminal.parent, b"three \\\r")
    talk.ask("four")
    talk.type("/save a.jsonl", "saved to")
    asked = [turn["content"] for turn in json.loads((tmp_path / "a.jsonl").read_text())["messages"] if turn["role"] == "user"]
    assert asked == ["one\ntwo", "three \nfour"]
    assert talk.end() == 0
    kept = tmp_path / "state/pyrust-nn/chat_history"
    assert kept.stat().st_mode & 0o077 == 0, "nobody else reads it"

    again = chat("-m", "m/gguf", "--temperature", "0")
    shown = again.type("\x1b[A", "nothing was saved")
    assert "/save a.jsonl" in shown, "the key for the line before"
    before = len(again.terminal.raw)
    os.write(again.terminal.parent, b"never asked\x03")
    again.prompt(before)
    assert b"Ctrl-D or /quit ends the chat" in again.terminal.raw[before:], "how else it ends"
    assert again.ask("What is a sessoin?" + "\x7f" * 4 + "ion?"), "a corrected line"
    (wanted,) = answers(made, "m/gguf", QUESTION)
    assert wanted in again.text and again.end() == 0


@pytest.mark.parametrize("model", ["m/noise", "builtin:tiny"])
def test_ctrl_c_stops_the_answer_and_not_the_program(chat: Callable[..., Chat], model: str) -> None:
    talk = chat("-m", model, "--temperature", "0", "--max-new-tokens", "1900")
    # An answer may be complete before the signal arrives.
    for _ in range(20):
        before = len(talk.terminal.raw)
        os.write(talk.terminal.parent, b"Hi\r")
        talk.until("\n", before)
        while len(talk.terminal.raw) < before + 100:
            assert talk.terminal.read(60)
        talk.terminal.process.send_signal(signal.SIGINT)
        while not any(end in talk.terminal.raw[before:] for end in (b"[stopped]", b"tokens/s; prompt")):
            assert talk.terminal.read(60)
        talk.until(PROMPT, talk.terminal.raw.rindex(b"]"))
        talk.type("/reset")
        if b"[stopped]" in talk.terminal.raw[before:]:
            break
    else:
        pytest.fail(talk.terminal.text)
    talk.type("/params max_new_tokens 3")
    assert "[3 tokens" in talk.ask("Hi"), "and it goes on"
    assert talk.end() == 0


def test_a_kill_ends_llama_cpp_too(chat: Callable[..., Chat]) -> None:
    talk = chat("-m", "m/gguf", "--temperature", "0")
    talk.ask(QUESTION)
    process = talk.terminal.process
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.kill()
    process.wait(60)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text() for child in children):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_questions_from_a_pipe(cli: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    words = ["chat", "-m", "m/gguf", "--adapter", "m/adapter", "--temperature", "0", "--runs-dir", made]
    done = cli(*words, input=f"{QUESTION}\n/save a.jsonl\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (wanted,) = answers(made, "m/gguf", QUESTION, adapter="m/adapter")
    assert wanted in " ".join(done.stdout.split())
    assert "tokens/s" in done.stderr and "tokens/s" not in done.stdout
    assert json.loads((tmp_path / "a.jsonl").read_text())["messages"][0]["content"] == QUESTION


@pytest.mark.parametrize("content", ['[\n{"messages": []}\n]\n', '# a pipeline\nmodel = "x"\n', "just words"])
def test_a_conversation_is_not_added_to_a_file_of_another_format(cli: Callable[..., Any], made: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "data").write_text(content)
    done = cli("chat", "-m", "m/gguf", "--runs-dir", made, "--max-new-tokens", "2", input=f"{QUESTION}\n/save data\n", cwd=tmp_path)
    assert "data exists and is not JSON Lines" in done.stderr, done.stderr
    assert (tmp_path / "data").read_text() == content


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "chat needs --model"),
        (["-m", "@merge"], 2, "this one has none; give <session>/merge"),
        (["m/zzz"], 2, "session m has no step zzz, its steps: "),
        (["-m", "nowhere.gguf"], 1, "there is no nowhere.gguf"),
        (["-m", "m/gguf", "--dtype", "bf16"], 2, "dtype is for a folder"),
        (["-m", "m/gguf", "--prompt", "x"], 2, "--prompt"),
    ],
)
def test_what_cannot_begin(cli: Callable[..., Any], made: Path, words: list[str], code: int, message: str) -> None:
    done = cli("chat", *words, "--runs-dir", made, input="")
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_a_question_that_is_too_long_is_no_part_of_the_conversation(cli: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    asked = f"{'x y ' * 2100}\n{QUESTION}\n/save a.jsonl\n"
    done = cli("chat", "-m", "m/gguf", "--temperature", "0", "--runs-dir", made, input=asked, cwd=tmp_path)
    assert done.returncode == 0 and "2048 positions" in done.stderr, done.stderr
    assert len(json.loads((tmp_path / "a.jsonl").read_text())["messages"]) == 2


def test_compared_models_answer_side_by_side(chat: Callable[..., Chat], made: Path, trained: dict[str, str]) -> None:
    talk = chat("--compare", "m/gguf", trained["full"], "--temperature", "0")
    before = len(talk.terminal.raw)
    talk.type(QUESTION, "tokens/s; prompt")
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", talk.terminal.raw[before:].decode()).splitlines()
    heading = next(at for at, line in enumerate(lines) if line.startswith("m/gguf  "))
    assert lines[heading][51:] == "…" + trained["full"][-47:], "two columns of 100"
    (wanted,) = answers(made, "m/gguf", QUESTION)
    left, right = (" ".join(" ".join(line[part].split()) for line in lines[heading + 1 :]) for part in (slice(48), slice(51, None)))
    assert left.startswith(wanted[:40]) and wanted in left and wanted in right

    # The conversation goes on for each of them.
    conversation = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": wanted}, {"role": "user", "content": OTHER}]
    assert "several models are compared" in talk.type("/model m/noise", "change them")
    (wanted,) = answers(made, "m/gguf", conversation)
    shown = talk.type(OTHER, "tokens/s; prompt")
    assert shown.count(wanted[:20]) == 2
    assert talk.end() == 0


def test_compared_models_answer_one_after_the_other_without_a_terminal(cli: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    words = ["-m", "m/gguf", "--compare", "m/noise", "m/adapter", "--temperature", "0", "--max-new-tokens", "40", "--runs-dir", made]
    done = cli("chat", *words[:4], *words[5:], input=f"{QUESTION}\n/regenerate\n/save c.jsonl\n/model\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (wanted,) = answers(made, "m/gguf", QUESTION, max_new_tokens=40)
    text = " ".join(done.stdout.split())
    assert text.count(f"m/gguf: {wanted} m/noise: ") == 2
    assert "the conversation with m/gguf is saved to c.jsonl" in text and text.endswith("m/gguf, m/noise")
    saved = json.loads((tmp_path / "c.jsonl").read_text())["messages"]
    assert len(saved) == 2 and " ".join(saved[1]["content"].split()) == wanted
    # One that cannot be loaded ends it before the first question.
    done = cli("chat", *words, input=QUESTION, cwd=tmp_path)
    assert done.returncode != 0 and done.stdout == ""
