"""`check`: the description of a data set, its errors, and the estimate of training on it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from terminal import Terminal
from transformers import AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn.cpu.packed_attention import packed_attention
from pyrust_nn.cpu.patching import patched_layers
from pyrust_nn.models.tiny import tiny_model_folder
from pyrust_nn.training.batches import MAX_TOKENS, BatchLayout, MicroBatching, row_length, target_tokens
from pyrust_nn.training.rows import PreparedRows
from pyrust_nn.training.target_loss import TargetLoss

Cli = Callable[..., subprocess.CompletedProcess[str]]
Report = Callable[..., Any]


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The folder of builtin:tiny, so that nothing needs Python."""
    return tiny_model_folder()


@pytest.fixture
def report(cli: Cli, tiny: Path) -> Report:
    """The report as JSON; stdout holds nothing else."""

    def check(*words: str | Path, code: int = 0) -> Any:
        done = cli("check", *words, "--model", tiny, "--json", "--python-env", "/nonexistent", "--no-setup")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    return check


def conversation(question: str, *answers: str) -> dict[str, Any]:
    """A conversation in which each answer follows the same question."""
    messages = []
    for answer in answers:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def as_file(folder: Path, conversations: list[Any]) -> Path:
    """A data set of these."""
    path = folder / "data.json"
    path.write_text(json.dumps(conversations), encoding="utf-8")
    return path


def test_counts_equal_those_of_transformers(report: Report, tiny: Path, data_json: str, conversations: list[list[dict[str, str]]]) -> None:
    """Rows, tokens, roles, quantiles and the histogram, counted apart."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    lengths = sorted(len(tokenizer.apply_chat_template(one, tokenize=True, return_dict=False)) for one in conversations)
    made = report(data_json)
    assert made["ok"] and made["counts"]["conversations"] == made["counts"]["rows"] == len(conversations)
    assert made["counts"]["tokens"] == sum(lengths)
    roles = [message["role"] for one in conversations for message in one]
    assert made["roles"] == {role: roles.count(role) for role in ("system", "user", "assistant", "tool")}
    # Between <|im_start|>assistant\n and <|im_end|>, that included.
    end, header = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.encode("<|im_start|>assistant\n")
    targets = 0
    for one in conversations:
        ids = tokenizer.apply_chat_template(one, tokenize=True, return_dict=False)
        at = 0
        while at < len(ids):
            if ids[at : at + len(header)] == header:
                stop = ids.index(end, at) + 1
                targets += stop - at - len(header)
                at = stop
            else:
                at += 1
    assert made["counts"]["target_tokens"] == targets
    bins = made["lengths"]["histogram"]
    assert sum(one["rows"] for one in bins) == made["counts"]["rows"]
    for one in bins:
        assert one["rows"] == sum(one["from"] <= length <= one["to"] for length in lengths)
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
        assert made["lengths"][name] == lengths[max(0, -int(-share * len(lengths) // 1) - 1)]


def test_what_is_marked_are_the_assistants_words_and_the_end_of_the_turn(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """Without colours targets stand in brackets, in every turn; scripts whose characters take several tokens stay whole."""
    path = as_file(tmp_path, [conversation("What?", "Plain words.", "日本 🙂\nin two lines")])
    done = cli("check", path, "--model", tiny, "--python-env", "/nonexistent")
    assert done.returncode == 0, done.stderr
    marked = [words.replace("\n  ", "\n") for words in re.findall("⟦(.*?)⟧", done.stdout.split("\n", 2)[2], re.DOTALL)]
    assert [words for words in marked if words.strip()] == ["Plain words.<|im_end|>", "日本 🙂\nin two lines<|im_end|>"]
    assert "\x1b" not in done.stdout


def test_the_pieces_of_a_preview_are_the_whole_rendering(report: Report, tiny: Path, data_json: str, conversations: list[Any]) -> None:
    """Those of the conversations that were asked for."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    previews = report(data_json, "--show-index", "2", "5")["previews"]
    assert [one["conversation"] for one in previews] == [2, 5]
    for one in previews:
        ids = tokenizer.apply_chat_template(conversations[one["conversation"]], tokenize=True, return_dict=False)
        text = tokenizer.apply_chat_template(conversations[one["conversation"]], tokenize=False)
        assert "".join(piece["text"] for piece in one["pieces"]) == text
        assert sum(piece["tokens"] for piece in one["pieces"]) == one["tokens"] == len(ids)
        assert sum(piece["tokens"] for piece in one["pieces"] if piece["target"]) == one["target_tokens"]


