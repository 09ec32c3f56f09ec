"""`verify`: good files of several types are proven, and each planted fault is found, in the layer that must find it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from libgguf import quantize_rows
from safetensors.torch import load_file, save_file
from test_gguf import make_model

import pyrust_nn
from pyrust_nn import InputError, ProofError, UsageError
from pyrust_nn.proof.row_bounds import row_bounds

OUTTYPES = ["f16", "bf16", "q8_0", "q4_k_m"]


@pytest.fixture(scope="module")
def made(trained: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUF files of the trained model by type, its adapter merged (`merge`) and as a GGUF file (`adapter`), and the step (`step`)."""
    runs, given = tmp_path_factory.mktemp("made"), {"verify": False}
    summary = pyrust_nn.convert_model_to_gguf("m", trained["full"], outtype=OUTTYPES, runs_dir=runs, **given)
    files = [runs / "m" / path for path in summary["outputs"]["gguf"]]
    merge = pyrust_nn.merge("m", trained["lora"], runs_dir=runs, **given)
    adapter = pyrust_nn.convert_model_to_gguf("m", trained["lora"], step="adapter", runs_dir=runs, **given)
    return {
        **dict(zip(OUTTYPES, files, strict=True)),
        "merge": runs / "m" / merge["outputs"]["model"],
        "adapter": runs / "m" / adapter["outputs"]["gguf"][0],
        "step": runs / "m/convert_model_to_gguf",
    }


def proof(candidate: Path | str, model: Path | str, runs: Path, **params: Any) -> dict[str, Any]:
    """The layers of a candidate that passes."""
    summary = pyrust_nn.verify("s", model, candidate=candidate, runs_dir=runs, **params)
    assert summary["proof"] == json.loads((runs / "s" / summary["outputs"]["proof"]).read_text())
    (one,) = summary["proof"]
    assert one["passed"] and one["file"] == str(Path(candidate).resolve())
    layers: dict[str, Any] = one["layers"]
    return layers


def failed(candidate: Path | str, model: Path | str, runs: Path, **params: Any) -> dict[str, str]:
    """Why each layer failed that did, of a candidate that must fail. The proof is in the summary and in proof.json all the same."""
    with pytest.raises(ProofError) as caught:
        pyrust_nn.verify("s", model, candidate=candidate, runs_dir=runs, **params)
    summary: Any = caught.value.summary  # type: ignore[attr-defined]
    assert (summary["status"], summary["error"]["kind"]) == ("Failure", "proof")
    assert summary["proof"] == json.loads((runs / "s" / summary["outputs"]["proof"]).read_text())
    (one,) = summary["proof"]
    assert not one["passed"]
    why = {name: layer["why"] for name, layer in one["layers"].items() if layer["passed"] is False}
    assert next(iter(why.values())).split(";")[0] in str(caught.value)
    return why


# Good files


@pytest.mark.parametrize("outtype", OUTTYPES)
def test_a_gguf_file_is_proven(made: dict[str, Path], trained: dict[str, str], runs: Path, outtype: str) -> None:
    layers = proof(made[outtype], trained["full"], runs)
    assert list(layers) == ["bytes", "logits", "prompts", "answers"]
    assert all(layer["ran"] and layer["passed"] for layer in layers.values()), layers
    stored = layers["bytes"]
    assert stored["tensors"] == len(load_file(Path(trained["full"]) / "model.safetensors"))
    assert 0 < stored["worst"]["error"] < stored["worst"]["bound"] < 0.5
    logits = layers["logits"]
    assert 0 < logits["mean_kl"] <= logits["p999_kl"] <= logits["max_kl"]
    assert logits["mean_kl"] < logits["max_allowed_kl"] and logits["top1"] > 0.9
    assert logits["perplexity"] > 1 and 16 < logits["tokens"] <= 512
    prompts = layers["prompts"]
    assert prompts["conversations"] == prompts["equal"] == 5
    assert layers["answers"]["prompts"] == 4


@pytest.mark.parametrize("kind", ["qwen3", "qwen2_moe", "qwen3_moe"])
def test_other_families_are_proven(runs: Path, tmp_path: Path, cache: Path, kind: str) -> None:
    """Heads of their own width, norms of queries and keys, an output matrix, and stacked experts."""
    from pyrust_nn.models.tiny import tiny_model_folder

    # llama.cpp normalizes the weights of the chosen experts of Qwen3, and not those of Qwen2.
    more = {"norm_topk_prob": True} if kind == "qwen3_moe" else {}
    folder = make_model(tmp_path / kind, tiny_model_folder(), kind, dtype=torch.float32, tie_word_embeddings=False, **more)
    summary = pyrust_nn.convert_model_to_gguf("s", folder, outtype="f32", runs_dir=runs)
    layers = proof(runs / "s" / summary["outputs"]["gguf"][0], folder, runs)
    assert all(layers[name]["passed"] for name in ("bytes", "logits", "prompts")), layers
    if more:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"norm_topk_prob": False}))
        path = summary["outputs"]["gguf"][0]
        assert "logits" in failed(runs / "s" / path, folder, runs, step="again"), "llama.cpp would compute another model"


