"""Answers of GGUF files by llama.cpp: they equal transformers' on the folder, and an end of llama.cpp ends nothing else."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from terminal import Terminal

import pyrust_nn
from pyrust_nn import InputError, ModelError, SetupError, UsageError
from pyrust_nn.chat.sampling import Sampling, cut_at_stop, held_back
from pyrust_nn.chat.streaming import AnswersInOrder

QUESTION = "What is a session?"
GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def made(trained: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder with the session `m`: the trained model in GGUF (`gguf`, f16 and q8_0), its adapter (`adapter`), noise (`noise`)."""
    runs = tmp_path_factory.mktemp("llama")
    pyrust_nn.convert_model_to_gguf("m", trained["full"], step="gguf", outtype=["f16", "q8_0"], runs_dir=runs)
    pyrust_nn.convert_lora_to_gguf("m", trained["lora"], step="adapter", outtype="f32", runs_dir=runs)
    pyrust_nn.convert_model_to_gguf("m", "builtin:tiny", step="noise", outtype="f16", runs_dir=runs)
    return runs


def file_of(made: Path, step: str, outtype: str = "f16") -> Path:
    (path,) = (made / "m" / step).glob(f"*.{outtype}.gguf")
    return path


def ask(runs: Path, model: str | Path, **params: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"overwrite": True, "runs_dir": runs, **GREEDY, **params}
    result: list[dict[str, Any]] = pyrust_nn.inference("s", model, **given)["result"]
    return result


def plain(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in answer.items() if name != "seconds"} for answer in answers]


# Answers


