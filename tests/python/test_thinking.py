"""The three ways to train a model that thinks: what is trained is what transformers and `inference` render, and `check` shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from data_engine import SHARED, Prepared, prepare, target_texts
from test_prepare import trl_template
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn.chat.folder_model import FolderModel
from pyrust_nn.chat.prompts import read_prompts
from pyrust_nn.models.model_folder import model_folder

QUESTION = {"role": "user", "content": "What is 2 + 3?"}
OFF = {"enable_thinking": False}


def conversation(answer: str, thought: str | None = None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer} | ({} if thought is None else {"reasoning_content": thought})
    return {"messages": [QUESTION, message], **more}


WITH = [
    conversation("5.", "Two and three."),
    {"messages": [QUESTION, {"role": "assistant", "content": "<think>\nAdd.\n</think>\n\nIt is 5."}]},
]
WITHOUT = [conversation("5."), conversation("It is 5.")]
MIXED = [WITH[0], conversation("5.", chat_template_kwargs=OFF)]
THOUGHT = "<think>\nTwo and three.\n</think>\n\n5.<|im_end|>"
# Data, parameter, and for each row the template's variables and what is trained.
WAYS: dict[str, tuple[list[Any], dict[str, Any] | None, list[tuple[dict[str, Any], str]]]] = {
    "with thoughts": (WITH, None, [({}, THOUGHT), ({}, "<think>\nAdd.\n</think>\n\nIt is 5.<|im_end|>")]),
    "without": (WITHOUT, OFF, [(OFF, "5.<|im_end|>"), (OFF, "It is 5.<|im_end|>")]),
    "mixed": (MIXED, None, [({}, THOUGHT), (OFF, "5.<|im_end|>")]),
}
TEMPLATES = ["qwen3", "qwen3_5_think", "qwen3_5_nothink"]


def way_for(name: str, way: str) -> tuple[list[Any], dict[str, Any] | None, list[tuple[dict[str, Any], str]]]:
    """A way with a template. One that does not think by default must be asked to, in training as at inference."""
    rows, parameter, expected = WAYS[way]
    if name != "qwen3_5_nothink":
        return rows, parameter, expected
    on = {"enable_thinking": True}
    thinks = ["reasoning_content" in row["messages"][1] or "<think>" in row["messages"][1]["content"] for row in rows]
    if all(thinks):
        return rows, on, [(on, text) for _, text in expected]
    own = [row | {"chat_template_kwargs": on} if thought else row for row, thought in zip(rows, thinks, strict=True)]
    return own, parameter, [(on if thought else given, text) for (given, text), thought in zip(expected, thinks, strict=True)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Any]]:
    """A small model with each template, and the real vocabulary if it is there: its folder, and its tokenizer as transformers loads it."""
    base = SHARED / "qwen2-tokenizer"
    base = base if base.is_dir() else model_folder("builtin:tiny")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", vocab_size=152_000, **sizes))
    templates = {name: trl_template(name) for name in [*TEMPLATES, "qwen2_5"]}
    published = SHARED / "chat-templates/Qwen-Qwen3-0.6B.jinja"
    if published.is_file():
        templates["published qwen3"] = published.read_text(encoding="utf-8")
    made = {}
    for name, template in templates.items():
        folder = tmp_path_factory.mktemp("model")
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        made[name] = str(folder), AutoTokenizer.from_pretrained(folder)
    return made


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prompt_ids(tokenizer: Any, variables: dict[str, Any]) -> list[int]:
    """transformers' prompt for the question."""
    found: list[int] = tokenizer.apply_chat_template([QUESTION], add_generation_prompt=True, return_dict=False, **variables)
    return found