def test_figures_are_those_of_transformers(made: dict[str, Path], trained: dict[str, str], runs: Path, data_json: str) -> None:
    """Perplexity and divergence on a data set of one's own, against a computation that shares only transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    layers = proof(made["q8_0"], trained["full"], runs, dataset_path=data_json, verify_tokens=300)
    tokenizer = AutoTokenizer.from_pretrained(trained["full"])
    model = AutoModelForCausalLM.from_pretrained(trained["full"], dtype=torch.float32)
    quantized = AutoModelForCausalLM.from_pretrained(trained["full"], dtype=torch.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    with torch.no_grad():
        for parameter in quantized.parameters():
            if parameter.dim() == 2:
                raw = gguf.quants.quantize(parameter.numpy(), kind)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(raw, kind)))
    losses, divergences, room = [], [], 300
    for one in json.loads(Path(data_json).read_text(encoding="utf-8")):
        text = tokenizer.apply_chat_template(one["messages"], tokenize=False)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"][:, :room]
        with torch.no_grad():
            p, q = (made_by(ids).logits[0, :-1].double().log_softmax(-1) for made_by in (model, quantized))
        losses += p.gather(1, ids[0, 1:, None]).neg()[:, 0].tolist()
        divergences += torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).tolist()
        room -= ids.shape[1]
        if room < 2:
            break
    logits = layers["logits"]
    assert logits["tokens"] == len(losses)
    assert logits["reference_perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert logits["mean_kl"] == pytest.approx(np.mean(divergences), rel=0.02)
    answers = layers["answers"]
    assert answers["prompts"] == answers["reference_ended"] == answers["ended"] == answers["equal"] == 2, "learnt answers end"


def test_a_merged_model_is_the_adapter_with_its_base(made: dict[str, Path], trained: dict[str, str], runs: Path) -> None:
    layers = proof(made["merge"], trained["lora"], runs)
    assert all(layer["passed"] for layer in layers.values())
    assert layers["logits"]["mean_kl"] < 1e-5 < layers["logits"]["reference_from_base_kl"]
    assert layers["answers"]["equal"] == 4


def test_a_file_of_an_adapter_is_proven(made: dict[str, Path], trained: dict[str, str], runs: Path) -> None:
    layers = proof(made["adapter"], trained["lora"], runs)
    assert all(layer["passed"] for layer in layers.values())


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_is_proven(trained: dict[str, str], runs: Path, bits: int) -> None:
    pyrust_nn.quantize_model("s", trained["full"], bits=bits, runs_dir=runs)
    layers = proof(runs / "s/quantize_model/model", trained["full"], runs)
    assert layers["bytes"]["worst"]["type"] == {4: "NF4", 8: "INT8"}[bits]


def test_a_flattened_adapter_is_the_stack(trained: dict[str, str], runs: Path, sample: dict[str, dict[str, Any]]) -> None:
    lora = {name: value for name, value in sample["finetune_lora"].items() if name != "model"} | {"num_epochs": 1}
    stack = pyrust_nn.finetune_lora(
        "s", trained["full"], **lora, checkpoint_lora=trained["lora"], checkpoint_mode="stack", step="two", runs_dir=runs
    )
    flat = pyrust_nn.flatten("s", runs / "s" / stack["outputs"]["adapter"], runs_dir=runs)
    folder = runs / "s" / flat["outputs"]["adapter"]
    layers = proof(folder, runs / "s" / stack["outputs"]["adapter"], runs)
    assert layers["bytes"]["passed"] and layers["logits"]["mean_kl"] < 1e-5
    assert "bytes" in failed(folder, trained["lora"], runs, step="again")


def test_a_step_s_files_are_proven_together(made: dict[str, Path], trained: dict[str, str], runs: Path) -> None:
    summary = pyrust_nn.verify("s", trained["full"], candidate=made["step"], runs_dir=runs)
    assert [Path(one["file"]).name.split(".")[-2] for one in summary["proof"]] == sorted(OUTTYPES)
    assert summary["metrics"]["files"] == summary["metrics"]["proven_files"] == len(OUTTYPES)


# Bounds of rows, against ggml's own encoders

KINDS = ["F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q4_1", "Q5_1", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS"]


def samples() -> Iterator[torch.Tensor]:
    """Rows of different distributions, as float16 holds them."""
    noise = torch.Generator().manual_seed(3)
    normal = torch.randn(40, 512, generator=noise)
    yield normal
    yield normal * torch.logspace(-3, 0, 512)
    yield normal**3
    yield normal * 1e-6
    yield torch.rand(40, 512, generator=noise) - 0.5
    yield torch.rand(40, 512, generator=noise) + 0.5
    yield torch.where(torch.arange(512) == 5, 60.0, 1.0) * normal * 0.02
    yield (torch.arange(512) % 37 == 0).float().expand(40, 512)
    yield torch.full((40, 512), 0.3)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("kind", KINDS)
def test_ggml_s_rows_are_within_their_bounds_and_zeros_are_not(kind: str, weighted: bool) -> None:
    number = gguf.GGMLQuantizationType[kind]
    for rows in samples():
        rows = rows.half().float().contiguous()
        if kind in ("F16", "BF16"):
            raw = gguf.quants.quantize(rows.numpy(), number)
        else:
            weights = np.random.default_rng(4).standard_normal(512).astype(np.float32) ** 2 if weighted else None
            raw = np.asarray(quantize_rows(rows.numpy(), number, weights)).view(np.uint8).reshape(40, -1)
        found = torch.from_numpy(np.array(gguf.quants.dequantize(raw, number), dtype=np.float32)).reshape(rows.shape)
        bounds = row_bounds(rows, kind, importance=weighted)
        errors = (found - rows).norm(dim=1) / rows.norm(dim=1)
        assert (errors <= bounds).all(), f"{float((errors / bounds).max())} of the bound"
        if float(rows.abs().max()) > 1e-3:
            assert (bounds < 1).all(), "a row of zeros has the error 1"


# Planted faults


@pytest.fixture
def planted(made: dict[str, Path], tmp_path: Path) -> Callable[[str], tuple[Path, gguf.GGUFReader]]:
    """`planted(outtype)`: a copy of a good file, and a reader through whose arrays the copy is changed."""

    def copy(outtype: str) -> tuple[Path, gguf.GGUFReader]:
        path = tmp_path / "planted.gguf"
        shutil.copy(made[outtype], path)
        return path, gguf.GGUFReader(path, "r+")

    return copy


def data(reader: gguf.GGUFReader, name: str) -> np.ndarray:
    (found,) = [tensor.data for tensor in reader.tensors if tensor.name == name]
    return found


def rewritten(source: Path, target: Path, without: str = "", **keys: Any) -> Path:
    """A copy of a file without a tensor, or with other values of keys; dots in their names are double underscores here."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = keys.get(name.replace(".", "__"), field.contents())
        writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        if tensor.name != without:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_shape=tensor.data.shape, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("outtype", OUTTYPES)