def test_the_answers_are_those_of_transformers_on_the_folder(made: Path, trained: dict[str, str], data_json: str) -> None:
    by_llama = ask(made, "m/gguf", prompts_file=data_json)
    by_transformers = ask(made, trained["full"], prompts_file=data_json)
    assert plain(by_llama) == plain(by_transformers)
    assert len(by_llama) > 20 and {answer["finish_reason"] for answer in by_llama} == {"stop"}
    lines = (made / "s/inference/answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(by_llama)


@pytest.mark.parametrize("parallel", [1, 3])
def test_prompts_at_once_change_no_answer_and_no_order(made: Path, data_json: str, parallel: int) -> None:
    summary = pyrust_nn.inference(
        "s", "m/gguf:q8_0", prompts_file=data_json, step=f"p{parallel}", parallel=parallel, runs_dir=made, **GREEDY
    )
    assert (summary["params"]["parallel"], summary["params"]["device"]) == (parallel, "cpu")
    assert plain(summary["result"]) == plain(ask(made, file_of(made, "gguf", "q8_0"), prompts_file=data_json))
    assert summary["metrics"]["matching_answers"] == summary["metrics"]["expected_answers"] == summary["metrics"]["prompts"]


def test_several_answers_to_a_prompt_have_seeds_of_their_own(made: Path) -> None:
    sampled = {"prompt": QUESTION, "temperature": 3.0, "max_new_tokens": 12, "runs_dir": made, "overwrite": True}
    result = pyrust_nn.inference("s", "m/noise", n=3, seed=5, **sampled)["result"]
    assert [answer["index"] for answer in result] == [0, 1, 2] and len({answer["text"] for answer in result}) == 3
    for index in (1, 2):
        (alone,) = pyrust_nn.inference("s", "m/noise", seed=5 + index, **sampled)["result"]
        assert alone["text"] == result[index]["text"]


def test_an_answer_ends_after_max_new_tokens_and_at_the_models_positions(made: Path) -> None:
    (answer,) = ask(made, "m/gguf", prompt=QUESTION, max_new_tokens=3)
    assert (answer["finish_reason"], answer["completion_tokens"]) == ("length", 3)
    (answer,) = ask(made, "m/noise", prompt=" x" * 1000, max_new_tokens=5000)
    assert answer["finish_reason"] == "length" and 2040 < answer["prompt_tokens"] + answer["completion_tokens"] <= 2048
    with pytest.raises(InputError, match=r"prompt 1 has \d+ tokens.*2048 positions"):
        ask(made, "m/gguf", prompt=[QUESTION, "x y " * 2048])


@pytest.mark.parametrize(
    "params",
    [
        {"stop": " with"},
        {"stop": ["folder", "der"]},
        {"repetition_penalty": 20.0, "max_new_tokens": 40},
        {"temperature": 1.0, "min_p": 1.0},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": None, "top_p": 1e-6},
    ],
)
def test_the_parameters_of_an_answer_mean_the_same(made: Path, trained: dict[str, str], params: dict[str, Any]) -> None:
    by_llama = plain(ask(made, "m/gguf", prompt=QUESTION, **params))
    assert by_llama == plain(ask(made, trained["full"], prompt=QUESTION, **params))
    whole = ask(made, "m/gguf", prompt=QUESTION)[0]["text"]
    if stop := params.get("stop"):
        places = [whole.index(word) for word in ([stop] if isinstance(stop, str) else stop)]
        assert by_llama[0]["text"] == whole[: min(places)] and by_llama[0]["finish_reason"] == "stop"


def test_repetition_penalty_is_that_of_transformers(trained: dict[str, str], runs: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(trained["full"]), AutoModelForCausalLM.from_pretrained(trained["full"])
    messages = [{"role": "user", "content": QUESTION}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**ids, do_sample=False, max_new_tokens=40, repetition_penalty=20.0)
    wanted = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    (answer,) = ask(runs, trained["full"], prompt=QUESTION, max_new_tokens=40, repetition_penalty=20.0)
    assert answer["text"] == wanted
    assert answer["text"] != ask(runs, trained["full"], prompt=QUESTION, max_new_tokens=40)[0]["text"]


def test_a_seed_gives_one_sample(made: Path) -> None:
    options: dict[str, Any] = {"prompt": ["Hi", "Ho"], "temperature": 1.0, "max_new_tokens": 12}
    one, same, other = (plain(ask(made, "m/noise", seed=seed, **options)) for seed in (1, 1, 2))
    assert one == same and one != other
    assert plain(ask(made, "m/noise", seed=1, **{**options, "prompt": "Ho"})) == one[1:], "whatever is asked beside it"


def test_system_prompts_template_variables_and_a_long_prompt(made: Path, trained: dict[str, str]) -> None:
    user = {"role": "user", "content": "What is Pyrust-NN?"}
    conversation = [{"role": "system", "content": "Answer in five words."}, user]
    prompts = [conversation, [*conversation, {"role": "assistant", "content": "Yes."}, user], "session " * 1200]
    assert plain(ask(made, "m/gguf", prompt=prompts, max_new_tokens=8)) == plain(
        ask(made, trained["full"], prompt=prompts, max_new_tokens=8)
    )


# Adapters


def test_an_adapter_on_its_base_is_the_adapter(made: Path, trained: dict[str, str], data_json: str) -> None:
    assert plain(ask(made, "m/gguf", adapter="m/adapter", prompts_file=data_json)) == plain(
        ask(made, trained["lora"], prompts_file=data_json)
    )


def test_a_scale_changes_the_answer_and_0_is_the_base(made: Path) -> None:
    prompt = {"prompt": "Hello there", "max_new_tokens": 20}
    base = ask(made, "m/gguf", **prompt)[0]["text"]
    assert ask(made, "m/gguf", adapter="m/adapter", adapter_scale=0, **prompt)[0]["text"] == base
    far = ask(made, "m/gguf", adapter=["m/adapter"], adapter_scale=[200.0], **prompt)[0]["text"]
    assert far != base
    twice = ask(made, "m/gguf", adapter=["m/adapter", file_of(made, "adapter", "f32")], adapter_scale=[500.0, -300.0], **prompt)[0]["text"]
    assert twice == far


@pytest.mark.parametrize(
    ("model", "params", "error", "words"),
    [
        ("m/gguf", {"adapter": "m/gguf"}, InputError, "is not a LoRA adapter in GGUF"),
        ("m/adapter", {}, InputError, "is an adapter"),
        ("m/gguf", {"adapter": "m/adapter", "adapter_scale": [1.0, 2.0]}, UsageError, "names 1 adapter and adapter_scale has 2 scales"),
        ("m/gguf", {"dtype": "bf16"}, UsageError, "dtype is for a folder"),
        ("m/gguf", {"base_model": "builtin:tiny"}, UsageError, "base_model is for a folder"),
        ("builtin:tiny", {"adapter": "m/adapter"}, UsageError, "adapter is for a GGUF file"),
        ("m/gguf:q4_0", {}, ModelError, "no GGUF file of the type q4_0"),
        ("nowhere.gguf", {}, ModelError, "there is no nowhere.gguf"),
    ],
)
def test_what_does_not_go_together_is_refused(made: Path, model: str, params: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ask(made, model, prompt=QUESTION, **params)


# Without the rest


def test_torch_and_transformers_are_not_imported(made: Path) -> None:
    code = (
        "import pyrust_nn, sys\n"
        f"made = pyrust_nn.inference('s', 'm/gguf', prompt='{QUESTION}', step='light', runs_dir={str(made)!r})\n"
        "print(made['result'][0]['text'])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'peft', 'xllamacpp'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    text, modules = done.stdout.splitlines()[-2:]
    assert text == ask(made, "m/gguf", prompt=QUESTION)[0]["text"], done.stderr
    assert modules == "[]", "what computes is in a process of its own"


def test_without_xllamacpp_the_command_that_installs_it_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "xllamacpp" else find(name, *more))
    with pytest.raises(SetupError, match=r"xllamacpp is not installed; install it: pip install 'pyrust-nn\[llama\]'"):
        ask(made, "m/gguf", prompt=QUESTION)


def test_another_release_without_one_of_our_parameters_is_named() -> None:
    from pyrust_nn.llama.child import parameters

    with pytest.raises(SystemExit, match=r"has no parameter cpuparams\.no_such; install pyrust-nn\[llama\]"):
        parameters({"settings": {"n_ctx": 512, "cpuparams.no_such": 1}, "adapters": [], "gpu": False})


# Files that llama.cpp must not get, and its end


def changed(path: Path, folder: Path, name: str, value: int) -> Path:
    """A copy with another number for a key of the architecture."""
    copy = Path(shutil.copy(path, folder / "changed.gguf"))
    reader = gguf.GGUFReader(copy, "r+")
    field = reader.fields[f"qwen2.{name}"]
    field.parts[field.data[0]][0] = value
    reader.data.flush()
    return copy


@pytest.mark.parametrize(
    ("name", "value"), [("block_count", 0), ("block_count", 10**9), ("block_count", 3), ("context_length", 0), ("attention.head_count", 0)]
)
def test_numbers_on_which_llama_cpp_aborts_are_refused(made: Path, tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ModelError, match=rf"cannot be run: .*qwen2\.{name}"):
        ask(made, changed(file_of(made, "gguf"), tmp_path, name, value), prompt=QUESTION)


@pytest.mark.parametrize(("name", "value"), [("attention.head_count_kv", 0), ("attention.head_count_kv", 3), ("embedding_length", 100)])
def test_what_ends_llama_cpp_is_an_error_with_its_reason(made: Path, tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load .*: \w+") as caught:
        ask(made, changed(file_of(made, "gguf"), tmp_path, name, value), prompt=QUESTION)
    assert "said nothing" not in str(caught.value)
    assert ask(made, "m/gguf", prompt=QUESTION, max_new_tokens=2), "and nothing else ended"


def test_damaged_files_and_files_without_a_template_are_refused(made: Path, tmp_path: Path) -> None:
    whole = file_of(made, "gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.gguf").write_text("no model")
    for name in ("cut.gguf", "text.gguf"):
        with pytest.raises(ModelError, match="is not a complete GGUF file"):
            ask(made, tmp_path / name, prompt=QUESTION)
    (tmp_path / "plain.gguf").write_bytes(whole.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX"))
    with pytest.raises(ModelError, match="has no chat template"):
        ask(made, tmp_path / "plain.gguf", prompt=QUESTION)


def llama(path: Path, **options: Any) -> Any:
    from pyrust_nn.llama.model import LlamaModel

    return LlamaModel(str(path), answer_tokens=1500, **options)


def one(text: str) -> Any:
    return [{"messages": [{"role": "user", "content": text}]}]


def killed(model: Any) -> None:
    os.kill(model._engine._process.pid, signal.SIGKILL)


def test_a_killed_llama_cpp_is_started_once_again(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    sampling = Sampling(max_new_tokens=1500, temperature=0.0)
    with llama(file_of(made, "noise")) as model:
        (prompt,) = model.encode(one("Hi"))
        whole = model.answer(prompt, sampling, lambda text: None)
        assert whole["completion_tokens"] > 1000
        shown: list[str] = []

        def kill_at_first(text: str) -> None:
            if not shown:
                killed(model)
            shown.append(text)

        again = model.answer(prompt, sampling, kill_at_first)
        assert again["text"] == "".join(shown) == whole["text"], "it goes on where it was, and shows nothing twice"
        assert "llama.cpp ended (signal SIGKILL)" in caplog.text and "it is started again" in caplog.text
        killed(model)
        with pytest.raises(ModelError, match=r"SIGKILL.*restarted once before"):
            model.answer(prompt, sampling, lambda text: None)


def test_an_answer_is_stopped_from_outside(made: Path) -> None:
    with llama(file_of(made, "noise")) as model:
        (prompt,) = model.encode(one("Hi"))
        sampling = Sampling(max_new_tokens=1500, temperature=0.0)
        shown: list[str] = []
        answer = model.answer(prompt, sampling, shown.append, lambda: len(shown) > 3)
        assert answer["finish_reason"] == "stopped" and answer["text"] == "".join(shown)
        assert 3 < answer["completion_tokens"] < 1500
        assert model.answer(prompt, sampling, lambda text: None)["finish_reason"] == "length", "and the next is whole"


def test_llama_cpp_ends_with_its_parent_however_that_ends(made: Path) -> None:
    code = (
        "import sys, time\n"
        "from pyrust_nn.llama.engine import Engine, EngineSettings\n"
        f"engine = Engine(EngineSettings({str(file_of(made, 'gguf'))!r}, 512))\n"
        "print(engine._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = Path("/proc") / parent.stdout.readline().strip()
    command = (child / "cmdline").read_bytes()
    assert b"READY" in command, "it is llama.cpp's"
    assert b"Bearer" not in command
    parent.kill()
    parent.wait()
    end = time.monotonic() + 60
    while child.exists() and (child / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


# What is shown


def test_answers_are_shown_in_order_while_they_come() -> None:
    written: list[str] = []
    shown = AnswersInOrder(written.append, ["one", "two", "three"])
    shown.text(1, "B")
    shown.text(0, "a")
    shown.end(1)
    shown.text(0, "b")
    assert "".join(written) == "> one\nab"
    shown.text(2, "c")
    shown.end(0)
    assert "".join(written) == "> one\nab\n\n> two\nB\n\n> three\nc"
    shown.end(2)
    assert "".join(written).endswith("c\n\n")


def test_stop_strings_are_held_back() -> None:
    assert held_back("a fol", ["folder", "x"]) == 3 and held_back("folder", ["folder"]) == 0 and held_back("abc", []) == 0
    assert cut_at_stop("one two three", ["three", "two"]) == ("one ", True)
    assert cut_at_stop("one", ["two"]) == ("one", False)


def test_a_terminal_shows_the_answers(made: Path, binary: Path) -> None:
    words = ["inference", "-m", "m/gguf", "--prompt", QUESTION, "--prompt", "What is Pyrust-NN?", "--session", "t", "--runs-dir", made]
    terminal = Terminal(binary, *words, "--temperature", "0", "--offline")
    assert terminal.finish() == 0, terminal.text
    first, second = (answer["text"] for answer in json.loads((made / "t/inference/summary.json").read_text())["result"])
    assert f"> {QUESTION} {first} > What is Pyrust-NN? {second}" in " ".join(terminal.text.split())


def test_ctrl_c_ends_the_step_and_llama_cpp(made: Path, binary: Path, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("\n".join(f"prompt {index}" for index in range(40)))
    words = ["inference", "-m", "m/noise", "--prompts-file", tmp_path / "many.txt", "--max-new-tokens", "1900"]
    terminal = Terminal(binary, *words, "--session", "c", "--runs-dir", made)
    while b"> prompt 0" not in terminal.raw:
        assert terminal.read(60), terminal.text
    children = Path(f"/proc/{terminal.process.pid}/task/{terminal.process.pid}/children").read_text().split()
    assert children
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130, terminal.text
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    state = json.loads((made / "c/session.json").read_text())
    assert "interrupted" in json.dumps(state)


def test_a_pipeline_asks_what_its_earlier_step_made(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        """
[[step]]
task = "convert_model_to_gguf"
model = "builtin:tiny"
outtype = ["f16", "q8_0"]

[[step]]
task = "inference"
model = "@convert_model_to_gguf:q8_0"
prompt = "Hi"
max_new_tokens = 3
"""
    )
    done = cli("run", "p.toml", "--session", "p", "--runs-dir", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wrong = (tmp_path / "p.toml").read_text().replace("@convert_model_to_gguf:q8_0", "@convert:q8_0")
    (tmp_path / "w.toml").write_text(wrong)
    done = cli("run", "w.toml", "--session", "w", "--runs-dir", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 2 and "@convert is not an earlier step" in done.stderr, done.stderr


def test_no_key_is_in_what_is_left(made: Path) -> None:
    from pyrust_nn.llama.engine import Engine, EngineSettings

    with Engine(EngineSettings(str(file_of(made, "gguf")), 512)) as engine:
        assert engine.key.encode() not in Path(f"/proc/{engine._process.pid}/cmdline").read_bytes()
        assert engine.key.encode() not in Path(f"/proc/{engine._process.pid}/environ").read_bytes()
        connection = http.client.HTTPConnection(engine._host, engine._port)
        connection.request("POST", "/completion", b'{"prompt": "x", "n_predict": 1}', {"Authorization": "Bearer wrong"})
        assert connection.getresponse().status == 401
