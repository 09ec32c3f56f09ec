"""The proof at the end of conversions: what was made passes, a fault fails the step, and GGUF adapters are compared pair by pair."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from test_gguf import make_model
from test_verify import data, failed, proof, rewritten

import pyrust_nn
from pyrust_nn import InputError, ProofError

Summary = dict[str, Any]


def proven(summary: Summary, runs: Path, layers: set[str]) -> None:
    """Every file of a step passes by these layers, and the proof is where it is said to be."""
    assert summary["status"] == "Success"
    assert summary["proof"] == json.loads((runs / summary["session"] / summary["step"] / "proof.json").read_text())
    for one in summary["proof"]:
        assert one["passed"] is True and Path(one["file"]).exists()
        assert {name for name, layer in one["layers"].items() if layer["passed"]} == layers
        assert one["layers"]["logits"]["tokens"] <= 64


ALL = {"bytes", "logits", "prompts", "answers"}


def test_every_conversion_proves_what_it_makes(trained: dict[str, str], runs: Path) -> None:
    given: dict[str, Any] = {"runs_dir": runs}
    proven(pyrust_nn.merge("s", trained["lora"], **given), runs, ALL)
    proven(pyrust_nn.merge("s", trained["lora"], dtype="bf16", step="merge_bf16", **given), runs, ALL)
    for bits in (4, 8, 16):
        proven(pyrust_nn.quantize_model("s", trained["lora"], bits=bits, step=f"q{bits}", **given), runs, ALL)
    proven(pyrust_nn.flatten("s", trained["lora"], **given), runs, ALL)
    made = pyrust_nn.convert_model_to_gguf("s", trained["lora"], outtype=["f16", "q4_k_m"], **given)
    proven(made, runs, ALL)
    assert [Path(one["file"]).name for one in made["proof"]] == [Path(path).name for path in made["outputs"]["gguf"]]
    outtypes = ["f32", "f16", "bf16", "q8_0"]
    proven(pyrust_nn.convert_lora_to_gguf("s", trained["lora"], outtype=outtypes, **given), runs, {"bytes", "logits"})


def test_a_file_that_is_not_the_model_fails_the_step_and_gets_another_name(trained: dict[str, str], runs: Path) -> None:
    """No q8_0 file predicts exactly what the model predicts."""
    with pytest.raises(ProofError, match="1e-12 is allowed") as caught:
        pyrust_nn.convert_model_to_gguf("s", trained["full"], outtype=["f32", "q8_0"], max_kl=1e-12, runs_dir=runs)
    summary: Any = caught.value.summary  # type: ignore[attr-defined]
    assert (summary["status"], summary["error"]["kind"]) == ("Failure", "proof")
    folder = runs / "s/convert_model_to_gguf"
    found = sorted(path.name for path in folder.glob("*.gguf"))
    assert found[-1].endswith(".q8_0.unproven.gguf") and not list(folder.glob("*.q8_0.gguf"))
    assert summary["proof"][1]["file"].endswith(".q8_0.unproven.gguf") and summary["proof"][1]["passed"] is False
    assert gguf.GGUFReader(folder / found[-1]).tensors, "the file is kept whole"


def test_the_proof_can_be_left_out(trained: dict[str, str], runs: Path, cli: Any) -> None:
    summary = pyrust_nn.merge("s", trained["lora"], verify=False, runs_dir=runs)
    assert "proof" not in summary and not (runs / "s/merge/proof.json").exists()
    for index, words in enumerate((["--no-verify"], ["--verify=false"])):
        done = cli("merge", "-m", trained["lora"], "--session", "s", "--step", f"m{index}", *words, "--runs-dir", runs)
        assert done.returncode == 0, done.stderr
        record = json.loads((runs / f"s/m{index}/summary.json").read_text())
        assert record["params"]["verify"] is False and "proof" not in record
    done = cli("merge", "-m", trained["lora"], "--session", "s", "--step", "m", "--verify", "--no-verify", "--runs-dir", runs)
    assert done.returncode == 2 and "--no-verify" in done.stderr
    assert "--no-verify" in cli("merge", "--help").stdout


def test_what_cannot_be_compared_is_said_and_fails_nothing(tmp_path: Path, runs: Path, cache: Path) -> None:
    from pyrust_nn.models.tiny import tiny_model_folder

    folder = make_model(tmp_path / "qwen3_5", tiny_model_folder(), "qwen3_5_text", dtype=torch.float32)
    summary = pyrust_nn.convert_model_to_gguf("s", folder, outtype="f16", runs_dir=runs)
    (one,) = summary["proof"]
    assert not one["layers"]["bytes"]["ran"] and one["passed"] is not False
    assert "is not compared" in (runs / "s/pipeline.log").read_text()


def test_a_template_that_refuses_a_system_message_is_no_fault(trained: dict[str, str], tmp_path: Path, runs: Path) -> None:
    model = tmp_path / "strict"
    shutil.copytree(trained["full"], model)
    template = (model / "chat_template.jinja").read_text()
    strict = "{% if messages[0]['role'] == 'system' and not messages[0]['content'].startswith('You are') %}"
    (model / "chat_template.jinja").write_text(strict + "{{ raise_exception('no system message here') }}{% endif %}" + template)
    summary = pyrust_nn.quantize_model("s", model, bits=16, runs_dir=runs)
    proven(summary, runs, ALL)
    assert summary["proof"][0]["layers"]["prompts"]["conversations"] == 4, "three of the built-in ones, and the vocabulary's words"


@pytest.fixture(scope="module")
def adapter(trained: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good GGUF adapter."""
    runs = tmp_path_factory.mktemp("adapter")
    made = pyrust_nn.convert_lora_to_gguf("s", trained["lora"], verify=False, runs_dir=runs)
    return runs / "s" / made["outputs"]["gguf"][0]


