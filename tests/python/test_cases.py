"""Data sets of other tools: what is given is honoured, converted, or refused. The right values come from transformers and pyarrow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_engine import SHARED, model_folder, prepare, target_texts, with_template
from test_prepare import trl_template
from transformers import AutoTokenizer

import pyrust_nn
from pyrust_nn import InputError
from pyrust_nn.models.tokenizers import load_tokenizer

CASES = SHARED / "cases/data"
Cli = Callable[..., subprocess.CompletedProcess[str]]


def case(name: str) -> str:
    """A file of the cases."""
    if not CASES.is_dir():
        pytest.skip(f"the folder {CASES} is not there")
    return str(next(CASES.glob(f"{name}*")))


@pytest.fixture(scope="session")
def models() -> dict[str, tuple[str, Any]]:
    """Folder and tokenizer by the name of a template: the real vocabulary if it is there, else the tiny one."""
    folder = SHARED / "qwen2-tokenizer"
    base = str(folder) if folder.is_dir() else model_folder(load_tokenizer("builtin:tiny"))
    made = {name: with_template(base, trl_template(name)) for name in ("qwen2_5", "qwen3", "qwen3_5_think", "qwen3_5_nothink")}
    made["plain"] = base, AutoTokenizer.from_pretrained(base)
    return made


def texts(models: Any, name: str, path: str, **params: Any) -> list[list[str]]:
    """The trained texts of each row."""
    folder, tokenizer = models[name]
    return [target_texts(tokenizer, sample) for sample in prepare(folder, path=path, **params).samples]


def ids(models: Any, name: str, path: str, **params: Any) -> list[list[int]]:
    return [sample.input_ids.tolist() for sample in prepare(models[name][0], path=path, **params).samples]


def rendered(models: Any, name: str, messages: list[Any], **options: Any) -> list[int]:
    """transformers' token ids of a conversation."""
    tokenizer = models[name][1]
    return tokenizer(tokenizer.apply_chat_template(messages, tokenize=False, **options), add_special_tokens=False)["input_ids"]


def check(folder: str, path: str | Path, **params: Any) -> Any:
    return pyrust_nn.check_dataset(folder, dataset_path=str(path), max_length=100_000, **params)


def lines(path: Path, *items: Any) -> str:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return str(path)


# The table of the cases


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_5_think"])
def test_arguments_as_json_text_are_the_object(models: Any, name: str) -> None:
    given = json.loads(Path(case("01_")).read_text())
    given["messages"][2]["tool_calls"][0]["function"]["arguments"] = {"city": "Rome", "n": 2}
    given["messages"][2]["content"] = ""
    whole = rendered(models, name, given["messages"], tools=given["tools"])
    got = ids(models, name, case("01_"))
    assert got[-1][: len(whole) - 2] == whole[: len(whole) - 2]
    assert '"n": 2' in texts(models, "qwen2_5", case("01_"))[0][0]


def test_a_turn_of_weight_0_is_shown_and_not_trained_on(models: Any) -> None:
    assert texts(models, "qwen2_5", case("02_")) == [["GOOD 4<|im_end|>"]]


def test_the_older_function_call_is_a_tool_call(models: Any) -> None:
    given = json.loads(Path(case("03_")).read_text())
    messages = given["messages"]
    call = messages[1].pop("function_call")
    messages[1]["tool_calls"] = [{"type": "function", "function": {"name": call["name"], "arguments": json.loads(call["arguments"])}}]
    tools = [{"type": "function", "function": function} for function in given["functions"]]
    whole = rendered(models, "qwen2_5", messages, tools=tools)
    assert ids(models, "qwen2_5", case("03_")) == [whole]
    notes = " ".join(check(models["qwen2_5"][0], case("03_"))["notes"])
    assert "function_call is converted to tool_calls" in notes and "functions are converted to tools" in notes


def test_a_system_prompt_beside_the_messages_becomes_the_first(models: Any) -> None:
    given = json.loads(Path(case("04_")).read_text())
    assert ids(models, "qwen2_5", case("04_")) == [rendered(models, "qwen2_5", [{"role": "system", "content": "SYS"}, *given["messages"]])]


