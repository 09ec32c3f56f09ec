"""Inference: answers equal the model's own, prompts of every form, errors in prompts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_gguf import make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn.chat.prompts import read_prompts

QUESTION = "What is a session?"
SCRIPT = Path(__file__).parents[2] / "scripts" / "inference.py"


def plain_answer(folder: str, messages: list[dict[str, str]], **options: Any) -> str:
    """What transformers alone answers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**ids, do_sample=False, **{"max_new_tokens": 256, **options})
    return tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


# ---- answers ----


@pytest.mark.parametrize("which", ["full", "lora"])
def test_the_trained_model_answers_with_the_very_words_of_the_sample(
    trained: dict[str, str], conversations: Any, runs: Path, which: str
) -> None:
    turns = [
        (messages[:index], message["content"])
        for messages in conversations
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    summary = pyrust_nn.inference("s", trained[which], prompt=[asked for asked, _ in turns], runs_dir=runs)
    assert [answer["text"] for answer in summary["result"]] == [words for _, words in turns]
    assert {answer["finish_reason"] for answer in summary["result"]} == {"stop"}


def test_a_result_says_what_was_asked_answered_and_counted(trained: dict[str, str], runs: Path) -> None:
    summary = pyrust_nn.inference("s", trained["full"], prompt=QUESTION, runs_dir=runs)
    (answer,) = summary["result"]
    messages = [{"role": "user", "content": QUESTION}]
    assert set(answer) == {"messages", "text", "finish_reason", "prompt_tokens", "completion_tokens", "seconds"}
    assert answer["messages"] == messages
    assert answer["text"] == plain_answer(trained["full"], messages)

    tokenizer = AutoTokenizer.from_pretrained(trained["full"])
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert answer["prompt_tokens"] == len(prompt)
    ids = tokenizer(answer["text"], add_special_tokens=False)["input_ids"]
    assert answer["completion_tokens"] == len(ids) + 1, "and the token that ends the turn"
    assert 0 < answer["seconds"] < 60
    assert summary["metrics"]["completion_tokens"] == answer["completion_tokens"]
    lines = (runs / "s" / summary["outputs"]["answers"]).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == summary["result"]


def test_a_system_prompt_and_the_turns_before_count(trained: dict[str, str], runs: Path) -> None:
    user = {"role": "user", "content": "What is Pyrust-NN?"}
    conversation = [{"role": "system", "content": "Answer in five words."}, user]
    result = pyrust_nn.inference("s", trained["full"], prompt=[[user], conversation], runs_dir=runs)["result"]
    assert result[1]["text"] == "It fine-tunes Qwen from conversations." != result[0]["text"]
    assert result[1]["messages"] == conversation


def test_an_answer_ends_after_max_new_tokens(trained: dict[str, str], runs: Path) -> None:
    (answer,) = pyrust_nn.inference("s", trained["full"], prompt=QUESTION, max_new_tokens=3, runs_dir=runs)["result"]
    assert (answer["finish_reason"], answer["completion_tokens"]) == ("length", 3)
    whole = plain_answer(trained["full"], answer["messages"])
    assert whole.startswith(answer["text"]) and answer["text"] != whole


def test_a_prompt_beyond_the_models_positions_is_refused_before_any_is_answered(trained: dict[str, str], runs: Path) -> None:
    with pytest.raises(pyrust_nn.InputError, match=r"prompt 1 has \d+ tokens.*2048 positions"):
        pyrust_nn.inference("s", trained["full"], prompt=[QUESTION, "x y " * 2048], runs_dir=runs)
    assert not (runs / "s" / "inference" / "answers.jsonl").exists()


def test_an_answer_never_runs_past_the_models_positions(trained: dict[str, str], runs: Path) -> None:
    # The model is trained to stop, so it is kept from that.
    tokenizer = AutoTokenizer.from_pretrained(trained["full"])
    padding = len(tokenizer(" x", add_special_tokens=False)["input_ids"])
    (answer,) = pyrust_nn.inference("s", "builtin:tiny", prompt=" x" * (2000 // padding), max_new_tokens=500, runs_dir=runs)["result"]
    assert answer["prompt_tokens"] + answer["completion_tokens"] <= 2048


# ---- sampling ----


def sampled(runs: Path, step: str, **options: Any) -> str:
    # On noise, every token is about as likely as any other, so samples differ.
    return pyrust_nn.inference("s", "builtin:tiny", prompt="Hi", step=step, max_new_tokens=12, runs_dir=runs, **options)["result"][0][
        "text"
    ]


def test_the_same_seed_gives_the_same_sample(runs: Path) -> None:
    one = sampled(runs, "a", temperature=1.0, seed=1)
    assert sampled(runs, "b", temperature=1.0, seed=1) == one
    assert sampled(runs, "c", temperature=1.0, seed=2) != one


def test_a_sample_does_not_depend_on_the_prompts_before_it(runs: Path) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 12, "runs_dir": runs}
    alone = pyrust_nn.inference("s", "builtin:tiny", prompt=["Hi"], step="a", **options)["result"]
    after = pyrust_nn.inference("s", "builtin:tiny", prompt=["Ho ho", "Hi"], step="b", **options)["result"]
    assert after[1]["text"] == alone[0]["text"]


@pytest.mark.parametrize("kind", ["full", "lora", "qwen3_5_text", "qwen3_moe"])
def test_prompts_at_once_change_no_answer(kind: str, trained: dict[str, str], conversations: Any, runs: Path, tmp_path: Path) -> None:
    model = trained[kind] if kind in trained else str(make_model(tmp_path / "m", Path(trained["full"]), kind, torch.float32))
    prompts = [messages[:-1] for messages in conversations] + ["hi", "word " * 200]
    given: dict[str, Any] = {"prompt": prompts, "temperature": 0, "max_new_tokens": 24, "stop": ["folder", "der"], "runs_dir": runs}
    one, several = (pyrust_nn.inference("s", model, step=f"p{n}", parallel=n, **given) for n in (1, 5))
    assert (one["params"]["parallel"], several["params"]["parallel"]) == (1, 5)
    plain = [[{name: of[name] for name in of if name != "seconds"} for of in summary["result"]] for summary in (one, several)]
    assert plain[0] == plain[1] and len(plain[0]) == len(prompts)
    if kind == "full":
        assert {answer["finish_reason"] for answer in plain[0]} == {"stop", "length"}
        wanted = plain_answer(model, prompts[0], max_new_tokens=24)
        assert plain[0][0]["text"] == min((wanted.split(word)[0] for word in given["stop"]), key=len)


def test_several_answers_to_a_prompt_are_those_of_the_seeds_that_follow(trained: dict[str, str], runs: Path) -> None:
    given: dict[str, Any] = {"temperature": 2.0, "max_new_tokens": 12, "runs_dir": runs}
    summary = pyrust_nn.inference("s", "builtin:tiny", prompt=[QUESTION, "hi"], n=3, seed=5, **given)
    result = summary["result"]
    assert [(answer["messages"][0]["content"], answer["index"]) for answer in result] == [
        (asked, index) for asked in (QUESTION, "hi") for index in range(3)
    ]
    assert summary["metrics"]["prompts"] == 2 and summary["metrics"]["answers"] == 6 and len({answer["text"] for answer in result}) == 6
    for index in range(3):
        (alone,) = pyrust_nn.inference("s", "builtin:tiny", prompt="hi", step=f"a{index}", seed=5 + index, **given)["result"]
        assert alone["text"] == result[3 + index]["text"] and "index" not in alone
    with pytest.raises(pyrust_nn.UsageError, match="all n answers would be the same at temperature 0"):
        pyrust_nn.inference("s", "builtin:tiny", prompt="hi", n=2, temperature=0, step="b", runs_dir=runs)


def test_penalized_words_are_not_counted_in_the_padding(trained: dict[str, str], runs: Path) -> None:
    given: dict[str, Any] = {"prompt": [QUESTION, "hi"], "temperature": 0, "repetition_penalty": 1.5, "runs_dir": runs}
    one, several = (pyrust_nn.inference("s", trained["full"], step=f"p{n}", parallel=n, **given) for n in (1, 2))
    assert [answer["text"] for answer in one["result"]] == [answer["text"] for answer in several["result"]]
    assert several["params"]["parallel"] == 1
    assert "words are penalized: prompts are answered one after the other" in (runs / "s/pipeline.log").read_text()


def test_temperature_0_takes_the_likeliest_token(runs: Path) -> None:
    from pyrust_nn.models.tiny import tiny_model_folder

    greedy = plain_answer(str(tiny_model_folder()), [{"role": "user", "content": "Hi"}], max_new_tokens=12)
    assert sampled(runs, "a", temperature=0.0, seed=1) == sampled(runs, "b", temperature=0.0, seed=2) == greedy
    assert sampled(runs, "c", temperature=1.0, top_k=1) == greedy, "one token to choose from"
    assert sampled(runs, "d", top_p=1e-6) == greedy, "the likeliest alone has that probability"
    assert sampled(runs, "e") == greedy, "the tiny model's own generation config"


def test_unset_sampling_is_the_models_own(trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    import shutil

    from pyrust_nn.models.tiny import tiny_model_folder

    folder = shutil.copytree(tiny_model_folder(), tmp_path / "sampling")
    config = json.loads((folder / "generation_config.json").read_text())
    config |= {"do_sample": True, "temperature": 1.0}
    (folder / "generation_config.json").write_text(json.dumps(config))
    texts = {
        pyrust_nn.inference("s", folder, prompt="Hi", step=f"s{seed}", seed=seed, max_new_tokens=12, runs_dir=runs)["result"][0]["text"]
        for seed in range(3)
    }
    assert len(texts) == 3


# ---- where prompts come from ----

MESSAGES = [{"role": "user", "content": "Grüße, 世界 🙂"}, {"role": "assistant", "content": "Hallo!"}]
MORE = [*MESSAGES, {"role": "user", "content": "And now?"}]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "one\n\n  \ntwo\n", [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]),
        ("a.txt", "\ufeff[1]", [[{"role": "user", "content": "[1]"}]]),
        ("a.json", json.dumps(["one", MORE]), [[{"role": "user", "content": "one"}], MORE]),
        ("a.json", json.dumps(MORE), [MORE]),
        ("a.json", json.dumps({"messages": MORE}, indent=2), [MORE]),
        ("a.jsonl", f"{json.dumps(MORE)}\n{json.dumps('two')}\n", [MORE, [{"role": "user", "content": "two"}]]),
        ("a.jsonl", json.dumps({"messages": MESSAGES}) + "\n\n" + json.dumps({"messages": MORE}), [MESSAGES[:1], MORE]),
    ],
)
def test_a_file_of_prompts(tmp_path: Path, name: str, text: str, expected: Any) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [prompt["messages"] for prompt in read_prompts(None, str(tmp_path / name))[0]] == expected