def test_one_row_of_zeros(planted: Callable[[str], Any], trained: dict[str, str], runs: Path, outtype: str) -> None:
    path, reader = planted(outtype)
    data(reader, "blk.1.ffn_down.weight")[77] = 0
    reader.data.flush()
    assert "row 77 of blk.1.ffn_down.weight" in failed(path, trained["full"], runs)["bytes"]


def test_two_tensors_swapped(planted: Callable[[str], Any], trained: dict[str, str], runs: Path) -> None:
    path, reader = planted("q8_0")
    one, two = data(reader, "blk.0.ffn_up.weight"), data(reader, "blk.0.ffn_gate.weight")
    one[:], two[:] = two.copy(), one.copy()
    reader.data.flush()
    why = failed(path, trained["full"], runs)
    assert "blk.0.ffn_" in why["bytes"] and "(512 rows differ)" in why["bytes"]


def test_a_transposed_tensor(planted: Callable[[str], Any], trained: dict[str, str], runs: Path) -> None:
    path, reader = planted("f16")
    square = data(reader, "blk.0.attn_q.weight")
    square[:] = square.T.copy()
    reader.data.flush()
    assert "blk.0.attn_q.weight" in failed(path, trained["full"], runs)["bytes"]


def test_a_number_that_is_not_finite(planted: Callable[[str], Any], trained: dict[str, str], runs: Path) -> None:
    path, reader = planted("f16")
    data(reader, "blk.0.attn_q.weight")[3, 4] = np.nan
    reader.data.flush()
    why = failed(path, trained["full"], runs)
    assert "not finite" in why["bytes"] and "logits" in why