@pytest.mark.parametrize(("file", "right"), [("05_none", "05_right"), ("06_floats", "06_right")])
@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_5_think"])
def test_parquet_gives_the_rows_of_the_same_data_as_json(models: Any, name: str, file: str, right: str) -> None:
    assert ids(models, name, case(file)) == ids(models, name, case(right))


def test_unused_columns_are_not_read_and_null_is_as_absent(models: Any) -> None:
    folder = models["qwen2_5"][0]
    report = check(folder, case("06c_"))
    assert report["ok"] and any('columns "when"' in warning or '"d"' in warning for warning in report["warnings"])
    assert len(texts(models, "qwen2_5", case("07_train"))) == 1
    assert len(texts(models, "qwen2_5", case("07b_"))) == 2


def test_an_empty_thought_is_written_as_at_inference(models: Any) -> None:
    messages = json.loads(Path(case("08_")).read_text())["messages"]
    sample = prepare(models["qwen3_5_think"][0], path=case("08_")).samples[0]
    whole = rendered(models, "qwen3_5_think", messages)
    assert sample.input_ids.tolist() == whole[: len(sample.input_ids)]
    prompt = rendered(models, "qwen3_5_think", messages[:1], add_generation_prompt=True, enable_thinking=False)
    assert sample.input_ids.tolist()[: len(prompt)] == prompt
    assert target_texts(models["qwen3_5_think"][1], sample) == ["a1<|im_end|>"]


def test_only_a_leading_thought_is_dropped(models: Any) -> None:
    answer = "Write <think> before and </think> after your thoughts.<|im_end|>"
    assert texts(models, "qwen2_5", case("11_"), thinking="drop") == [[answer]]


def test_equal_conversations_are_held_out_together(models: Any) -> None:
    made = prepare(models["qwen2_5"][0], path=case("12_"), eval_split=0.1)
    train = {tuple(sample.input_ids.tolist()) for sample in made.samples}
    held_out = [tuple(sample.input_ids.tolist()) for sample in made.held_out]
    assert len(held_out) == 20 and not train & set(held_out)


def test_conversations_with_roles_are_read(models: Any) -> None:
    assert texts(models, "qwen2_5", case("13_")) == [["a<|im_end|>"]]


def test_reasoning_that_the_template_does_not_show_is_a_warning(models: Any) -> None:
    warnings = check(models["qwen2_5"][0], case("15_"))["warnings"]
    assert len(warnings) == 1 and warnings[0].startswith("1 conversation has reasoning")
    assert not check(models["qwen3"][0], case("15_"))["warnings"]


def test_empty_tool_results_parts_and_tables_are_read(models: Any) -> None:
    for name, count in [("16_", 1), ("18_", 1), ("19_", 1), ("20_", 2)]:
        assert len(texts(models, "qwen2_5", case(name))) == count
    assert texts(models, "qwen2_5", case("20_")) == [["a<|im_end|>"], ["a2<|im_end|>"]]


@pytest.mark.parametrize(
    ("name", "words"), [("17_", "line 1, column 43, [0]: not UTF-8"), ("22b_", "line 2, column 1: invalid JSON: a comment")]
)
def test_what_is_refused_names_its_place(models: Any, cli: Cli, name: str, words: str) -> None:
    done = cli("prepare", case(name), "--model", models["qwen2_5"][0], "--no-setup")
    assert done.returncode == 2 and done.stderr.count(words) == 1 and "problems" not in done.stderr


