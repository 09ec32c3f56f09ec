"""Quantization: the new folder is smaller, loads with plain transformers, and gives the trained answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import pyrust_nn


def weights_size(folder: Path | str) -> int:
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def hashes(folder: str) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder).iterdir()}


def wrong_answers(folder: Path, conversations: Any) -> list[str]:
    """Those of the sample's last answers that plain transformers does not get from the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    wrong = []
    for *asked, answer in conversations:
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**ids.to(model.device), max_new_tokens=256)
        text = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        if text != answer["content"]:
            wrong.append(text)
    return wrong


@pytest.mark.parametrize("which", ["full", "lora"])
@pytest.mark.parametrize(("bits", "at_least"), [(4, 2.5), (8, 2.0), (16, 1.9)])
def test_the_smaller_model_answers_in_plain_transformers(
    trained: dict[str, str], conversations: Any, runs: Path, which: str, bits: int, at_least: float
) -> None:
    before = hashes(trained[which])
    summary = pyrust_nn.quantize_model("s", trained[which], bits=bits, verify=False, runs_dir=runs)
    folder = runs / "s" / summary["outputs"]["model"]
    assert wrong_answers(folder, conversations) == []
    assert hashes(trained[which]) == before, "the model that it was made from is untouched"

    metrics = summary["metrics"]
    assert metrics["size_before_bytes"] == pytest.approx(weights_size(trained["full"]), rel=0.001)
    assert metrics["size_after_bytes"] == weights_size(folder)
    assert metrics["ratio"] == pytest.approx(metrics["size_before_bytes"] / metrics["size_after_bytes"], abs=0.001)
    assert metrics["ratio"] > at_least
    assert [path.name for path in (runs / "s" / "quantize_model").glob(".*")] == [], "temporary files are left"


def test_the_quantized_folder_is_answered_by_inference(trained: dict[str, str], conversations: Any, runs: Path) -> None:
    pyrust_nn.quantize_model("s", trained["full"], bits=8, verify=False, runs_dir=runs)
    prompts = [messages[:-1] for messages in conversations]
    result = pyrust_nn.inference("s", runs / "s" / "quantize_model", prompt=prompts, runs_dir=runs)["result"]
    assert [answer["text"] for answer in result] == [messages[-1]["content"] for messages in conversations]


def test_4_bit_is_nf4_and_8_bit_is_int8(trained: dict[str, str], runs: Path) -> None:
    for bits, layer in ((4, "Linear4bit"), (8, "Linear8bitLt")):
        summary = pyrust_nn.quantize_model("s", trained["full"], bits=bits, step=f"q{bits}", verify=False, runs_dir=runs)
        model = AutoModelForCausalLM.from_pretrained(runs / "s" / summary["outputs"]["model"])
        in_blocks = [module for name, module in model.named_modules() if ".layers." in name and name.endswith("proj")]
        assert len(in_blocks) == 14 and {type(module).__name__ for module in in_blocks} == {layer}
    four = load_file(runs / "s/q4/model/model.safetensors")
    assert any("quant_state.bitsandbytes__nf4" in name for name in four)


@pytest.mark.parametrize(("quant_type", "double_quant"), [("nf4", True), ("fp4", False), ("fp4", True)])
def test_4_bit_is_what_bitsandbytes_makes_of_each_matrix(
    trained: dict[str, str], conversations: Any, runs: Path, quant_type: str, double_quant: bool
) -> None:
    """Also its proof, which is on."""
    plain = pyrust_nn.quantize_model("s", trained["full"], step="plain", verify=False, runs_dir=runs)
    summary = pyrust_nn.quantize_model("s", trained["full"], quant_type=quant_type, double_quant=double_quant, runs_dir=runs)
    assert summary["proof"][0]["passed"] is True
    worst = summary["proof"][0]["layers"]["bytes"]["worst"]
    assert worst["type"] == quant_type.upper() + (" double" if double_quant else "")
    folder = runs / "s" / summary["outputs"]["model"]
    stored = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (stored["bnb_4bit_quant_type"], stored["bnb_4bit_use_double_quant"]) == (quant_type, double_quant)
    smaller = summary["metrics"]["size_after_bytes"] < plain["metrics"]["size_after_bytes"]
    assert smaller == double_quant

    model = AutoModelForCausalLM.from_pretrained(folder)
    before = load_file(Path(trained["full"]) / "model.safetensors")
    for name, module in model.named_modules():
        if ".layers." in name and name.endswith("proj"):
            weight = before[f"{name}.weight"]
            wanted = bnb.functional.dequantize_4bit(
                *bnb.functional.quantize_4bit(weight, blocksize=64, compress_statistics=double_quant, quant_type=quant_type)
            )
            found = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            assert torch.equal(wanted.float(), found.float()), name
    assert wrong_answers(folder, conversations) == []