def trained(made: Prepared, tokenizer: Any) -> list[tuple[list[int], str]]:
    """The ids before what is trained, and its text, of each row."""
    rows = []
    for sample in made.samples:
        first = int((sample.labels != -100).argmax())
        (text,) = target_texts(tokenizer, sample)
        rest = sample.labels[first:].tolist()
        assert -100 not in rest[:-1], "everything after the prompt is trained, but for the newline after the turn"
        rows.append((sample.input_ids[:first].tolist(), text))
    return rows


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*TEMPLATES, "published qwen3"])
def test_what_is_trained_is_what_inference_renders(name: str, way: str, folders: dict[str, tuple[str, Any]], tmp_path: Path) -> None:
    if name not in folders:
        pytest.skip("the published template is not beside this checkout")
    folder, tokenizer = folders[name]
    rows, parameter, expected = way_for(name, way)
    path = write(tmp_path / "data.jsonl", rows)
    given = {"template_kwargs": parameter} if parameter else {}
    found = trained(prepare(folder, path=path, **given), tokenizer)

    prompts = FolderModel(folder, device="cpu")
    conversations, _ = read_prompts(None, path)
    asked = prompts.encode(conversations, parameter)
    report = pyrust_nn.check_dataset(folder, dataset_path=path, show=len(rows), **given)
    assert report["ok"]
    for row, (ids, text) in enumerate(found):
        variables, target = expected[row]
        prompt = prompt_ids(tokenizer, variables)
        # The prompt may open the thought itself, which is then no part of what is learned.
        opened = "<think>\n" if tokenizer.decode(prompt).endswith("<think>\n") else ""
        assert asked[row] == prompt == ids
        assert opened + text == target
        # The whole is transformers' rendering of the conversation under the same variables.
        shown = [QUESTION, rows[row]["messages"][1]]
        whole = tokenizer.apply_chat_template(shown, tokenize=False, **variables)
        assert whole.startswith(tokenizer.decode(ids) + text)
        pieces = report["previews"][row]["pieces"]
        before = next(place for place, piece in enumerate(pieces) if piece["target"])
        assert "".join(piece["text"] for piece in pieces[:before]) == tokenizer.decode(ids)
        assert "".join(piece["text"] for piece in pieces if piece["target"]) == text


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think"])
def test_memorized_answers_come_back_with_and_without_thoughts(name: str, tmp_path: Path, runs: Path) -> None:
    """Training, and inference with the same file as prompts. Rows name their own variables, or a parameter does."""
    base = Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path / "base"))
    (base / "chat_template.jinja").write_text(trl_template(name), encoding="utf-8")
    colours = {"the sky": "Blue.", "grass": "Green.", "snow": "White.", "coal": "Black."}
    question = "What colour is {}?"

    def row(thing: str, answer: str, thought: str | None, **more: Any) -> dict[str, Any]:
        asked = {"role": "user", "content": question.format(thing)}
        return conversation(answer, thought, **more) | {"messages": [asked, conversation(answer, thought)["messages"][1]]}

    ways = {
        "with": ([row(thing, answer, f"I think of {thing}.") for thing, answer in colours.items()], {}),
        "without": ([row(thing, answer, None) for thing, answer in colours.items()], {"template_kwargs": OFF}),
        "mixed": (
            [row(thing, answer, f"I think of {thing}.") for thing, answer in colours.items()]
            + [row(thing, "No " + answer, None, chat_template_kwargs=OFF) for thing, answer in colours.items()],
            {},
        ),
    }
    for way, (rows, parameter) in ways.items():
        path = write(tmp_path / f"{way}.jsonl", rows)
        given: dict[str, Any] = {"runs_dir": runs, "device": "cpu", **parameter}
        pyrust_nn.finetune_full(way, base, dataset_path=path, num_epochs=120, learning_rate=2e-3, batch_size=4, **given)
        summary = pyrust_nn.inference(way, f"{way}/finetune_full", prompts_file=path, max_new_tokens=40, **given)
        texts = [answer["text"] for answer in summary["result"]]
        for one, text in zip(rows, texts, strict=True):
            message = one["messages"][1]
            assert text.rpartition("</think>")[2].strip() == message["content"]
            assert ("I think of" in text) == ("reasoning_content" in message)


def case(name: str) -> str:
    """A file of the cases."""
    folder = SHARED / "cases/data"
    if not folder.is_dir():
        pytest.skip(f"the folder {folder} is not there")
    return str(folder / name)


@pytest.mark.parametrize(("file", "trained_with"), [("09_mem.jsonl", {"template_kwargs": OFF}), ("09_mem_nothink.jsonl", {})])
def test_case_9_four_of_four_memorized_answers(file: str, trained_with: dict[str, Any], tmp_path: Path, runs: Path) -> None:
    base = Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path / "base"))
    (base / "chat_template.jinja").write_text(trl_template("qwen3"), encoding="utf-8")
    given: dict[str, Any] = {"runs_dir": runs, "device": "cpu", **trained_with}
    pyrust_nn.finetune_full("s", base, dataset_path=case(file), num_epochs=120, learning_rate=2e-3, batch_size=4, **given)
    summary = pyrust_nn.inference("s", "s/finetune_full", prompts_file=case(file), max_new_tokens=20, **given)
    assert (summary["metrics"]["expected_answers"], summary["metrics"]["matching_answers"]) == (4, 4)
    made = pyrust_nn.convert_model_to_gguf("s", "s/finetune_full", outtype="f32", runs_dir=runs)
    file_made = runs / "s" / made["outputs"]["gguf"][0]
    answered = pyrust_nn.inference("s", file_made, step="llama", prompts_file=case(file), max_new_tokens=20, **given)
    assert answered["metrics"]["matching_answers"] == 4, "llama.cpp renders the same prompts"


def test_case_10_tools_are_in_the_prompt_of_inference(folders: dict[str, tuple[str, Any]], runs: Path) -> None:
    if not (SHARED / "qwen2-tokenizer").is_dir():
        pytest.skip("the real vocabulary is not beside this checkout")
    folder, tokenizer = folders["qwen3"]
    file = case("10_inference_tools.jsonl")
    (row,) = (json.loads(line) for line in Path(file).read_text().splitlines() if line)
    wanted = tokenizer.apply_chat_template(row["messages"][:1], tools=row["tools"], add_generation_prompt=True, return_dict=False)
    conversations, expected = read_prompts(None, file)
    assert FolderModel(folder, device="cpu").encode(conversations) == [wanted] and len(wanted) > 130 and expected == ["a"]
    summary = pyrust_nn.inference("s", folder, prompts_file=file, max_new_tokens=1, runs_dir=runs, device="cpu")
    assert summary["metrics"]["prompt_tokens"] == len(wanted)
    # What is trained begins with the same.
    sample = prepare(folder, path=file).samples[0]
    assert sample.input_ids[: len(wanted)].tolist() == wanted