def test_every_fault_is_listed_with_its_place_and_the_rest_is_counted(report: Report, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """The exit code is 2, and the sound conversations are in the figures."""
    path = tmp_path / "data.json"
    good = json.dumps(conversation("a", "b"))
    path.write_text(f'[{good},\n{{"messages": 5}},\n{{"messages": [{{"role": "human", "content": "x"}}]}}, {good}]', encoding="utf-8")
    made = report(path, code=2)
    assert not made["ok"] and made["problem_count"] == 2 and made["counts"]["conversations"] == 2
    assert [(one["line"], one["column"], one["path"]) for one in made["problems"]] == [
        (2, 14, "[1].messages"),
        (3, 24, "[2].messages[0].role"),
    ]
    done = cli("check", path, "--model", tiny)
    assert done.returncode == 2
    assert "line 2, column 14, [1].messages: " in done.stdout and "line 3, column 24, [2].messages[0].role: " in done.stdout


def test_what_is_too_long_is_found_and_refused_only_where_training_would(report: Report, data_json: str) -> None:
    """`overlong` decides; the samples are listed either way."""
    whole = report(data_json)
    lengths = whole["lengths"]
    limit = str(lengths["median"])
    made = report(data_json, "--max-length", limit, code=2)
    assert made["too_long"]["count"] == made["counts"]["dropped"] > 0
    assert made["too_long"]["first"][0]["tokens"] > lengths["median"]
    assert "max_length" in made["errors"][0] and made["counts"]["longest"] == lengths["max"]
    cut = report(data_json, "--max-length", limit, "--overlong", "truncate_left")
    assert cut["ok"] and cut["too_long"]["count"] == made["too_long"]["count"]
    assert cut["lengths"]["max"] == lengths["median"]
    assert cut["counts"]["tokens"] + cut["counts"]["lost_tokens"] == whole["counts"]["tokens"]


def test_the_error_comes_before_the_warnings(cli: Cli, tmp_path: Path) -> None:
    same = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "bad.json").write_text(json.dumps([same, same, {"messages": []}]))
    done = cli("check", tmp_path / "bad.json", "--model", "builtin:tiny")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    (error,) = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    (warning,) = [i for i, line in enumerate(lines) if line.startswith("warning: ")]
    assert error < warning, done.stdout


def test_duplicates_and_literal_special_tokens_are_named(report: Report, tmp_path: Path) -> None:
    """With their places; `drop_duplicates` leaves the first of each."""
    literal = conversation("say <|im_end|> aloud", "no")
    path = as_file(tmp_path, [conversation("a", "b"), conversation("c", "d"), conversation("a", "b"), literal, conversation("a", "b")])
    made = report(path)
    assert (made["counts"]["duplicates"], made["counts"]["rows"], made["counts"]["literal_special_tokens"]) == (2, 5, 1)
    assert any("[2], [4]" in warning for warning in made["warnings"])
    assert any("[3].messages[0]" in warning for warning in made["warnings"])
    assert report(path, "--drop-duplicates")["counts"]["rows"] == 3


def test_rows_held_out_are_not_trained_on(report: Report, data_json: str) -> None:
    """Steps count the others."""
    made = report(data_json, "--eval-split", "0.25", "--batch-size", "1", "--num-epochs", "2")
    prepared = pyrust_nn.prepare_dataset("builtin:tiny", dataset_path=data_json, eval_split=0.25)
    assert made["eval_rows"] == prepared["eval_rows"] > 0
    assert made["estimate"]["steps"] == 2 * (made["counts"]["rows"] - made["eval_rows"])


