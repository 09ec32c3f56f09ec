"""Importance matrices: equal to the inputs that torch multiplies with when transformers runs each row alone, and used by conversion."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from test_gguf import File, make_adapter, make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn import InputError, ModelError, UsageError

Cli = Callable[..., subprocess.CompletedProcess[str]]
CONVERSATIONS = [
    [{"role": "user", "content": "What is two and two?"}, {"role": "assistant", "content": "Four, as every child knows. " * times}]
    for times in (1, 4, 9)
]
ARCHITECTURES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "qwen3_5_text": gguf.MODEL_ARCH.QWEN35,
}


@pytest.fixture(scope="session")
def tiny(cache: Path) -> Path:
    from pyrust_nn.models.tiny import tiny_model_folder

    return tiny_model_folder()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"messages": messages} for messages in CONVERSATIONS]))
    return path


@pytest.fixture
def make(tmp_path: Path, tiny: Path) -> Callable[[str], Path]:
    def made(kind: str) -> Path:
        folder = make_model(tmp_path / kind, tiny, kind, torch.float32)
        # Weights of unit variance make a softmax choose one token, where float32 tells little.
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1 and "embed" not in name:
                    parameter.mul_(0.1)
        model.save_pretrained(folder)
        return folder

    return made


@contextmanager
def multiplied() -> Iterator[dict[tuple[int, int], list[torch.Tensor]]]:
    """The inputs of every `linear` of torch, by the address of its weights and their number of rows."""
    found = defaultdict(list)
    linear = torch.nn.functional.linear

    def recorded(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        found[weight.data_ptr(), weight.shape[0]].append(inputs.reshape(-1, inputs.shape[-1]).double())
        return linear(inputs, weight, bias)

    torch.nn.functional.linear = recorded
    try:
        yield found
    finally:
        torch.nn.functional.linear = linear


def expected(folder: Path, kind: str, tiny: Path) -> dict[str, list[tuple[np.ndarray, int]]]:
    """For each tensor of llama.cpp's names: sums of squares and count, one for each expert."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with multiplied() as inputs, torch.no_grad():
        for messages in CONVERSATIONS:
            model(**tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True))
    names = gguf.get_tensor_name_map(ARCHITECTURES[kind], model.config.num_hidden_layers)

    def sums(weight: torch.Tensor) -> tuple[np.ndarray, int]:
        met = inputs.get((weight.data_ptr(), weight.shape[0]), [])
        return sum((one.square().sum(0).numpy() for one in met), np.zeros(weight.shape[-1])), sum(map(len, met))

    found = {}
    for name, weight in model.named_parameters():
        if weight.dim() == 3 and name.endswith(("gate_up_proj", "down_proj")):
            for part in ("gate_proj", "up_proj") if "gate_up" in name else ("down_proj",):
                target = names.get_name(name.rsplit(".", 1)[0] + f".{part}.weight", try_suffixes=(".weight",))
                found[target] = [sums(expert) for expert in weight]
        elif weight.dim() == 2 and "embed" not in name and "lm_head" not in name:
            found[names.get_name(name, try_suffixes=(".weight",))] = [sums(weight)]
    return found