# Neighbours


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def test_columns_name_the_meaning(models: Any, cli: Cli, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"q": "x", "a": "y", "question": "z"})
    expected = texts(models, "qwen2_5", lines(tmp_path / "b.jsonl", chat("x", "y")))
    assert texts(models, "qwen2_5", path, columns={"user": "q", "assistant": "a"}) == expected
    words = ["--columns", "user=q", "--columns", "assistant=a", "--json", "--no-setup"]
    done = cli("check", path, "--model", models["qwen2_5"][0], *words)
    assert done.returncode == 0 and '"question\\" in 1 conversation' in done.stdout
    done = cli("check", path, "--model", models["qwen2_5"][0], *words, "--columns", "system=sytem")
    assert done.returncode == 0 and 'columns says that system is \\"sytem\\", which no conversation has' in done.stdout, done.stdout
    done = cli("check", path, "--model", models["qwen2_5"][0], "--columns", "usr=q", "--no-setup")
    assert done.returncode == 2 and "with NAME one of messages, system, user" in done.stderr
    done = cli("check", path, "--model", models["qwen2_5"][0], "--columns", "user=q", "--columns", "assistant=qestion", "--no-setup")
    wanted = (
        'columns says that assistant is "qestion", but the first conversation has the keys "q", "a", "question"; did you mean "question"?'
    )
    assert done.returncode == 2 and wanted in done.stdout and "no conversation has" not in done.stdout, done.stdout
    lines(tmp_path / "c.jsonl", {"q": 5, "a": "y"})
    with pytest.raises(InputError, match=r"\[0\].q: must be a string, not a number"):
        prepare(models["qwen2_5"][0], path=str(tmp_path / "c.jsonl"), columns={"user": "q", "assistant": "a"})


def test_plain_text_is_trained_on_as_it_stands(models: Any, tmp_path: Path) -> None:
    folder, tokenizer = models["plain"]
    path = lines(tmp_path / "a.jsonl", {"text": "Once upon a time."}, {"text": "a<|im_end|>\n"})
    made = prepare(folder, path=path).samples
    assert made[0].input_ids.tolist() == tokenizer("Once upon a time." + tokenizer.eos_token)["input_ids"]
    assert made[0].labels.tolist()[1:] == made[0].input_ids.tolist()[1:] and made[0].labels[0] == -100
    assert made[1].input_ids.tolist() == tokenizer("a<|im_end|>\n")["input_ids"]
    assert "plain text" in check(folder, path)["notes"][0]


def test_preference_pairs_are_read_by_check_and_refused_by_training(models: Any, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "q", "chosen": "a", "rejected": "b"})
    report = check(models["qwen2_5"][0], path)
    assert not report["ok"] and "preference" in report["errors"][0] and not report["problems"]
    with pytest.raises(InputError, match="preference"):
        prepare(models["qwen2_5"][0], path=path)
    columns = {"user": "prompt", "assistant": "chosen"}
    assert texts(models, "qwen2_5", path, columns=columns) == [["a<|im_end|>"]]


def test_tables_zip_and_standard_input(models: Any, cli: Cli, tmp_path: Path) -> None:
    expected = texts(models, "qwen2_5", lines(tmp_path / "a.jsonl", chat("x, y", 'z\n"w"')))
    (tmp_path / "a.csv").write_text('question,answer\n"x, y","z\n""w"""\n')
    (tmp_path / "a.tsv").write_text('question\tanswer\nx, y\t"z\n""w"""\n')
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "a.csv")
    for name in ("a.csv", "a.tsv", "packed.zip"):
        assert texts(models, "qwen2_5", str(tmp_path / name)) == expected
    done = cli("prepare", "-", "--model", models["qwen2_5"][0], "--json", "--no-setup", input=(tmp_path / "a.jsonl").read_text())
    assert done.returncode == 0 and json.loads(done.stdout)["rows"] == 1
    done = cli("prepare", tmp_path / "a.csv", "--model", models["qwen2_5"][0], "--no-setup")
    assert done.returncode == 0, done.stderr
    assert all(len(line.split()) >= 2 for line in done.stdout.splitlines()), f"no name without a value: {done.stdout}"
    (tmp_path / "b.csv").write_text("question,answer\na,b\nc\n")
    done = cli("prepare", tmp_path / "b.csv", "--model", models["qwen2_5"][0], "--no-setup")
    assert done.returncode == 2 and "b.csv has 1 field in the record of line 3, but 2 columns" in done.stderr
    (tmp_path / "c.csv").write_text('messages\n"[{""role"": ""user"", ""content"": 5}]"\n')
    done = cli("check", tmp_path / "c.csv", "--model", models["qwen2_5"][0], "--no-setup")
    assert done.returncode == 2 and "line 2, [0].messages[0].content: must be a string" in done.stdout