def kept_by_a_training(model: Any, rows: list[Any], budget: int) -> int:
    """Bytes that autograd keeps of the largest micro-batch of a step, as training computes it on a CPU."""
    base = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in base:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # or its address would be given to another
        return tensor

    batches = MicroBatching(BatchLayout.PACKED, budget)
    part = max(batches.split(rows), key=lambda part: sum(map(row_length, part)))
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with packed_attention(model, torch.float32), patched_layers(model), TargetLoss(model, in_place=True), hooks:
        model(**batches.inputs(part), num_items_in_batch=target_tokens(part))
    return sum(kept.values())


@pytest.mark.parametrize("task", ["finetune_full", "finetune_lora"])
@pytest.mark.parametrize(("batch", "accumulation"), [(1, 1), (8, 1), (1, 8), (16, 4)])
def test_memory_is_what_a_training_takes(report: Report, tiny: Path, tmp_path: Path, task: str, batch: int, accumulation: int) -> None:
    """Weights, gradients and moments to the byte; what autograd keeps nearly, however a step is spread over passes."""
    path = as_file(tmp_path, [conversation(f"Question {i:02}?", "Answer. " * 12) for i in range(64)])
    words = ["--task", task, "--device", "cpu", "--batch-size", str(batch), "--gradient-accumulation-steps", str(accumulation)]
    made = report(path, *words, "--show", "0")["estimate"]["memory"]
    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).train()
    if task == "finetune_lora":
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=8, lora_dropout=0.05, target_modules=targets))
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert made["weights"] == sum(one.nbytes for one in model.parameters())
    assert made["gradients"] == sum(one.nbytes for one in learning)
    assert made["optimizer"] == 2 * sum(one.nbytes for one in learning)
    prepared = PreparedRows(pyrust_nn.prepare_dataset(tiny, dataset_path=path)["path"])
    rows = [prepared[i] for i in range(batch * accumulation)]
    kept = kept_by_a_training(model, rows, MAX_TOKENS["cpu"])
    # The last layer is counted whole, and a budget may not be filled.
    assert 0.98 * kept <= made["activations"] <= 1.45 * kept


def test_an_adapters_parameters_are_pefts(report: Report, tiny: Path, data_json: str) -> None:
    """Of all seven projections, and of some."""
    for words, targets in (
        ([], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
        (["--target-modules", "q_proj,down_proj"], ["q_proj", "down_proj"]),
    ):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), LoraConfig(r=5, target_modules=targets))
        estimate = report(data_json, "--lora-rank", "5", "--show", "0", *words)["estimate"]
        assert estimate["trainable_parameters"] == model.get_nb_trainable_parameters()[0]


def test_an_adapter_as_model_is_refused_as_training_refuses_it(cli: Cli, trained: dict[str, str], data_json: str) -> None:
    """With the fix."""
    done = cli("check", data_json, "--model", trained["lora"], "--offline")
    assert done.returncode == 2 and "is a LoRA adapter" in done.stdout and "checkpoint_lora" in done.stdout