def test_verify_proves_a_gguf_adapter_against_the_adapter_alone(adapter: Path, trained: dict[str, str], runs: Path) -> None:
    layers = proof(adapter, trained["lora"], runs)
    assert layers["bytes"]["passed"] and layers["logits"]["passed"]
    assert layers["logits"]["from_base_kl"] == pytest.approx(layers["logits"]["reference_from_base_kl"], rel=0.01)
    with pytest.raises(InputError, match="is an adapter, and"):
        pyrust_nn.verify("s", trained["full"], candidate=adapter, step="whole", runs_dir=runs)


def test_a_gguf_adapter_at_half_strength(adapter: Path, trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    alpha = gguf.GGUFReader(adapter).fields["adapter.lora.alpha"].contents()
    why = failed(rewritten(adapter, tmp_path / "half.gguf", adapter__lora__alpha=alpha / 2), trained["lora"], runs)
    assert {"bytes", "logits"} <= set(why)


def test_a_gguf_adapter_with_one_row_of_zeros(adapter: Path, trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "planted.gguf"
    shutil.copy(adapter, path)
    reader = gguf.GGUFReader(path, "r+")
    data(reader, "blk.1.ffn_up.weight.lora_b")[7] = 0
    reader.data.flush()
    assert "row 7 of blk.1.ffn_up.weight" in failed(path, trained["lora"], runs)["bytes"]


def test_a_gguf_adapter_without_one_pair(adapter: Path, trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    lacking = rewritten(adapter, tmp_path / "one.gguf", without="blk.0.attn_q.weight.lora_a")
    lacking = rewritten(lacking, tmp_path / "both.gguf", without="blk.0.attn_q.weight.lora_b")
    assert "blk.0.attn_q.weight is absent" in failed(lacking, trained["lora"], runs)["bytes"]


def test_pairs_of_an_embedding_are_compared(tmp_path: Path, runs: Path, cache: Path) -> None:
    """llama.cpp looks rows of an embedding's A up, so the file has its transpose."""
    import peft
    from transformers import AutoModelForCausalLM

    from pyrust_nn.models.tiny import tiny_model_folder

    base = make_model(tmp_path / "base", tiny_model_folder(), "qwen2", dtype=torch.float32, tie_word_embeddings=False)
    torch.manual_seed(2)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"], use_rslora=True, init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(tmp_path / "adapter")
    for name in base.iterdir():
        if "token" in name.name:
            shutil.copy(name, tmp_path / "adapter")
    summary = pyrust_nn.convert_lora_to_gguf("s", tmp_path / "adapter", base_model=str(base), outtype="f32", runs_dir=runs)
    proven(summary, runs, {"bytes", "logits"})
    path = runs / "s" / summary["outputs"]["gguf"][0]
    reader = gguf.GGUFReader(path, "r+")
    data(reader, "token_embd.weight.lora_a")[11] *= np.float32(1.5)
    reader.data.flush()
    assert "row 11 of token_embd.weight" in failed(path, tmp_path / "adapter", runs, base_model=str(base))["bytes"]


def test_an_answer_that_rounding_makes_longer_is_no_fault_if_the_model_s_own_is_ended() -> None:
    from pyrust_nn.proof.answers import MAX_TOKENS, Answer, answers_layer

    prompts, model = [[1, 2], [3]], [Answer([7, 8], True), Answer([9], True)]
    longer = [Answer([7, 8], True), Answer([5] * 2 * MAX_TOKENS, False)]
    asked: list[list[int]] = []

    def ask(again: list[list[int]], ended: bool) -> list[Answer]:
        asked.extend(again)
        return [Answer([], ended)]

    layer = answers_layer(prompts, model, longer, lambda again: ask(again, True))
    assert layer["passed"] and asked == [[3, 9]] and (layer["ended"], layer["equal"], layer["first_difference"]) == (1, 1, [None, 0])
    layer = answers_layer(prompts, model, longer, lambda again: ask(again, False))
    assert not layer["passed"] and "answer 1 does not end" in layer["why"]