def test_weights_and_limits_of_several_data_sets(models: Any, cli: Cli, tmp_path: Path) -> None:
    folder = models["qwen2_5"][0]
    a = lines(tmp_path / "a.jsonl", *(chat(f"a{i}", f"b{i}") for i in range(10)))
    b = lines(tmp_path / "b.jsonl", *(chat(f"c{i}", f"d{i}") for i in range(20)))

    def count(*entries: Any, **more: Any) -> dict[str, int]:
        made = pyrust_nn.prepare_dataset(folder, dataset_path=list(entries), **more)
        rows = prepare_rows(models, made["path"])
        assert made["rows"] == len(rows)
        return {letter: sum(row.startswith(letter) for row in rows) for letter in "bd"}

    assert count({"path": a, "weight": 2}, {"path": b, "weight": 0.5}) == {"b": 20, "d": 10}
    assert count(f"{a}::max_rows=3", f"{b}::weight=1.5") == {"b": 3, "d": 30}
    report = pyrust_nn.check_dataset(folder, dataset_path=[{"path": a, "weight": 2}, {"path": b, "weight": 0.5}])
    assert report["counts"]["rows"] == 30
    done = cli("prepare", a, tmp_path / "." / "a.jsonl", "--model", folder, "--json", "--no-setup")
    assert json.loads(done.stdout)["rows"] == 20 and "is given twice" in done.stderr
    done = cli("prepare", f"{a}::wieght=2", "--model", folder, "--no-setup")
    assert done.returncode == 2 and "did you mean weight?" in done.stderr


def prepare_rows(models: Any, path: str) -> list[str]:
    from data_engine import rows

    return [target_texts(models["qwen2_5"][1], row)[0] for row in rows(path)]


# Arrow

EXACT = {
    "n": 2**63 - 1,
    "u": 2**64 - 1,
    "x": 41.902783512345,
    "small": 1e-12,
    "huge": 1.5e300,
    "no": False,
    "text": "é\u2028",
    "list": [1, None, 3],
    "inner": {"a": [{"b": 1}]},
}


def test_arrow_values_are_exact(models: Any, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": EXACT}}
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    arguments = pa.struct(
        [
            ("n", pa.int64()),
            ("u", pa.uint64()),
            ("x", pa.float64()),
            ("small", pa.float64()),
            ("huge", pa.float64()),
            ("no", pa.bool_()),
            ("text", pa.large_string()),
            ("list", pa.large_list(pa.int64())),
            ("inner", pa.struct([("a", pa.list_(pa.struct([("b", pa.int8()), ("other", pa.string())])))])),
            ("absent", pa.string()),
        ]
    )
    calls = pa.list_(pa.struct([("type", pa.string()), ("function", pa.struct([("name", pa.string()), ("arguments", arguments)]))]))
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", calls)])
    table = pa.Table.from_pylist([row], schema=pa.schema([("messages", pa.list_(message)), ("raw", pa.binary())]))
    expected = ids(models, "qwen2_5", lines(tmp_path / "a.jsonl", row))
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.feather"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.feather", "stream.arrow"):
        assert ids(models, "qwen2_5", str(tmp_path / name)) == expected, name