def test_a_wrong_rope_base(made: dict[str, Path], trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    path = rewritten(made["f16"], tmp_path / "rope.gguf", qwen2__rope__freq_base=20000.0)
    why = failed(path, trained["full"], runs)
    assert "bytes" not in why, "the weights are right"
    assert "diverge" in why["logits"]


@pytest.mark.parametrize("tensor", ["blk.1.attn_k.bias", "blk.0.ffn_norm.weight"])
def test_an_absent_tensor(made: dict[str, Path], trained: dict[str, str], runs: Path, tmp_path: Path, tensor: str) -> None:
    why = failed(rewritten(made["f16"], tmp_path / "absent.gguf", without=tensor), trained["full"], runs)
    assert f"{tensor} is absent" in why["bytes"]
    assert "norm" not in tensor or "llama.cpp could not load" in why["logits"]


def test_the_adapter_left_out(made: dict[str, Path], trained: dict[str, str], runs: Path) -> None:
    why = failed(made["f16"], trained["lora"], runs)
    assert {"bytes", "logits"} <= set(why)


def test_the_adapter_at_half_strength(made: dict[str, Path], trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(made["merge"], half)
    base, merged = (load_file(Path(folder) / "model.safetensors") for folder in (trained["full"], made["merge"]))
    save_file({name: (base[name] + merged[name]) / 2 for name in merged}, half / "model.safetensors", metadata={"format": "pt"})
    assert {"bytes", "logits"} <= set(failed(half, trained["lora"], runs))


def test_a_wrong_end_token(made: dict[str, Path], trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    path = rewritten(made["f16"], tmp_path / "end.gguf", tokenizer__ggml__eos_token_id=11, tokenizer__ggml__eot_token_id=11)
    why = failed(path, trained["full"], runs)
    assert "an answer ends with token 1279, but the file stops at [11]" in why["prompts"]
    assert not {"bytes", "logits"} & set(why)


def test_a_wrong_template(made: dict[str, Path], trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    template = gguf.GGUFReader(made["f16"]).fields["tokenizer.chat_template"].contents().replace("helpful", "useless")
    path = rewritten(made["f16"], tmp_path / "template.gguf", tokenizer__chat_template=template)
    why = failed(path, trained["full"], runs)
    assert list(why) == ["prompts"] and "conversation 0 becomes other tokens" in why["prompts"]


def test_a_wrong_pre_tokenizer_and_merges_cut_short(made: dict[str, Path], trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    merges = gguf.GGUFReader(made["f16"]).fields["tokenizer.ggml.merges"].contents()
    for name, keys in {"pre": {"tokenizer__ggml__pre": "gpt-2"}, "merges": {"tokenizer__ggml__merges": merges[: len(merges) // 2]}}.items():
        why = failed(rewritten(made["f16"], tmp_path / f"{name}.gguf", **keys), trained["full"], runs)
        assert "becomes other tokens" in why["prompts"], name


# Gates, and what cannot be proven


def test_the_gate_can_be_chosen(made: dict[str, Path], trained: dict[str, str], runs: Path) -> None:
    assert "1e-09 is allowed" in failed(made["q4_k_m"], trained["full"], runs, max_kl=1e-9)["logits"]


def test_without_llama_cpp_the_other_layers_run(
    made: dict[str, Path], trained: dict[str, str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "xllamacpp" else find(name, *more))
    layers = proof(made["f16"], trained["full"], runs)
    for name in ("prompts", "answers"):
        assert (layers[name]["ran"], layers[name]["passed"]) == (False, None)
        assert "install pyrust-nn[llama]" in layers[name]["why"]
    assert layers["bytes"]["passed"] and layers["logits"]["passed"]


def test_the_command_line_fails_with_1_and_names_the_row(
    planted: Callable[[str], Any], trained: dict[str, str], runs: Path, cli: Any
) -> None:
    path, reader = planted("q8_0")
    data(reader, "token_embd.weight")[5] = 0
    reader.data.flush()
    done = cli("verify", path, "--model", trained["full"], "--session", "s", "--runs-dir", runs)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("row 5 of token_embd.weight (Q8_0) differs by 1 of its length") == 1, done.stderr


def test_what_cannot_be_a_candidate(made: dict[str, Path], trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    (tmp_path / "half.gguf").write_bytes(made["f16"].read_bytes()[:5000])
    (tmp_path / "a.txt").write_text("no model")
    for name, words in {"half.gguf": "not a complete GGUF file", "a.txt": "not a GGUF file"}.items():
        with pytest.raises(InputError, match=words):
            pyrust_nn.verify("s", trained["full"], candidate=tmp_path / name, runs_dir=runs)
    pyrust_nn.quantize_model("s", trained["full"], bits=8, runs_dir=runs)
    with pytest.raises(InputError, match="is quantized, so it proves nothing"):
        pyrust_nn.verify("s", "@quantize_model", candidate=made["f16"], runs_dir=runs)
    with pytest.raises(UsageError, match="candidate"):
        pyrust_nn.verify("s", trained["full"], runs_dir=runs)  # type: ignore[call-arg]