def test_a_data_set_as_prompts_is_asked_without_its_last_answers(data_json: str, conversations: Any) -> None:
    assert read_prompts(None, data_json) == (
        [{"messages": messages[:-1]} for messages in conversations],
        [messages[-1]["content"] for messages in conversations],
    )


def test_prompts_come_before_the_files(trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("What do the exit codes mean?\n")
    summary = pyrust_nn.inference("s", trained["full"], prompt=[QUESTION], prompts_file=tmp_path / "p.txt", runs_dir=runs)
    asked = [answer["messages"][0]["content"] for answer in summary["result"]]
    assert asked == [QUESTION, "What do the exit codes mean?"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'["one",\n{]', ["line 2", "column 2", "invalid JSON", ".txt"]),
        ("a.jsonl", b'"one"\n"two', ["line 2", "invalid JSON", "; the file is truncated; fix it"]),
        ("a.txt", b"one\n\xff\xfe", ["line 2", "UTF-8"]),
        ("a.txt", b"\n\n", ["no prompts"]),
        ("a.json", b"[]", ["no prompts"]),
        ("a.json", b"", ["no prompts"]),
        ("a.json", b"[5]", ["[0]", "number"]),
        ("a.jsonl", b'"one"\n\n{"words": "x"}', ["line 3", "messages"]),
        ("a.json", b'["x", [{"role": "human", "content": "x"}]]', ["[1][0].role", "human", "user"]),
        ("a.json", b'[{"messages": [{"role": "user", "content": 5}]}]', ["[0].messages[0].content", "number"]),
        ("a.json", b'["  "]', ["[0]", "empty"]),
        ("a.json", b'["\\ud800"]', ["[0]", "unpaired surrogate", "\\ud800"]),
        ("a.json", b'[[{"role": "assistant", "content": "x"}]]', ["[0]", "nothing to answer"]),
        ("a.json", b'[[{"role": "system", "content": "x"}]]', ["[0]", "nothing to answer"]),
        ("a.json", b"[" * 100_000, ["nested too deeply"]),
    ],
)
def test_a_fault_in_a_file_of_prompts_is_named(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(pyrust_nn.InputError) as raised:
        read_prompts(None, str(tmp_path / name))
    for word in [name, *words]:
        assert word in str(raised.value)


def test_nothing_to_answer_is_refused(trained: dict[str, str], runs: Path) -> None:
    with pytest.raises(pyrust_nn.UsageError, match="prompts_file"):
        pyrust_nn.inference("s", trained["full"], runs_dir=runs)
    with pytest.raises(pyrust_nn.InputError, match=r"nowhere\.json"):
        pyrust_nn.inference("s", trained["full"], prompts_file="nowhere.json", step="b", runs_dir=runs)


# ---- while it runs ----


class Watched:
    """A session that keeps what it is told, and is interrupted after the second answer."""

    def __init__(self, folder: Path, interrupt_after: int) -> None:
        self.step_folder = folder
        self.interrupt_after = interrupt_after
        self.text = ""

    def progress(self, done: int, total: int, text: str = "") -> None:
        if done == self.interrupt_after:
            raise KeyboardInterrupt

    def stream(self, text: str) -> None:
        self.text += text


def run_script(model: str, session: Any, **params: Any) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(SCRIPT.read_text(encoding="utf-8"), str(SCRIPT), "exec"), names)
    names_unset = "base_model adapter adapter_scale parallel prompt prompts_file template_kwargs stop"
    unset = dict.fromkeys(f"{names_unset} temperature top_p top_k min_p repetition_penalty".split())
    rest = {"max_new_tokens": 256, "n": 1, "seed": 42, "dtype": "auto", "device": "cpu"}
    return names["run"](SimpleNamespace(model=model, **(unset | rest | params)), session)