def test_dates_become_iso_text_and_what_json_cannot_hold_is_refused(models: Any, tmp_path: Path) -> None:
    import datetime

    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    table = pa.table({"question": [moment.date()], "answer": [moment]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert texts(models, "qwen2_5", str(tmp_path / "a.parquet")) == [["2024-05-06T07:08:09+00:00<|im_end|>"]]
    for values in (pa.array([b"\xff"]), pa.array([[float("nan")]])):
        pq.write_table(pa.table({"question": ["q"], "answer": values}), tmp_path / "b.parquet")
        with pytest.raises(InputError, match="column answer"):
            prepare(models["qwen2_5"][0], path=str(tmp_path / "b.parquet"))


def test_a_rewritten_file_with_the_same_time_is_read_again(models: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for answer in ("old", "new"):
        pq.write_table(pa.table({"question": ["q"], "answer": [answer]}), path)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert texts(models, "qwen2_5", str(path)) == [[f"{answer}<|im_end|>"]]


def test_a_saved_folder_and_its_splits(models: Any, tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list([chat("q", "a")])
    datasets.DatasetDict({"train": rows, "test": datasets.Dataset.from_list([chat("q", "b")])}).save_to_disk(str(tmp_path / "d"))
    assert texts(models, "qwen2_5", str(tmp_path / "d")) == [["a<|im_end|>"]]
    assert texts(models, "qwen2_5", f"{tmp_path / 'd'}::split=test") == [["b<|im_end|>"]]
    with pytest.raises(InputError, match="has the splits train, test and no split dev"):
        prepare(models["qwen2_5"][0], path=f"{tmp_path / 'd'}::split=dev")


def test_the_name_of_a_data_set_that_is_nowhere(models: Any, cli: Cli) -> None:
    done = cli("prepare", "nobody/nothing", "--model", models["qwen2_5"][0], "--offline", "--no-setup")
    assert done.returncode == 2 and "offline forbids" in done.stderr


# Thinking


def test_template_kwargs_are_the_ones_of_inference(models: Any, tmp_path: Path) -> None:
    folder, tokenizer = models["qwen3"]
    path = lines(tmp_path / "a.jsonl", chat("q", "a"), chat("q", "a", chat_template_kwargs={"enable_thinking": True}))
    off, on = prepare(folder, path=path, template_kwargs={"enable_thinking": False}).samples
    for sample, enabled in ((off, False), (on, True)):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "q"}], tokenize=False, add_generation_prompt=True, enable_thinking=enabled
        )
        text = tokenizer.decode(sample.input_ids)
        assert text.startswith(prompt), (text, prompt)
        assert target_texts(tokenizer, sample) == ["a<|im_end|>"]
    warning = check(models["qwen2_5"][0], path, template_kwargs={"enable_thinking": False})["warnings"][0]
    assert "chat_template_kwargs.enable_thinking" in warning


def test_prompts_keep_tools_and_template_variables(tmp_path: Path) -> None:
    from pyrust_nn.chat.prompts import read_prompts

    path = lines(tmp_path / "a.jsonl", chat("q", "a", tools=[{"name": "f"}], chat_template_kwargs={"enable_thinking": False}))
    wanted = {"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "f"}], "chat_template_kwargs": {"enable_thinking": False}}
    assert read_prompts(None, path)[0] == [wanted]
    for item in ({"question": "q", "answer": "a"}, {"conversations": [{"from": "human", "value": "q"}]}, {"prompt": "q"}):
        assert read_prompts(None, lines(tmp_path / "b.jsonl", item))[0] == [{"messages": wanted["messages"]}]
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("question,answer\nq,a\n")
    for name in ("a.parquet", "a.csv"):
        assert read_prompts(None, str(tmp_path / name))[0] == [{"messages": wanted["messages"]}]


# Long conversations


def test_a_long_conversation_is_rendered_as_transformers_does(models: Any, tmp_path: Path) -> None:
    messages = []
    for i in range(150):
        messages += [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]
    messages.insert(0, {"role": "system", "content": "s"})
    messages[6]["train"] = False
    path = lines(tmp_path / "a.jsonl", {"messages": messages})
    folder, tokenizer = models["qwen2_5"]
    sample = prepare(folder, path=path).samples[0]
    plain = [{key: message[key] for key in ("role", "content")} for message in messages]
    whole = tokenizer(tokenizer.apply_chat_template(plain, tokenize=False), add_special_tokens=False)["input_ids"]
    assert sample.input_ids.tolist() == whole[: len(sample.input_ids)] and len(whole) - len(sample.input_ids) <= 1
    assert target_texts(tokenizer, sample) == [f"answer {i}<|im_end|>" for i in range(150) if i != 2]