def test_settings_of_4_bits_need_4_bits(trained: dict[str, str], runs: Path) -> None:
    for given, words in (
        ({"double_quant": True}, "double_quant is for 4 bits, and bits is 8"),
        ({"quant_type": "fp4"}, "quant_type is for"),
    ):
        with pytest.raises(pyrust_nn.UsageError, match=words):
            pyrust_nn.quantize_model("s", trained["full"], bits=8, runs_dir=runs, **given)
    assert not (runs / "s").exists()


def test_16_bit_is_a_cast_of_every_weight(trained: dict[str, str], runs: Path) -> None:
    summary = pyrust_nn.quantize_model("s", trained["full"], bits=16, verify=False, runs_dir=runs)
    before = load_file(Path(trained["full"]) / "model.safetensors")
    after = load_file(runs / "s" / summary["outputs"]["model"] / "model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight.bfloat16()), name
    assert "quantization_config" not in (runs / "s" / "quantize_model/model/config.json").read_text()


def test_tokenizer_template_and_generation_config_come_along(trained: dict[str, str], runs: Path) -> None:
    summary = pyrust_nn.quantize_model("s", trained["full"], bits=8, verify=False, runs_dir=runs)
    folder = runs / "s" / summary["outputs"]["model"]
    ours, theirs = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(trained["full"])
    assert ours.get_vocab() == theirs.get_vocab() and ours.chat_template == theirs.chat_template
    stops = AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id
    assert set(theirs.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])) <= set(stops)


def test_an_adapter_is_merged_before_it_is_quantized(trained: dict[str, str], runs: Path) -> None:
    """The same bytes as from the merged folder."""
    pyrust_nn.merge("s", trained["lora"], verify=False, runs_dir=runs)
    for step, model in (("of_adapter", trained["lora"]), ("of_merged", runs / "s" / "merge")):
        pyrust_nn.quantize_model("s", model, bits=4, step=step, verify=False, runs_dir=runs)
    one, other = (load_file(runs / "s" / step / "model/model.safetensors") for step in ("of_adapter", "of_merged"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_quantized_model_is_not_quantized_again(trained: dict[str, str], runs: Path) -> None:
    pyrust_nn.quantize_model("s", trained["full"], bits=8, step="once", verify=False, runs_dir=runs)
    with pytest.raises(pyrust_nn.UsageError, match=r"already quantized.*from which it was made"):
        pyrust_nn.quantize_model("s", runs / "s" / "once", bits=4, step="twice", verify=False, runs_dir=runs)
    assert not (runs / "s" / "twice" / "model").exists()


def test_an_adapter_on_a_quantized_base_cannot_be_merged(trained: dict[str, str], runs: Path, tmp_path: Path) -> None:
    import json
    import shutil

    pyrust_nn.quantize_model("s", trained["full"], bits=4, verify=False, runs_dir=runs)
    adapter = shutil.copytree(trained["lora"], tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(runs / "s" / "quantize_model" / "model")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(pyrust_nn.InputError, match=r"quantized.*plain weights"):
        pyrust_nn.merge("s", adapter, verify=False, runs_dir=runs)
