"""Models and settings of other tools: what is given is used, or left out with a word, or refused with place, cause and fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn.models.generation import end_of_turn, usable_settings
from pyrust_nn.models.model_folder import model_folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tiny model as a user's folder."""
    return Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path / "base"))


# Templates that close a turn with a token of another name than ChatML's, as Gemma, Llama 3 and Mistral do.
TEMPLATES = {
    "<end_of_turn>": "{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}",
    "<|eot_id|>": "{% for m in messages %}{{ '<|head|>' + m['role'] + '\n\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant\n\n' }}{% endif %}",
    "</s>": "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + '</s>' }}{% else %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("end", TEMPLATES)
def test_the_token_that_closes_a_turn_is_a_stop_token_everywhere(end: str, base: Path, runs: Path, data_json: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    # In place of three ordinary tokens, so that the embedding need not grow.
    state = json.loads((base / "tokenizer.json").read_text())
    last = max(entry["id"] for entry in state["added_tokens"])
    config = json.loads((base / "config.json").read_text())
    state["added_tokens"].append(state["added_tokens"][-1] | {"id": last + 1, "content": end})
    (base / "tokenizer.json").write_text(json.dumps(state))
    (base / "chat_template.jinja").write_text(TEMPLATES[end])
    tensors = load_file(base / "model.safetensors")
    tensors["model.embed_tokens.weight"] = torch.cat([tensors["model.embed_tokens.weight"], torch.zeros(2, 256)])
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (base / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 2}))
    index = len(tokenizer)
    assert end_of_turn(base) == end

    given: dict[str, Any] = {"dataset_path": data_json, "num_epochs": 0.1, "runs_dir": runs, "device": "cpu"}
    pyrust_nn.finetune_full("s", base, **given)
    pyrust_nn.finetune_lora("s", base, **given)
    for folder in (runs / "s/finetune_full/model", runs / "s/finetune_lora/adapter"):
        stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        assert stops[0] == index, folder
    pyrust_nn.convert_model_to_gguf("s", runs / "s/finetune_full/model", verify=False, runs_dir=runs)
    import gguf

    path = next((runs / "s/convert_model_to_gguf").glob("*.gguf"))
    reader = gguf.GGUFReader(path)
    assert reader.fields["tokenizer.ggml.eot_token_id"].contents() == index
    assert f"PARAMETER stop {json.dumps(end)}\n" in (path.parent / "Modelfile").read_text()


def test_inference_ends_at_the_token_that_closes_a_turn(base: Path, runs: Path) -> None:
    """A model that only ever says the end: with generation_config.json that names another token it must stop at once."""
    tensors = load_file(base / "model.safetensors")
    end = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("<|im_end|>")
    tensors["model.norm.weight"] = torch.zeros_like(tensors["model.norm.weight"])
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (base / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 5, "suppress_tokens": [index for index in range(1280) if index != end]})
    )
    answer = pyrust_nn.inference("s", base, prompt="Hi", max_new_tokens=9, device="cpu", runs_dir=runs)["result"][0]
    assert (answer["completion_tokens"], answer["finish_reason"]) == (1, "stop")


ODD: dict[str, Any] = {
    "num_beams": 3,
    "num_return_sequences": 2,
    "return_dict_in_generate": True,
    "output_scores": True,
    "temperature": "hot",
    "top_p": 7,
    "top_k": -3,
    "repetition_penalty": 1.2,
    "eos_token_id": [5, "x"],
    "my_own_key": {"a": 1},
    "cache_implementation": "static",
    "transformers_version": "4.1",
    "do_sample": False,
}


