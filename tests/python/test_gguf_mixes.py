"""Quantized GGUF files: each tensor's type and bytes are llama-quantize's, and llama.cpp answers with them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import pyrust_nn
from pyrust_nn import ModelError, UsageError, _core
from pyrust_nn.gguf_export.mix import Mix, ModelShape, TypeChoices

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
KQUANTS = SHARED / "gguf-kquants"
# What real-model/make.py makes; its weights are not in `shared`.
REAL = Path(os.environ.get("PYRUST_NN_REAL_MODEL", SHARED / "real-model/qwen2"))
DATA = Path(__file__).resolve().parents[2] / "data.json"
needs_kquants = pytest.mark.skipif(not KQUANTS.is_dir(), reason="llama-quantize's results are not beside this checkout")
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real model is not there: make it by real-model/make.py, and name its folder in PYRUST_NN_REAL_MODEL"
)

REFERENCES = sorted(path.stem for path in KQUANTS.glob("qwen2/*.json"))
PLAIN = [name for name in REFERENCES if not name.endswith(".imatrix")]
WEIGHTED = [name.removesuffix(".imatrix") for name in REFERENCES if name.endswith(".imatrix")]

# Loads files in llama.cpp and prints the answer of each. A process of its own, because a broken file may abort it.
ANSWER = """
import json, sys, xllamacpp
question, *files = sys.argv[1:]
for path in files:
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_predict = path, 256, 48
    params.cpuparams.n_threads, params.warmup = 2, False
    params.sampling.temp = 0
    server = xllamacpp.Server(params)
    request = {"messages": [{"role": "user", "content": question}], "max_tokens": 48, "temperature": 0}
    print("ANSWER " + json.dumps(server.handle_chat_completions(request)["choices"][0]["message"]["content"]), flush=True)
"""


def answers(question: str, *files: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, question, *map(str, files)], capture_output=True, text=True, timeout=600, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line.removeprefix("ANSWER ")) for line in lines if line.startswith("ANSWER ")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    subprocess.run([sys.executable, KQUANTS / "make_model.py", folder], check=True, capture_output=True)
    for file in (SHARED / "qwen2-tokenizer").iterdir():
        shutil.copy(file, folder)
    return folder


def described(path: Path) -> dict[str, tuple[str, str]]:
    """Type and SHA-256 of each tensor. (`gguf`'s reader needs seconds for the vocabulary.)"""
    data = path.read_bytes()
    tensors = _core.gguf_header(path)["tensors"]
    spans = {tensor["name"]: (tensor["type"], tensor["offset"], tensor["bytes"]) for tensor in tensors}
    return {name: (kind, hashlib.sha256(data[start : start + size]).hexdigest()) for name, (kind, start, size) in spans.items()}


def check_references(summary: dict[str, Any], runs: Path, suffix: str) -> None:
    for path in summary["outputs"]["gguf"]:
        outtype = path.split(".")[-2]
        wanted = json.loads((KQUANTS / "qwen2" / f"{outtype}{suffix}.json").read_text())
        found = described(runs / "s" / path)
        assert {tensor["name"]: tensor["type"] for tensor in wanted["tensors"]} == {name: kind for name, (kind, _) in found.items()}, (
            outtype
        )
        wrong = [tensor["name"] for tensor in wanted["tensors"] if found[tensor["name"]][1] != tensor["sha256"]]
        assert not wrong, f"{outtype}: the bytes of {wrong} differ"
        assert _core.gguf_header(runs / "s" / path)["keys"]["general.file_type"] == wanted["file_type"]


@needs_kquants
def test_every_type_is_llama_quantize_s_to_the_last_bit(model: Path, runs: Path) -> None:
    summary = pyrust_nn.convert_model_to_gguf("s", model, outtype=PLAIN, verify=False, runs_dir=runs)
    assert len(summary["outputs"]["gguf"]) == len(PLAIN)
    check_references(summary, runs, "")


@needs_kquants
def test_every_type_with_importance_is_llama_quantize_s_to_the_last_bit(model: Path, runs: Path) -> None:
    imatrix = KQUANTS / "qwen2.imatrix.gguf"
    summary = pyrust_nn.convert_model_to_gguf("s", model, outtype=WEIGHTED, imatrix=imatrix, verify=False, runs_dir=runs)
    check_references(summary, runs, ".imatrix")
    keys = _core.gguf_header(runs / "s" / summary["outputs"]["gguf"][-2])["keys"]
    assert keys["quantize.imatrix.file"] == imatrix.name


@needs_kquants
def test_q2_k_s_needs_importance(model: Path, runs: Path) -> None:
    pyrust_nn.convert_model_to_gguf("s", model, outtype="f16", step="good", verify=False, runs_dir=runs)
    with pytest.raises(pyrust_nn.UsageError, match=r"q2_k_s needs an importance matrix.*give imatrix"):
        pyrust_nn.convert_model_to_gguf("s", model, outtype="q2_k_s", verify=False, runs_dir=runs)
    assert pyrust_nn.list_sessions(runs_dir=runs)[0]["state"] == "success", "a refused attempt leaves the session as it was"


@needs_kquants
def test_types_are_chosen_by_name(model: Path, runs: Path) -> None:
    summary = pyrust_nn.convert_model_to_gguf(
        "s",
        model,
        outtype="Q4_K",
        token_embedding_type="Q8_0",
        tensor_type={"ffn_down": "q5_k", r"blk\.0\.": "F16"},
        verify=False,
        runs_dir=runs,
    )
    (path,) = summary["outputs"]["gguf"]
    assert path.endswith(".q4_k_m.gguf")
    types = {name: kind for name, (kind, _) in described(runs / "s" / path).items()}
    assert types["token_embd.weight"] == "Q8_0"
    assert {types[f"blk.{block}.ffn_down.weight"] for block in range(8)} == {"Q5_K"}  # the first pattern decides
    assert (types["blk.0.attn_q.weight"], types["blk.1.attn_q.weight"]) == ("F16", "Q4_K")


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"tensor_type": {"ffn(": "q4_k"}}, "not a regular expression"),
        ({"tensor_type": {"ffn": "q9"}}, "a type must be one of f32"),
        ({"token_embedding_type": "q9"}, "token_embedding_type must be one of f32"),
        ({"outtype": ["q4_k_x"]}, "outtype must be a non-empty list of f32"),
    ],
)
def test_wrong_choices_are_refused(runs: Path, choice: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        pyrust_nn.convert_model_to_gguf("s", "builtin:tiny", verify=False, runs_dir=runs, **choice)


def test_an_importance_matrix_of_another_model_is_refused(tmp_path: Path, runs: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "imatrix")
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert _core.imatrix_header(tmp_path / "other.gguf")["entries"] == {"blk.0.attn_q.weight": 32}
    with pytest.raises(ModelError, match=r"32 columns for blk\.0\.attn_q\.weight.*another model"):
        pyrust_nn.convert_model_to_gguf("s", "builtin:tiny", outtype="q4_0", imatrix=tmp_path / "other.gguf", verify=False, runs_dir=runs)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 64)
    with pytest.raises(ModelError, match=r"bad\.gguf"):
        pyrust_nn.convert_model_to_gguf(
            "s", "builtin:tiny", outtype="q4_0", imatrix=tmp_path / "bad.gguf", verify=False, runs_dir=runs, step="again"
        )