def test_ctrl_c_leaves_what_was_answered(trained: dict[str, str], tmp_path: Path, data_json: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_script(trained["full"], Watched(tmp_path, 2), prompts_file=data_json)
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"] for line in lines] == [prompt["messages"] for prompt in read_prompts(None, data_json)[0][:2]]


def test_answers_are_streamed_in_whole(trained: dict[str, str], tmp_path: Path) -> None:
    session = Watched(tmp_path, -1)
    prompts = [[{"role": "user", "content": text}] for text in ("Tell it in emoji 🙂", "Pyrust-NN 是什么？")]
    result = run_script(trained["full"], session, prompt=prompts)["result"]
    assert session.text == "".join(f"> {asked[0]['content']}\n{one['text']}\n\n" for asked, one in zip(prompts, result, strict=True))


def test_quiet_prints_the_answers_alone(trained: dict[str, str], runs: Path, cli: Any) -> None:
    words = ["inference", "-m", trained["full"], "--temperature", "0", "--max-new-tokens", "6", "--runs-dir", runs, "-q"]
    alone = cli(*words, QUESTION, "--session", "one")
    wanted = json.loads((runs / "one/inference/summary.json").read_text(encoding="utf-8"))["result"][0]["text"]
    assert alone.returncode == 0 and wanted and (alone.stdout, alone.stderr) == (wanted + "\n", ""), alone
    both = cli(*words, "--prompt", QUESTION, "--prompt", "Hello", "--session", "two")
    texts = [one["text"] for one in json.loads((runs / "two/inference/summary.json").read_text(encoding="utf-8"))["result"]]
    assert both.stdout == f"> {QUESTION}\n{texts[0]}\n\n> Hello\n{texts[1]}\n", both.stdout


def test_what_computes_is_reported(trained: dict[str, str], runs: Path) -> None:
    params = pyrust_nn.inference("s", trained["full"], prompt=QUESTION, dtype="bf16", runs_dir=runs)["params"]
    assert params["dtype"] == "bf16"
    assert params["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
