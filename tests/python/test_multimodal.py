"""Models that also see: their language part is trained, merged and converted, and the original's class loads the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import pyrust_nn
from pyrust_nn import ModelError
from pyrust_nn.models.loading import load_model
from pyrust_nn.models.model_folder import model_folder

IDS = torch.tensor([[5, 9, 300, 77, 41, 1000, 3, 8]])
SMALL: dict[str, Any] = {
    "vocab_size": 1290,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
ROTARY = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
DELTA: dict[str, Any] = {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
SEES: dict[str, Any] = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": ({"rope_parameters": ROTARY}, {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}),
    "qwen2_5_vl": ({"rope_parameters": ROTARY}, SEES | {"fullatt_block_indexes": [0]}),
    "qwen3_vl": (
        {"rope_parameters": ROTARY | {"mrope_interleaved": True}, "head_dim": 16},
        SEES | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    ),
    "qwen3_5": (DELTA, SEES),
}


def classes(kind: str) -> Any:
    return transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(AutoConfig.for_model(kind))]


def make(folder: Path, kind: str, tied: bool) -> Path:
    """A random model of the class …ForConditionalGeneration with the tiny model's tokenizer."""
    text, vision = KINDS[kind]
    config = AutoConfig.for_model(
        kind, text_config=SMALL | text | {"tie_word_embeddings": tied}, vision_config=vision, tie_word_embeddings=tied
    )
    torch.manual_seed(4)
    model = classes(kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(model_folder("builtin:tiny")) / name, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"patch_size": 14}))
    return folder


def loaded(folder: Path, kind: str) -> Any:
    """The model of the original's class, of which nothing may be missing or left over."""
    model, report = classes(kind).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def other_parts(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    return {name: tensor for name, tensor in tensors.items() if "visual" in name}


def same_parts(made: Path, base: Path) -> None:
    found, wanted = other_parts(made), other_parts(base)
    assert wanted and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (made / "preprocessor_config.json").read_bytes() == (base / "preprocessor_config.json").read_bytes()
    assert (
        json.loads((made / "config.json").read_text())["architectures"] == json.loads((base / "config.json").read_text())["architectures"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_language_part_is_trained_and_the_whole_is_saved(kind: str, tmp_path: Path, runs: Path, data_json: str) -> None:
    base = make(tmp_path / "base", kind, tied=kind != "qwen2_5_vl")
    before = logits(loaded(base, kind))
    part = load_model(str(base), device=torch.device("cpu"), dtype=torch.float32)
    torch.testing.assert_close(logits(part), before, rtol=1e-4, atol=1e-4)

    given: dict[str, Any] = {"dataset_path": data_json, "num_epochs": 0.2, "runs_dir": runs, "device": "cpu", "learning_rate": 1e-3}
    pyrust_nn.finetune_full("s", base, **given)
    made = runs / "s/finetune_full/model"
    same_parts(made, base)
    after = logits(loaded(made, kind))
    assert not torch.allclose(after, before, atol=1e-3)
    again = load_model(str(made), device=torch.device("cpu"), dtype=torch.float32)
    torch.testing.assert_close(logits(again), after, rtol=1e-4, atol=1e-4)

    pyrust_nn.finetune_lora("s", base, **given, lora_rank=4, add_tokens=["<call>"])
    adapter = runs / "s/finetune_lora/adapter"
    adapted = load_model(str(adapter), device=torch.device("cpu"), dtype=torch.float32)
    pyrust_nn.merge("s", adapter, runs_dir=runs, device="cpu")  # which proves every tensor
    merged = runs / "s/merge/model"
    same_parts(merged, base)
    torch.testing.assert_close(logits(loaded(merged, kind)), logits(adapted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_language_part_becomes_a_gguf_file(kind: str, tmp_path: Path, runs: Path) -> None:
    """The conversion ends with the proof: weights, predictions, tokens, and answers by llama.cpp."""
    base = make(tmp_path / "base", kind, tied=True)
    summary = pyrust_nn.convert_model_to_gguf("s", base, outtype="f32", runs_dir=runs, device="cpu")
    (layers,) = (one["layers"] for one in summary["proof"])
    assert layers["prompts"]["passed"]
    compared = kind != "qwen3_5"  # whose weights and predictions the proof does not compare yet
    assert (layers["bytes"]["passed"], layers["logits"]["passed"]) == ((True, True) if compared else (None, None))


def test_a_model_in_several_files_and_with_older_names_is_completed(tmp_path: Path, runs: Path, data_json: str) -> None:
    base = make(tmp_path / "base", "qwen3_vl", tied=False)
    model = loaded(base, "qwen3_vl")
    model.save_pretrained(base, max_shard_size="200KB")
    (base / "model.safetensors").unlink()
    assert len(list(base.glob("*.safetensors"))) > 2
    pyrust_nn.finetune_full("s", base, dataset_path=data_json, num_epochs=0.1, runs_dir=runs, device="cpu")
    made = runs / "s/finetune_full/model"
    same_parts(made, base)
    assert sorted(file.name for file in made.glob("*.safetensors")) == sorted(file.name for file in base.glob("*.safetensors"))
    loaded(made, "qwen3_vl")


def test_a_language_part_that_cannot_be_loaded_is_refused_before_training(tmp_path: Path, runs: Path, data_json: str) -> None:
    config = AutoConfig.for_model(
        "qwen3_vl_moe",
        text_config=SMALL | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "head_dim": 16},
        vision_config=SEES | {"deepstack_visual_indexes": [0]},
    )
    classes("qwen3_vl_moe")(config).save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(model_folder("builtin:tiny")) / name, tmp_path / "base")
    for task in ("finetune_full", "finetune_lora"):
        with pytest.raises(ModelError, match="of type qwen3_vl_moe, which has other parts"):
            getattr(pyrust_nn, task)("s", tmp_path / "base", dataset_path=data_json, runs_dir=runs, device="cpu")


NEXT: dict[str, Any] = (
    SMALL
    | DELTA
    | {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "decoder_sparse_step": 1,
    }
)


def test_qwen3_next_is_trained_and_merged_and_refused_as_gguf(tmp_path: Path, runs: Path, data_json: str) -> None:
    config = AutoConfig.for_model("qwen3_next", **NEXT)
    torch.manual_seed(4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(model_folder("builtin:tiny")) / name, tmp_path / "base")
    given: dict[str, Any] = {"runs_dir": runs, "device": "cpu"}
    summary = pyrust_nn.finetune_lora("s", tmp_path / "base", dataset_path=data_json, num_epochs=0.3, lora_rank=2, **given)
    assert summary["metrics"]["last_loss"] < summary["metrics"]["first_loss"] * 1.1
    pyrust_nn.merge("s", "s/finetune_lora", **given)
    adapted = load_model(str(runs / "s/finetune_lora/adapter"), device=torch.device("cpu"), dtype=torch.float32)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(runs / "s/merge/model")), logits(adapted), rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match=r"type qwen3_next .* cannot be converted to GGUF here"):
        pyrust_nn.convert_model_to_gguf("s", "s/merge", **given)
