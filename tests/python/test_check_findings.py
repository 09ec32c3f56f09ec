"""`check` as the place of truth: what each kind of turn contributes, leaks, odd words, ids that the model lacks, and the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from data_engine import SHARED, assistant, prepare, system, user, with_template, write
from transformers import AutoTokenizer

import pyrust_nn
from pyrust_nn.models.tiny import tiny_model_folder

Cli = Callable[..., subprocess.CompletedProcess[str]]
QWEN3 = SHARED / "chat-templates" / "Qwen-Qwen3-0.6B.jinja"
QWEN25 = SHARED / "chat-templates" / "Qwen-Qwen2.5-7B-Instruct.jinja"
TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n?", re.DOTALL)
THOUGHT = re.compile(r"<think>.*?</think>\n*", re.DOTALL)
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="session")
def tiny() -> Path:
    return tiny_model_folder()


def check(model: str | Path, data: str | Path, **params: Any) -> Any:
    return pyrust_nn.check_dataset(model, dataset_path=data, show=0, **params)


def pair(question: str, answer: str) -> list[dict[str, Any]]:
    return [user(question), assistant(answer)]


def parts(text: str) -> Iterator[tuple[int, int, str]]:
    """Begin, end and kind of each part of a ChatML text, read from the text alone."""
    for turn in TURN.finditer(text):
        role, content = turn[1], turn[2]
        if role == "user" and content.startswith("<tool_response>"):
            role = "tool"
        thought = THOUGHT.match(content) if role == "assistant" else None
        if thought:
            border = turn.start(2) + thought.end()
            yield turn.start(), turn.start(2), "answer"
            yield turn.start(2), border, "thought"
            yield border, turn.end(), "answer"
        else:
            yield turn.start(), turn.end(), "answer" if role == "assistant" else role


def counted(tokenizer: Any, texts: list[str]) -> dict[str, int]:
    """Tokens by kind of turn, by the offsets that the tokenizers library gives."""
    counts: Counter[str] = Counter()
    for text in texts:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        spans = list(parts(text))
        for begin, _ in offsets:
            counts[next(kind for first, last, kind in spans if first <= begin < last)] += 1
    return dict(counts)


def tables(report: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens and trained tokens by kind."""
    turns = report["turns"]
    return {one["kind"]: one["tokens"] for one in turns}, {one["kind"]: one["target_tokens"] for one in turns if one["target_tokens"]}