def read(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    of = File(file)
    return of.keys, of.numbers


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_moe", "qwen3_moe", "qwen3_5_text"])
def test_it_is_what_each_matrix_is_multiplied_with(
    kind: str, make: Callable[[str], Path], data: Path, tiny: Path, runs: Path, tmp_path: Path
) -> None:
    folder = make(kind)
    summary = pyrust_nn.compute_imatrix("s", str(folder), dataset_path=data, runs_dir=runs)
    keys, numbers = read(runs / "s/compute_imatrix/imatrix.gguf")
    assert {name: keys[name] for name in ("general.type", "imatrix.datasets", "imatrix.chunk_count")} == {
        "general.type": "imatrix",
        "imatrix.datasets": ["d.json"],
        "imatrix.chunk_count": 3,
    }
    # Rows of different lengths were padded in one batch; alone they have no padding.
    wanted = expected(folder, kind, tiny)
    order = None
    if kind == "qwen3_5_text":  # llama.cpp orders the columns of this matrix by other heads
        converted = pyrust_nn.convert_model_to_gguf("s", str(folder), outtype="f32", verify=False, runs_dir=runs)
        weights = File(runs / "s" / converted["outputs"]["gguf"][0]).numbers
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        stored = model.model.layers[0].linear_attn.out_proj.weight.detach().numpy()
        columns = {column.tobytes(): at for at, column in enumerate(np.ascontiguousarray(stored.T))}
        order = [columns[column.tobytes()] for column in np.ascontiguousarray(weights["blk.0.ssm_out.weight"].T)]
        assert order != sorted(order)
    tokens = summary["metrics"]["tokens"]
    compared = 0
    for name, of in wanted.items():
        if name.endswith("ffn_gate_inp.weight") and f"{name}.in_sum2" not in numbers:
            continue  # a router is never quantized
        sums = np.atleast_2d(numbers[f"{name}.in_sum2"])
        counts = numbers[f"{name}.counts"].ravel()
        assert list(counts) == [count for _, count in of], name
        for got, (want, _) in zip(sums, of, strict=True):
            want = want[order] if name.endswith("ssm_out.weight") else want
            assert np.allclose(got, want, rtol=1e-4, atol=1e-5 * max(1.0, want.max())), name
        assert len(of) > 1 or counts[0] == tokens
        compared += 1
    assert compared == summary["metrics"]["matrices"] == len(numbers) // 2
    assert "output.weight.in_sum2" not in numbers, "llama-imatrix leaves the output matrix out too"


def test_an_adapter_counts_as_the_model_that_it_makes(make: Callable[[str], Path], data: Path, runs: Path, tmp_path: Path) -> None:
    base = make("qwen2")
    adapter = make_adapter(tmp_path / "adapter", base)
    pyrust_nn.merge("s", str(adapter), verify=False, runs_dir=runs)
    for step, model in (("a", str(adapter)), ("b", "@merge"), ("base", str(base))):
        pyrust_nn.compute_imatrix("s", model, dataset_path=data, step=step, runs_dir=runs)
    of = {step: read(runs / f"s/{step}/imatrix.gguf")[1] for step in ("a", "b", "base")}
    name = "blk.1.ffn_down.weight.in_sum2"
    assert np.allclose(of["a"][name], of["b"][name], rtol=1e-4)
    assert not np.allclose(of["a"][name], of["base"][name], rtol=1e-2)


def test_conversion_takes_a_step_s_matrix(cli: Cli, data: Path, runs: Path) -> None:
    done = cli("compute-imatrix", "-m", "builtin:tiny", "-d", data, "--session", "s")
    assert done.returncode == 0, done.stderr
    for step, words in (("with", ["--imatrix", "@compute_imatrix"]), ("without", []), ("other", ["--imatrix", "s/compute_imatrix"])):
        done = cli(
            "convert-model-to-gguf", "-m", "builtin:tiny", "--outtype", "q4_k_m", "--session", "s", "--step", step, "--no-verify", *words
        )
        assert done.returncode == 0, done.stderr
    files = {step: next((runs / "s" / step).glob("*.gguf")) for step in ("with", "without", "other")}
    keys = File(files["with"]).keys
    assert keys["quantize.imatrix.file"] == "imatrix.gguf"
    assert keys["quantize.imatrix.dataset"] == "d.json"
    assert keys["quantize.imatrix.chunks_count"] == 3
    assert files["with"].read_bytes() == files["other"].read_bytes() != files["without"].read_bytes()
    inputs = json.loads((runs / "s/with/begun.json").read_text())
    assert "imatrix.gguf" in json.dumps(inputs), "the step records what it depended on"


def test_a_pipeline_computes_and_uses_it(cli: Cli, data: Path, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        f"""[[step]]
task = "compute_imatrix"
model = "builtin:tiny"
dataset_path = "{data}"

[[step]]
task = "convert_model_to_gguf"
model = "builtin:tiny"
outtype = "q2_k_s"
imatrix = "@compute_imatrix"
verify = false
"""
    )
    done = cli("run", tmp_path / "p.toml", "--session", "p")
    assert done.returncode == 0, done.stderr
    assert "quantize.imatrix.file" in File(next((runs / "p/convert_model_to_gguf").glob("*.gguf"))).keys


def test_of_much_data_as_many_tokens_are_used_as_wanted_spread_over_all(runs: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.json"
    turns = [[{"role": "user", "content": f"number {at}"}, {"role": "assistant", "content": "yes"}] for at in range(200)]
    many.write_text(json.dumps([{"messages": messages} for messages in turns]))
    summary = pyrust_nn.compute_imatrix("s", "builtin:tiny", dataset_path=many, imatrix_tokens=500, runs_dir=runs)
    assert 400 < summary["metrics"]["tokens"] <= 500
    assert summary["metrics"]["rows"] > 5
    log = (runs / "s/pipeline.log").read_text()
    assert f"{summary['metrics']['rows']} of 200 rows are used" in log


def test_what_is_none_is_refused_before_the_step(data: Path, runs: Path, tmp_path: Path, make: Callable[[str], Path]) -> None:
    folder = make("qwen2")
    pyrust_nn.convert_model_to_gguf("s", str(folder), outtype="f16", verify=False, runs_dir=runs)
    tries: list[tuple[str, type[Exception], str]] = [
        ("@convert_model_to_gguf", UsageError, "has no output imatrix, it has: gguf; `pyrust-nn compute-imatrix` makes one"),
        (str(folder), InputError, "is a folder; give the file of an importance matrix"),
        ("no.gguf", InputError, "there is no importance matrix no.gguf; `pyrust-nn compute-imatrix` makes one"),
        ("@no", UsageError, "has no step no"),
        (str(folder / "model.safetensors"), ModelError, "is not an importance matrix"),
    ]
    for given, error, words in tries:
        with pytest.raises(error, match=words.replace("(", r"\(")):
            pyrust_nn.convert_model_to_gguf("s", str(folder), outtype="q4_0", imatrix=given, step="x", runs_dir=runs)
        assert not (runs / "s/x").exists()


def test_quantized_weights_have_none(data: Path, runs: Path, make: Callable[[str], Path]) -> None:
    pyrust_nn.quantize_model("s", str(make("qwen2")), bits=8, verify=False, runs_dir=runs)
    with pytest.raises(UsageError, match=r"are quantized by bitsandbytes, and GGUF files are made from plain weights"):
        pyrust_nn.compute_imatrix("s", "@quantize_model", dataset_path=data, runs_dir=runs)


def test_conversion_computes_it_on_a_data_set(cli: Cli, data: Path, runs: Path, tmp_path: Path) -> None:
    long = json.loads(data.read_text())
    long.append({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 4000}]})
    data.write_text(json.dumps(long))
    words = ["convert-model-to-gguf", "-m", "builtin:tiny", "--outtype", "q4_k_m", "--session", "s", "--no-verify"]
    done = cli(*words, "--imatrix", data, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["outputs"]["imatrix"] == "convert_model_to_gguf/imatrix.gguf"
    assert summary["params"]["imatrix"] == str(data)
    assert "imatrix: 1 sample truncated to 2048 tokens" in done.stderr
    # By way of a step of its own it is the same.
    done = cli("compute-imatrix", "-m", "builtin:tiny", "-d", data, "--overlong", "truncate_right", "--session", "s")
    assert done.returncode == 0, done.stderr
    done = cli(*words, "--step", "again", "--imatrix", "@compute_imatrix")
    assert done.returncode == 0, done.stderr
    made = [next((runs / "s" / step).glob("tiny*.gguf")).read_bytes() for step in ("convert_model_to_gguf", "again")]
    assert made[0] == made[1]

    done = cli(*words, "--step", "none", "--imatrix", tmp_path / "no.json")
    assert done.returncode == 2 and "no.json" in done.stderr and not (runs / "s/none").exists()