def test_a_generation_config_is_used_or_left_out_with_a_word(base: Path, runs: Path, data_json: str) -> None:
    (base / "generation_config.json").write_text(json.dumps(ODD))
    kept, left_out = usable_settings(ODD)
    assert kept == {"num_beams": 3, "repetition_penalty": 1.2, "do_sample": False}
    answer = pyrust_nn.inference("s", base, prompt="Hi", max_new_tokens=6, device="cpu", dtype="fp32", runs_dir=runs)["result"][0]
    log = (runs / "s/pipeline.log").read_text()
    for name in (
        "num_return_sequences",
        "return_dict_in_generate",
        "output_scores",
        "temperature",
        "top_p",
        "top_k",
        "eos_token_id",
        "my_own_key",
    ):
        assert name in log and any(name in said for said in left_out), name
    assert "transformers_version" not in " ".join(left_out)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder("builtin:tiny")), AutoTokenizer.from_pretrained(base)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        expected = model.generate(**ids, num_beams=3, repetition_penalty=1.2, max_new_tokens=6, do_sample=False)
    assert answer["text"] == tokenizer.decode(expected[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    for step, task, more in (
        ("full", pyrust_nn.finetune_full, {"dataset_path": data_json, "num_epochs": 0.1}),
        ("half", pyrust_nn.quantize_model, {"bits": 16}),
        ("gguf", pyrust_nn.convert_model_to_gguf, {}),
    ):
        task("s", base, step=step, device="cpu", runs_dir=runs, **more)
    assert AutoModelForCausalLM.from_pretrained(runs / "s/full/model").generation_config.num_beams == 3


def test_a_stop_string_ends_an_answer(base: Path, runs: Path) -> None:
    free = pyrust_nn.inference("s", base, prompt="Hi", max_new_tokens=12, device="cpu", runs_dir=runs)["result"][0]["text"]
    stop = free[2:5]
    (base / "generation_config.json").write_text(json.dumps({"stop_strings": [stop], "do_sample": False}))
    answer = pyrust_nn.inference("s", base, prompt="Hi", max_new_tokens=12, device="cpu", step="b", runs_dir=runs)["result"][0]
    assert answer["finish_reason"] == "stop" and stop in answer["text"] and len(answer["text"]) < len(free)


def test_a_modelfile_leaves_nothing_to_ollama_s_defaults(base: Path, runs: Path) -> None:
    (base / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.7, "top_k": 20, "stop_strings": ["###"]}))
    pyrust_nn.convert_model_to_gguf("s", base, verify=False, runs_dir=runs)
    text = (runs / "s/convert_model_to_gguf/Modelfile").read_text()
    found = dict(line.split(" ", 2)[1:] for line in text.splitlines() if line.startswith("PARAMETER") and " stop " not in line)
    assert found == {"temperature": "0.7", "top_p": "1.0", "top_k": "20", "min_p": "0.0", "repeat_penalty": "1.0", "num_ctx": "2048"}
    assert 'PARAMETER stop "###"' in text


# Weights


def test_a_folder_with_a_single_file_and_an_index_is_read_as_transformers_reads_it(base: Path, runs: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    shard = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    save_file(shard, base / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    weight_map = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    expected = AutoModelForCausalLM.from_pretrained(base).state_dict()["model.norm.weight"]
    pyrust_nn.convert_model_to_gguf("s", base, verify=False, runs_dir=runs)
    import gguf

    reader = gguf.GGUFReader(next((runs / "s/convert_model_to_gguf").glob("*.gguf")))
    (norm,) = (tensor for tensor in reader.tensors if tensor.name == "output_norm.weight")
    assert torch.equal(torch.from_numpy(norm.data.copy()), expected)
    pyrust_nn.quantize_model("s", base, bits=16, device="cpu", verify=False, runs_dir=runs)
    smaller = load_file(runs / "s/quantize_model/model/model.safetensors")
    assert torch.equal(smaller["model.norm.weight"], expected.bfloat16())


def test_the_dtype_is_that_of_the_weights_not_of_the_configuration(base: Path, runs: Path, data_json: str) -> None:
    config = json.loads((base / "config.json").read_text())
    for word in ("bfloat16", None):
        (base / "config.json").write_text(json.dumps(config | {"dtype": word}))
        step = f"of-{word}"
        pyrust_nn.finetune_full("s", base, dataset_path=data_json, num_epochs=0.1, device="cpu", step=step, runs_dir=runs)
        assert load_file(runs / f"s/{step}/model/model.safetensors")["model.norm.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [({"num_hidden_layers": 1}, "num_hidden_layers"), ({"intermediate_size": 384}, "config.json"), ({"vocab_size": 1300}, "config.json")],
)
def test_a_configuration_of_another_model_is_refused_before_anything_is_written(
    change: dict[str, int], said: str, base: Path, runs: Path, data_json: str
) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | change))
    for step, task, more in (
        ("a", pyrust_nn.quantize_model, {"bits": 16}),
        ("b", pyrust_nn.convert_model_to_gguf, {}),
        ("c", pyrust_nn.finetune_full, {"dataset_path": data_json, "num_epochs": 0.1}),
        ("d", pyrust_nn.inference, {"prompt": "Hi"}),
    ):
        with pytest.raises(pyrust_nn.InputError, match=said):
            task("s", base, step=step, device="cpu", runs_dir=runs, **more)
        assert (
            sorted(path.name for path in (runs / "s" / step).iterdir() if path.suffix in (".gguf", ".safetensors") or path.is_dir()) == []
        )