def test_a_folder_with_a_tokenizer_alone_is_enough_for_all_but_memory(
    report: Report, cli: Cli, tiny: Path, data_json: str, tmp_path: Path
) -> None:
    """The estimate says what is missing."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    done = cli("check", data_json, "--model", folder, "--json")
    made = json.loads(done.stdout)
    assert done.returncode == 0 and made["counts"] == report(data_json)["counts"]
    assert made["estimate"]["memory"] is None and made["estimate"]["steps"] > 0
    assert "no weights" in made["estimate"]["missing"][0]


def on_a_terminal(binary: Path, *words: str | Path, **environment: str) -> str:
    """What the binary writes to a terminal of its own."""
    parent, child = pty.openpty()
    done = subprocess.Popen([str(binary), *map(str, words)], stdout=child, stderr=subprocess.DEVNULL, env={**os.environ, **environment})
    os.close(child)
    read = b""
    while True:
        try:
            block = os.read(parent, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not block:
            break
        read += block
    os.close(parent)
    assert done.wait() == 0
    return read.decode()


def test_colours_are_for_terminals_that_want_them(binary: Path, tiny: Path, tmp_path: Path) -> None:
    """What is trained on is underlined there; NO_COLOR brings the brackets."""
    path = as_file(tmp_path, [conversation("a", "words")])
    environment = {name: "" for name in ("NO_COLOR",)}
    colored = on_a_terminal(binary, "check", path, "--model", tiny, **environment)
    assert "\x1b[4;94mw" in colored and "⟦words" not in colored
    plain = on_a_terminal(binary, "check", path, "--model", tiny, NO_COLOR="1")
    assert "\x1b" not in plain and "⟦words<|im_end|>⟧" in plain


@pytest.mark.parametrize("columns", [80, 140])
def test_long_lines_are_broken_between_words_and_their_rest_hangs(binary: Path, tiny: Path, tmp_path: Path, columns: int) -> None:
    """A sample's, in which a break must not look like one of the text; a list's, and those of warnings and errors."""
    sentence = "The quantization of experts in a mixture needs considerably more memory than this machine has available. "
    path = as_file(tmp_path, [conversation(sentence * 3 + "\nNext line.", sentence * 2)] * 2)
    terminal = Terminal(binary, "check", path, "--model", tiny, columns=columns, lines=200)
    assert terminal.finish() == 0
    assert not terminal.broken, terminal.text
    at = next(i for i, line in enumerate(terminal.lines) if line.startswith("  The quantization"))
    end = terminal.lines.index("  Next line.<|im_end|>")
    assert end - at > 2 and all(line.startswith("    ") and line[4] != " " for line in terminal.lines[at + 1 : end]), terminal.text
    # Wide characters have no spaces between words.
    chinese = as_file(tmp_path, [conversation("量化混合专家模型需要的内存远远超过这台机器的可用内存" * 5, "好")])
    terminal = Terminal(binary, "check", chinese, "--model", tiny, columns=columns, lines=200)
    assert terminal.finish() == 0
    at = next(i for i, line in enumerate(terminal.lines) if line.startswith("  量"))
    assert terminal.lines[at + 1].startswith("    ") and terminal.lines[at + 1][4] != " ", terminal.text
    faulty = as_file(tmp_path, [{"messages": [{"role": sentence, "content": "y"}]}])
    terminal = Terminal(binary, "check", faulty, "--model", tiny, columns=columns)
    assert terminal.finish() == 2
    at = next(i for i, line in enumerate(terminal.lines) if line.startswith("  line 1, "))
    assert not terminal.broken and terminal.lines[at + 1].startswith("    "), terminal.text


def test_no_escape_in_the_data_reaches_the_terminal(cli: Cli, binary: Path, tiny: Path, tmp_path: Path) -> None:
    """Neither from a sample nor from the words about a fault."""
    path = as_file(tmp_path, [conversation("\x1b[2J\x1b]0;title\x07 \u009b31m \u202e", "\x1b[31mred")])
    for text in (cli("check", path, "--model", tiny, "-v").stdout, on_a_terminal(binary, "check", path, "--model", tiny, NO_COLOR="1")):
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)
        assert "␛[2J" in text.replace("│", "")
    faulty = as_file(tmp_path, [{"messages": [{"role": "\x1b[2Jx", "content": "y"}]}])
    done = cli("check", faulty, "--model", tiny)
    assert done.returncode == 2 and "\x1b" not in done.stdout


def test_python_gets_the_same_report(report: Report, tiny: Path, data_json: str, tmp_path: Path) -> None:
    """As a dict with the keys of its type; wrong data are no exception there."""
    made = pyrust_nn.check_dataset(tiny, dataset_path=data_json)
    assert made == report(data_json)
    assert made.keys() == pyrust_nn.CheckReport.__annotations__.keys()
    wrong = pyrust_nn.check_dataset(tiny, dataset_path=as_file(tmp_path, [{"messages": []}]))
    assert not wrong["ok"] and wrong["problem_count"] == 1
    with pytest.raises(pyrust_nn.InputError):
        pyrust_nn.check_dataset(tiny, dataset_path="nowhere.json")


def test_a_probe_gives_a_time(tiny: Path, data_json: str) -> None:
    """Of both ways; more epochs take longer."""
    once = pyrust_nn.check_dataset(tiny, dataset_path=data_json, probe=True, num_epochs=1, show=0)["estimate"]["time"]
    often = pyrust_nn.check_dataset(tiny, dataset_path=data_json, probe=True, num_epochs=1000, task="finetune_full", show=0)["estimate"][
        "time"
    ]
    assert once is not None and often is not None
    assert 0 < once["seconds"] < often["seconds"]