def test_mixes_of_models_with_experts() -> None:
    """Cases read in llama-quant.cpp: eight experts, many query heads for a key head, and several down projections in a block."""
    names = [
        "output.weight",
        *(f"blk.{block}.{part}.weight" for block in range(16) for part in ("attn_v", "attn_k", "ffn_down_exps", "ffn_down_shexp")),
    ]

    def types(outtype: str, **shape: Any) -> dict[str, str]:
        model = ModelShape(**{"architecture": "qwen2moe", "blocks": 16, "experts": 8, "query_heads_per_key_head": 4, **shape})
        mix = Mix(outtype, model, names, False, TypeChoices())
        return {name: mix.type_of(name, (8, 256, 512), "F16") for name in names}

    eight, many = types("q4_k_m"), types("q4_k_m", experts=60)
    assert (eight["blk.5.attn_v.weight"], eight["blk.5.attn_k.weight"], many["blk.5.attn_k.weight"]) == ("Q8_0", "Q8_0", "Q4_K")
    # By the block's number, not by the count of tensors seen.
    assert [many[f"blk.{block}.ffn_down_exps.weight"] for block in (0, 1, 2, 3, 4, 13, 14)] == [
        "Q6_K",
        "Q6_K",
        "Q4_K",
        "Q4_K",
        "Q6_K",
        "Q6_K",
        "Q6_K",
    ]
    assert many["blk.4.ffn_down_shexp.weight"] == "Q6_K"
    assert types("q2_k", experts=60)["blk.9.attn_v.weight"] == "Q4_K"
    assert types("q2_k", experts=60, query_heads_per_key_head=2)["blk.9.attn_v.weight"] == "Q3_K"
    assert types("q4_k_s", architecture="qwen2", blocks=80, experts=0)["blk.9.attn_v.weight"] == "Q5_K"


def test_llama_cpp_gives_the_learnt_answer(trained: dict[str, str], runs: Path) -> None:
    """The rows of the tiny model are not a multiple of 256, so this also meets every fallback."""
    outtypes = ["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]
    summary = pyrust_nn.convert_model_to_gguf("s", trained["full"], outtype=outtypes, verify=False, runs_dir=runs)
    conversation = json.loads(DATA.read_text(encoding="utf-8"))[0]["messages"]
    (question, answer) = conversation[-2:]
    got = answers(question["content"], *(runs / "s" / path for path in summary["outputs"]["gguf"]))
    assert got[:3] == [answer["content"]] * 3
    assert all(text[:10] == answer["content"][:10] for text in got[3:]), got


@needs_real
def test_llama_cpp_answers_with_every_type(runs: Path) -> None:
    """Rows of 576 are not a multiple of 256, so this also meets every fallback."""
    outtypes = ["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "q3_k_l", "iq4_xs", "iq4_nl", "q5_1", "q4_1", "q4_0"]
    summary = pyrust_nn.convert_model_to_gguf("s", REAL, outtype=outtypes, verify=False, runs_dir=runs)
    files = [runs / "s" / path for path in summary["outputs"]["gguf"]]
    types = {name: kind for name, (kind, _) in described(files[4]).items()}
    assert (types["token_embd.weight"], types["blk.5.attn_q.weight"], types["blk.0.ffn_down.weight"]) == ("Q8_0", "Q5_0", "Q6_K")
    got = dict(zip(outtypes, answers("What is the capital of France?", *files), strict=True))
    # The first token is a near tie (logits 25.33 and 25.24), so any rounding, that of llama.cpp's own products included, may change it.
    assert "Paris" in got["f16"], got
    assert all(got.values()), got