def test_a_folder_without_a_tokenizer_is_refused_and_none_is_invented(base: Path, runs: Path, trained: dict[str, str]) -> None:
    for file in [*base.glob("tokenizer*"), base / "chat_template.jinja"]:
        file.unlink()
    with pytest.raises(pyrust_nn.InputError, match="has no tokenizer"):
        pyrust_nn.quantize_model("s", base, bits=16, device="cpu", verify=False, runs_dir=runs)
    adapter = Path(shutil.copytree(trained["lora"], base.parent / "adapter"))
    for file in [*adapter.glob("tokenizer*"), adapter / "chat_template.jinja"]:
        file.unlink()
    with pytest.raises(pyrust_nn.InputError, match="has no tokenizer"):
        pyrust_nn.merge("s", adapter, base_model=base, device="cpu", verify=False, runs_dir=runs)


def test_widths_that_4_bits_cannot_hold_are_refused(tmp_path: Path, runs: Path, base: Path) -> None:
    config = AutoConfig.from_pretrained(base)
    config.hidden_size, config.intermediate_size, config.head_dim = 96, 100, 24
    wide = tmp_path / "odd"
    AutoModelForCausalLM.from_config(config).save_pretrained(wide)
    for file in [*base.glob("tokenizer*"), base / "chat_template.jinja"]:
        shutil.copy(file, wide)
    with pytest.raises(
        pyrust_nn.InputError, match=r"cannot be quantized to 4 bits: .* rows of (96|100) weights.*multiple of 64.*bits 8 or 16"
    ):
        pyrust_nn.quantize_model("s", wide, bits=4, device="cpu", verify=False, runs_dir=runs)


def test_settings_that_are_rarely_meant_are_warned_of(runs: Path, data_json: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"dataset_path": data_json, "num_epochs": 0.3, "device": "cpu", "runs_dir": runs}
    pyrust_nn.finetune_lora("quiet", "builtin:tiny", **given)
    pyrust_nn.finetune_lora("loud", "builtin:tiny", warmup=500, learning_rate=0.5e-1, lora_rank=2, lora_alpha=64, **given)
    pyrust_nn.finetune_full("first", "builtin:tiny", warmup=0.5, learning_rate=1e-5, **given)
    # With as many steps as in the sample pipeline, one that changes nothing is of no account.
    pyrust_nn.finetune_full("long", "builtin:tiny", warmup=0.1, learning_rate=1e-3, **given | {"num_epochs": 3})
    log = {name: (runs / name / "pipeline.log").read_text() for name in ("quiet", "loud", "first", "long")}
    words = ("never reaches", "is far from what LoRA usually takes", "multiply the adapter by 32", "the first step is 0")
    assert [word for word in words if word in log["quiet"] + log["long"]] == []
    assert [word for word in words if word in log["loud"]] == list(words[:3])
    assert [word for word in words if word in log["first"]] == [words[3]]