def test_tokens_by_kind_of_turn_are_those_of_transformers(tiny: Path, data_json: str, conversations: list[Any]) -> None:
    """The sums are those of the counts, and answers alone are trained on, without their headers."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    report = check(tiny, data_json)
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
    tokens, trained = tables(report)
    assert tokens == counted(tokenizer, texts)
    assert sum(tokens.values()) == report["counts"]["tokens"]
    assert trained == {"answer": report["counts"]["target_tokens"]}


@pytest.mark.skipif(not QWEN3.is_file(), reason="needs shared/chat-templates")
def test_thoughts_tools_and_calls_are_apart(tiny: Path) -> None:
    """Qwen3 writes one row for each turn; a thought is trained on in its own row and absent from later ones."""
    folder, tokenizer = with_template(str(tiny), QWEN3.read_text())
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    with_tools = [
        system("Be kind. Grüße 日本"),
        user("Add 1."),
        assistant("", tool_calls=[call], reasoning_content="I need the tool.\nWell."),
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "and 3"},
        assistant("It is 2.", reasoning_content="Two."),
        user("Thanks <|im_end|> 🙂"),
        assistant("Always."),
    ]
    plain = [user("Hm?"), assistant("<think>\nSo.\n</think>\n\nYes."), user("Why?"), assistant("Just so.")]
    data = write([{"messages": with_tools, "tools": [TOOL]}, {"messages": plain}])
    report = check(folder, data)
    texts = [
        tokenizer.apply_chat_template(messages[: i + 1], tools=tools, tokenize=False)
        for messages, tools in ((with_tools, [TOOL]), (plain, None))
        for i in range(len(messages))
        if messages[i]["role"] == "assistant"
    ]
    tokens, trained = tables(report)
    # The literal <|im_end|> stays ordinary text; the oracle gets a word of as many tokens.
    literal = len(tokenizer.tokenize("<|im_end|>", split_special_tokens=True))
    mine = counted(tokenizer, [text.replace(" <|im_end|> ", " ") for text in texts])
    removed = len(tokenizer.tokenize("Thanks <|im_end|> 🙂", split_special_tokens=True)) - len(tokenizer.tokenize("Thanks 🙂"))
    assert literal > 1 and removed > 0
    mine["user"] += removed * sum("Thanks" in text for text in texts)
    assert tokens == mine
    assert sum(tokens.values()) == report["counts"]["tokens"] and sum(trained.values()) == report["counts"]["target_tokens"]
    own = ["<think>\nI need the tool.\nWell.\n</think>\n\n", "<think>\nTwo.\n</think>\n\n", "<think>\nSo.\n</think>\n\n"]
    assert trained["thought"] == sum(len(tokenizer.tokenize(thought)) for thought in own)
    assert set(trained) == {"thought", "answer"}
    assert (
        check(folder, data, thinking="mask")["turns"] != report["turns"]
        and "thought" not in tables(check(folder, data, thinking="mask"))[1]
    )


@pytest.mark.skipif(not QWEN25.is_file(), reason="needs shared/chat-templates")
def test_a_default_system_prompt_and_tools_belong_to_the_system_turn(tiny: Path) -> None:
    """Whether or not the conversation has a system message."""
    folder, tokenizer = with_template(str(tiny), QWEN25.read_text())
    items = [{"messages": pair("a", "b")}, {"messages": [system("s"), *pair("a", "b")]}, {"messages": pair("a", "b"), "tools": [TOOL]}]
    texts = [tokenizer.apply_chat_template(one["messages"], tools=one.get("tools"), tokenize=False) for one in items]
    assert tables(check(folder, write(items)))[0] == counted(tokenizer, texts)


def test_the_table_is_printed_and_follows_truncation(cli: Cli, tiny: Path, data_json: str) -> None:
    """Each kind in a line with its shares."""
    report = check(tiny, data_json, max_length=60, overlong="truncate_left")
    assert sum(tables(report)[0].values()) == report["counts"]["tokens"]
    assert sum(tables(report)[1].values()) == report["counts"]["target_tokens"]
    shown = cli("check", data_json, "--model", tiny, "--show", "0").stdout
    tokens, trained = tables(check(tiny, data_json))
    for kind, count in tokens.items():
        line = next(line for line in shown.splitlines() if line.split()[:1] == [kind])
        assert f"{count:,}" in line and f"{trained.get(kind, 0):,}" in line
    text = check(tiny, write([{"text": "Only words."}]))
    assert [one["kind"] for one in text["turns"]] == ["text"]


def test_conversations_of_both_data_sets_are_leaks(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """Each with its places; what differs in a word is none."""
    training = write([pair("a", "b"), pair("c", "d"), pair("e", "f"), pair("c", "d")], tmp_path / "train.json")
    evaluation = write([pair("x", "y"), pair("c", "d"), pair("a", "b!"), pair("e", "f"), pair("e", "f")], tmp_path / "eval.json")
    report = check(tiny, training, eval_dataset_path=evaluation)
    found = report["evaluation"]
    assert report["ok"] and found["files"] == [evaluation] and found["counts"]["conversations"] == 5
    assert found["leaked"] == 3
    assert found["first_leaked"] == [{"evaluation": 1, "training": 1}, {"evaluation": 3, "training": 2}, {"evaluation": 4, "training": 2}]
    words = [warning for warning in report["warnings"] if "also trained on" in warning]
    assert len(words) == 1 and "3 of 5 conversations" in words[0] and "[1] is [1] of the training data" in words[0]
    assert any("1 conversations are identical" in warning or "1 conversation is identical" in warning for warning in report["warnings"])
    assert report["counts"] == check(tiny, training)["counts"]
    clean = check(tiny, training, eval_dataset_path=write([pair("x", "y")]))
    assert clean["evaluation"]["leaked"] == 0 and not any("also trained on" in warning for warning in clean["warnings"])
    assert check(tiny, training)["evaluation"] is None
    shown = cli("check", training, "--model", tiny, "--eval-dataset-path", evaluation).stdout
    assert "3 also trained on" in shown and "[3] is [2]" in shown


def test_faults_of_the_evaluation_data_are_reported(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """With the name of their file; so is a second answer to the question what to evaluate on."""
    training = write([pair("a", "b")])
    broken = tmp_path / "broken.json"
    broken.write_text('[{"messages": [{"role": "user", "content": "x"}]}]')
    report = check(tiny, training, eval_dataset_path=broken)
    assert not report["ok"] and [Path(one["file"]).name for one in report["problems"]] == ["broken.json"]
    assert cli("check", training, "--model", tiny, "--eval-dataset-path", broken).returncode == 2
    both = check(tiny, write([pair("a", "b"), pair("c", "d")]), eval_dataset_path=training, eval_split=0.5)
    assert any("eval_dataset_path and eval_split" in error for error in both["errors"])
    with pytest.raises(pyrust_nn.InputError):
        check(tiny, training, eval_dataset_path="nowhere.json")


def test_characters_that_are_not_printed_are_counted_with_their_first_place(tiny: Path) -> None:
    """What a script or an emoji needs, and ends of lines, are no finding."""
    fine = pair("می\u200cخواهم 👩\u200d💻 क्\u200dष\r\n\tx", "Grüße 你好 é")
    assert not any("not printed" in warning for warning in check(tiny, write([fine]))["warnings"])
    items = [fine, pair("a\u200bb\u200b", "c\ufeff"), pair("\x07x\u200b", "y\ufffd"), pair("z", "\ufffd\ufffdw")]
    call = {"type": "function", "function": {"name": "f", "arguments": {"key\u2060": "\u202e"}}}
    items.append([user("q"), assistant("", tool_calls=[call])])
    report = check(tiny, write(items))
    warning = next(warning for warning in report["warnings"] if "not printed" in warning)
    text = "".join(message["content"] for item in items[1:] for message in item) + "\u2060\u202e"
    wanted = Counter(symbol for symbol in text if unicodedata.category(symbol) in ("Cc", "Cf") or symbol == "\ufffd")
    found = {int(code, 16): times for code, times in re.findall(r"U\+([0-9A-F]{4,6}) \([^)]*\) (\w+)", warning)}
    assert found == {ord(symbol): "once" if count == 1 else str(count) for symbol, count in wanted.items()}
    for words in (
        "zero-width space) 3 times, first in [1].messages[0]",
        "first in [2].messages[1]",
        "byte order mark) once, first in [1].messages[1]",
    ):
        assert words in warning
    assert "first in [4].messages[1]" in warning


def test_answers_without_words_and_those_that_repeat_the_prompt_are_named(tiny: Path) -> None:
    """So are samples that train nothing; a repeated word inside an answer is none."""
    items = [
        pair("a", "b"),
        pair("What is it?", " What is it?\n"),
        pair("q", "<think>\nOnly a thought.\n</think>\n\n"),
        [user("q"), assistant("r", train=False)],
        pair("q", "q and more"),
        [user("q"), assistant("q", train=False), user("r"), assistant("s")],
    ]
    report = check(tiny, write(items))
    warnings = "\n".join(report["warnings"])
    assert "1 answer repeats the words of the user before it, so the model learns to repeat: [1].messages[1];" in warnings
    assert "1 answer has no words besides reasoning, so the model learns to say nothing: [2].messages[1];" in warnings
    assert "1 sample has no token to train on and no effect: [3]" in warnings
    assert "[4]" not in warnings and "[5]" not in warnings
    dropped = check(tiny, write(items), thinking="drop")
    assert any("no words besides reasoning" in warning and "[2]" in warning for warning in dropped["warnings"])


@pytest.fixture
def larger_tokenizer(tiny: Path, tmp_path: Path) -> Path:
    """builtin:tiny with two tokens more than its embedding has rows."""
    folder = tmp_path / "larger"
    shutil.copytree(tiny, folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["<fits-not>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    assert tokenizer.convert_tokens_to_ids("<fits-not>") == 1280
    tokenizer.save_pretrained(folder)
    return folder


def test_an_id_beyond_the_embedding_is_an_error_that_names_it(cli: Cli, tiny: Path, larger_tokenizer: Path) -> None:
    """In `check`, `prepare` and training alike; data without such a token is accepted, whatever was prepared before."""
    good, bad = [pair("a", "b")], [pair("a", "b"), pair("c", "d <fits-not> e"), pair("<fits-not>", "f")]
    assert check(larger_tokenizer, write(good))["ok"]
    report = check(larger_tokenizer, write(bad))
    assert not report["ok"] and len(report["errors"]) == 1
    for words in ('"<fits-not>"', "1280", "1280 rows", "[1].messages[1]", "and in 1 conversation more"):
        assert words in report["errors"][0], report["errors"]
    done = cli("check", write(bad), "--model", larger_tokenizer)
    assert done.returncode == 2 and "<fits-not>" in done.stdout
    for call in (
        lambda: pyrust_nn.prepare_dataset(larger_tokenizer, dataset_path=write(bad)),
        lambda: pyrust_nn.finetune_lora("s", larger_tokenizer, dataset_path=write(bad), num_epochs=1, device="cpu"),
    ):
        with pytest.raises(pyrust_nn.InputError, match=r"<fits-not>.*1280"):
            call()
    # The text of a special token in a message is ordinary text.
    assert check(larger_tokenizer, write([pair("a", "<|extra|>")]))["ok"]
    assert check(tiny, write(bad))["ok"]


def test_rows_that_a_larger_model_accepts_are_refused_for_a_smaller_one(larger_tokenizer: Path) -> None:
    """Though they are in the cache, and the tokenizer is the same."""
    data = write([pair("a", "b <fits-not>")])
    config = json.loads((larger_tokenizer / "config.json").read_text())
    headless = larger_tokenizer.with_name("headless")
    shutil.copytree(larger_tokenizer, headless)
    (headless / "model.safetensors").unlink()
    (headless / "config.json").write_text(json.dumps(config | {"vocab_size": 1282}))
    assert pyrust_nn.prepare_dataset(headless, dataset_path=data)["rows"] == 1
    with pytest.raises(pyrust_nn.InputError, match="1280"):
        pyrust_nn.prepare_dataset(larger_tokenizer, dataset_path=data)


def long_thoughts(pairs: int) -> list[dict[str, Any]]:
    """Answers with reasoning in the content, in its own field, empty, and without."""
    messages = []
    for i in range(pairs):
        answers = [
            assistant(f"<think>\nThought {i},\n\nin lines.\n</think>\n\nAnswer {i}."),
            assistant(f"Answer {i}.", reasoning_content=f"Thought {i}."),
            assistant(f"<think>\n\n</think>\n\nAnswer {i}."),
            assistant(f"<think>Thought {i}</think>Answer {i}."),
            assistant(f"Answer {i}.", train=i % 3 > 0),
        ]
        messages += [user(f"Question {i}?"), answers[i % 5]]
    return messages


def long_conversation(pairs: int) -> list[dict[str, Any]]:
    return [
        message
        for i in range(pairs)
        for message in pair(f"Question {i}: é?", f"Answer {i}, 日本 <|im_end|>" if i % 50 == 7 else f"Answer {i}.")
    ]


@pytest.mark.skipif(not QWEN3.is_file(), reason="needs shared/chat-templates")
@pytest.mark.parametrize("beginning", [[], [system("Be brief.")]])
def test_rows_of_a_long_conversation_are_those_of_transformers(tiny: Path, beginning: list[Any]) -> None:
    """For a template that rewrites earlier turns, and in each way to shorten them."""
    folder, tokenizer = with_template(str(tiny), QWEN3.read_text())
    messages = beginning + long_conversation(60)
    safe = [message | {"content": message["content"].replace(" <|im_end|>", "")} for message in messages]
    answers = [i for i in range(len(messages)) if messages[i]["role"] == "assistant"]
    made = prepare(folder, {"messages": safe}, max_length=100_000).samples
    assert len(made) == len(answers)
    for i, row in zip(answers, made, strict=True):
        wanted = tokenizer.apply_chat_template(safe[: i + 1], tokenize=True, return_dict=False)
        prompt = tokenizer.apply_chat_template(safe[:i], tokenize=False, add_generation_prompt=True) + "<think>\n\n</think>\n\n"
        ids = row.input_ids.tolist()
        assert ids == wanted[: len(ids)] and wanted[len(ids) :] in ([], tokenizer.encode("\n"))
        first = len(tokenizer.encode(prompt))
        assert row.labels.tolist() == [-100] * first + ids[first : ids.index(tokenizer.convert_tokens_to_ids("<|im_end|>"), first) + 1] + [
            -100
        ] * (len(ids) - 1 - ids.index(tokenizer.convert_tokens_to_ids("<|im_end|>"), first))
    whole = [row.input_ids.tolist() for row in made]
    left = prepare(folder, {"messages": safe}, max_length=200, overlong="truncate_left").samples
    assert [row.input_ids.tolist() for row in left] == [ids[-200:] for ids in whole]
    assert [(row.labels != -100).sum() for row in left] == [(row.labels != -100).sum() for row in made]
    dropped = prepare(folder, {"messages": safe}, max_length=200, overlong="drop")
    assert [row.input_ids.tolist() for row in dropped.samples] == [ids for ids in whole if len(ids) <= 200]
    assert dropped.report["longest"] == max(map(len, whole))
    # The table counts every row's turns, and text of special tokens stays text.
    report = check(folder, write([{"messages": safe}]), max_length=100_000)
    texts = [tokenizer.apply_chat_template(safe[: i + 1], tokenize=False) for i in answers]
    ending = sum(len(tokenizer(text)["input_ids"]) for text in texts) - sum(map(len, whole))
    tokens = counted(tokenizer, texts)
    tokens["answer"] -= ending
    assert tables(report)[0] == tokens
    literal = check(folder, write([{"messages": messages}]), max_length=100_000)
    assert literal["counts"]["literal_special_tokens"] == 1
    assert literal["counts"]["tokens"] > report["counts"]["tokens"] and literal["counts"]["rows"] == len(answers)


@pytest.mark.skipif(not QWEN3.is_file(), reason="needs shared/chat-templates")
@pytest.mark.parametrize("thinking", ["keep", "mask", "drop"])
def test_rows_of_a_long_conversation_with_reasoning_are_those_of_transformers(tiny: Path, thinking: str) -> None:
    """Each shows the reasoning of its own answer alone, and trains on it unless told otherwise."""
    folder, tokenizer = with_template(str(tiny), QWEN3.read_text())
    messages = long_thoughts(43)
    shown = messages
    if thinking == "drop":
        shown = [
            {"role": one["role"], "content": re.sub(r"^<think>.*?</think>\n*", "", one["content"], flags=re.DOTALL)} for one in messages
        ]
    made = prepare(folder, {"messages": messages}, thinking=thinking).samples
    answers = [i for i, one in enumerate(messages) if one["role"] == "assistant" and one.get("train", True)]
    assert len(made) == len(answers) < 43
    header = "<|im_start|>assistant\n"
    for i, row in zip(answers, made, strict=True):
        text = tokenizer.apply_chat_template(shown[: i + 1], tokenize=False)
        assert tokenizer.decode(row.input_ids) == text
        start = text.rindex(header) + len(header)
        thought = THOUGHT.match(text, start)
        empty = thought is not None and not thought[0].removeprefix("<think>").removesuffix("</think>\n\n").strip()
        if thought and (thinking == "mask" or (empty and not shown[i]["content"].startswith("<think>"))):
            start = thought.end()
        trained = [int(label) for label in row.labels if label != -100]
        assert tokenizer.decode(trained) == text[start:].removesuffix("\n"), (i, messages[i])


@pytest.mark.skipif(not QWEN3.is_file(), reason="needs shared/chat-templates")
@pytest.mark.parametrize("make", ["plain", "thoughts"])
def test_memory_of_a_long_conversation_does_not_grow_with_its_square(binary: Path, tiny: Path, make: str) -> None:
    """4,000 pairs, whose rows together have 170 million tokens."""
    folder, _ = with_template(str(tiny), QWEN3.read_text())
    data = write([{"messages": long_conversation(4000) if make == "plain" else long_thoughts(4000)}])
    words = [str(binary), "check", data, "--model", folder, "--overlong", "truncate_left", "--show", "0", "--json", "--no-setup"]
    # By a small process: a child of this one would begin with its memory.
    measure = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL).returncode\n"
    measure += "print(); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", measure, *words], capture_output=True, text=True, check=True)
    report, kilobytes = done.stdout.rsplit("\n\n", 1)
    counts = json.loads(report)["counts"]
    assert counts["rows"] > 3000 and counts["longest"] > 50_000
    assert int(kilobytes) < 400_000


@pytest.mark.parametrize("where", ["item", "message", "arguments", "tools"])
def test_an_object_with_many_keys_is_read_and_its_keys_are_counted(tiny: Path, where: str) -> None:
    """20,000 of them, in each place."""
    many: dict[str, Any] = {f"key {i}": i for i in range(20_000)}
    item: dict[str, Any] = {"messages": pair("a", "b")}
    if where == "item":
        item |= many
    elif where == "message":
        item["messages"][0] |= many
    elif where == "arguments":
        item["messages"][1] |= {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": many}}]}
    else:
        item["tools"] = [{"type": "function", "function": {"name": "f", "parameters": many}}]
    report = check(tiny, write([item]))
    assert report["ok"] and report["counts"]["rows"] == 1
    if where in ("item", "message"):
        assert any("these keys are not used" in warning and "more keys" in warning for warning in report["warnings"])


class Page(HTMLParser):
    """The texts of a page's samples: whole, and what is marked as trained."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, str]] = []
        self.whole = self.trained = ""
        self.blocks: list[list[str]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "meta":
            return
        self.stack.append((tag, dict(attrs).get("class") or ""))
        if tag == "div":
            self.blocks.append([])
        if tag == "p" and any(name == "div" for name, _ in self.stack):
            self.blocks[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        names = [name for name, _ in self.stack]
        if "pre" in names:
            self.whole += data
            if ("span", "t") in self.stack:
                self.trained += data
        elif "div" in names and "p" in names:
            self.blocks[-1][-1] += data


def test_the_page_shows_the_samples_and_explains_every_warning(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """It is one file that loads nothing, and no text of the data becomes markup."""
    evil = '</pre><script>alert("1")</script><img src=x onerror=alert(1)> & "q"'
    items = [
        pair(evil, "Plain <b>words</b>.\n\tTwo lines 日本 🙂"),
        pair("a", "b"),
        pair("a", "b"),
        pair("same", "same"),
        pair("\u200bz\x1b[2J", "<|im_end|>"),
        [user("q"), assistant("<think>\nt\n</think>")],
        [user("q"), assistant("r", train=False)],
        {"messages": pair("k", "v"), "unknown": 1},
        {"messages": [system(""), user("x"), assistant("y")]},
        {"messages": [user("x"), assistant("y", reasoning_content="hidden"), user("z"), assistant("w")]},
    ]
    data, page = Path(write(items)), tmp_path / "report.html"
    done = cli("check", data, "--model", tiny, "--eval-dataset-path", data, "--html", page, "--show", "10", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    text = page.read_text(encoding="utf-8")
    read = Page(text)
    assert not read.tags & {"script", "img", "link", "iframe"} and not {"src", "href"} & {name for name, _ in read.attributes}
    assert "url(" not in text and "@import" not in text and "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    pieces = [piece for one in report["previews"] for piece in one["pieces"]]

    def shown(chosen: list[Any]) -> str:
        return "".join(piece["text"] for piece in chosen).replace("\u200b", "U+200B").replace("\x1b", "U+001B")

    assert read.whole == shown(pieces) and read.trained == shown([piece for piece in pieces if piece["target"]])
    assert evil in read.whole and "\x1b" not in text and "\u200b" not in text
    warnings = report["warnings"]
    explained = {block[0]: block[1] for block in read.blocks if len(block) == 2}
    assert len(warnings) >= 8
    for warning in warnings:
        meaning = explained[warning.replace("\u200b", "U+200B")]
        assert len(meaning) > 40 and not meaning.startswith("Training accepts this, but"), warning
    for one in report["turns"]:
        assert re.search(rf'<th scope="row">{one["kind"]}</th><td class="n">{one["tokens"]:,}</td>', text)


def test_the_page_of_wrong_data_lists_the_problems(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """And nothing of the user's is overwritten by it."""
    data, page = tmp_path / "data.json", tmp_path / "report.html"
    data.write_text('[{"messages": [{"role": "human", "content": "<x>"}]}]')
    before = data.read_bytes()
    assert cli("check", data, "--model", tiny, "--html", page).returncode == 2
    text = page.read_text()
    assert "Not ready: 1 error" in text and "line 1, column" in text and "Estimate" not in text
    for target, words in ((data, "is the data set itself"), (tmp_path, "is a folder"), (tmp_path / "no" / "x.html", "there is no folder")):
        done = cli("check", data, "--model", tiny, "--html", target)
        assert done.returncode == 2 and words in done.stderr
    assert data.read_bytes() == before
    assert pyrust_nn.check_dataset(tiny, dataset_path=write([pair("a", "b")]), html=page)["ok"]
    assert "Ready: training accepts this data." in page.read_text()
