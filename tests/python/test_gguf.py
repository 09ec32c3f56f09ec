"""GGUF files: equal to llama.cpp's, equal to the model's weights in other readers, or refused."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn import InputError, ModelError, _core

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
REFERENCE = SHARED / "gguf-reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="llama.cpp's own results are not beside this checkout")

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class File:
    """A GGUF file as `gguf.GGUFReader` sees it, each tensor dequantized by `gguf.quants`."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        self.types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        self.numbers = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def converted(summary: dict[str, Any], runs: Path) -> list[Path]:
    return [runs / "s" / path for path in summary["outputs"]["gguf"]]


def stored(weights: torch.Tensor, kind: str) -> np.ndarray:
    """What a reader gets from weights of a type, computed independently of the writer."""
    numbers = weights.float()
    if kind == "F16":
        numbers = numbers.half().float()
    elif kind == "BF16":
        numbers = numbers.bfloat16().float()
    elif kind == "Q8_0":
        raw = gguf.quants.quantize(numbers.numpy(), gguf.GGMLQuantizationType.Q8_0)
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    return numbers.numpy()


def make_model(folder: Path, tiny: Path, kind: str, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Path:
    """A random model of a family with the tiny model's tokenizer; its norms and biases are random too."""
    sizes = {
        "vocab_size": 1290,  # ten more than the tokenizer has
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    delta = {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    }
    families: dict[str, dict[str, Any]] = {
        "qwen2": {},
        "qwen2_moe": {**experts, "shared_expert_intermediate_size": 64},
        "qwen3": {"head_dim": 32},
        "qwen3_moe": {**experts, "head_dim": 32},
        "qwen3_5_text": delta,
        "qwen3_5_moe_text": {**experts, **delta, "shared_expert_intermediate_size": 64},
    }
    config = AutoConfig.for_model(kind, **{**sizes, **families[kind], **changes})
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, folder)
    return folder


def make_adapter(folder: Path, base: Path | str, **settings: Any) -> Path:
    """A random LoRA adapter."""
    settings = {"r": 8, "lora_alpha": 16, "target_modules": SEVEN, "task_type": "CAUSAL_LM", **settings}
    torch.manual_seed(8)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.fixture(scope="session")
def tiny(cache: Path) -> Path:
    """The folder of builtin:tiny."""
    from pyrust_nn.models.tiny import tiny_model_folder

    return tiny_model_folder()


@pytest.fixture
def make(tmp_path: Path, tiny: Path) -> Callable[..., Path]:
    """`make(family, ...)`: the folder of a random model."""
    return lambda kind, **more: make_model(tmp_path / kind, tiny, kind, **more)


# Against llama.cpp's own converter


def dump(path: Path) -> dict[str, Any]:
    out = subprocess.run([sys.executable, REFERENCE / "dump_gguf.py", path], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(out.stdout)
    return result


def assert_same(path: Path, reference: str) -> None:
    ours, theirs = dump(path), json.loads((REFERENCE / reference).read_text(encoding="utf-8"))
    assert {key: ours["keys"].get(key) for key in theirs["keys"]} == theirs["keys"]
    assert ours["tensors"] == theirs["tensors"]


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    folder = tmp_path / "qwen2-tied"
    shutil.copytree(REFERENCE / "qwen2-tied", folder)
    shutil.copy(SHARED / "qwen2-tokenizer/tokenizer.json", folder)
    return folder


@needs_reference
def test_a_model_is_llama_cpp_s_to_the_last_bit(reference: Path, runs: Path) -> None:
    summary = pyrust_nn.convert_model_to_gguf("s", reference, outtype=["f16", "q8_0"], verify=False, runs_dir=runs)
    files = converted(summary, runs)
    assert [path.name for path in files] == ["qwen2-tied.f16.gguf", "qwen2-tied.q8_0.gguf"]
    for path, outtype in zip(files, ("f16", "q8_0"), strict=True):
        assert_same(path, f"qwen2-tied.{outtype}.json")
        assert summary["metrics"][f"size_{outtype}_bytes"] == path.stat().st_size


@needs_reference
def test_an_adapter_is_llama_cpp_s_to_the_last_bit(reference: Path, tmp_path: Path, runs: Path) -> None:
    adapter = tmp_path / "qwen2-tied-lora"
    shutil.copytree(REFERENCE / "qwen2-tied-lora", adapter)
    (adapter / "adapter_config.json").chmod(0o644)
    change(adapter / "adapter_config.json", base_model_name_or_path=str(reference))
    summary = pyrust_nn.convert_lora_to_gguf("s", adapter, verify=False, runs_dir=runs)
    (path,) = converted(summary, runs)
    assert_same(path, "qwen2-tied-lora.f16.json")


# Against the weights, by other readers


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("kind", "dtype"), [("qwen2", torch.bfloat16), ("qwen3", torch.float16), ("qwen3", torch.float32)])
def test_every_tensor_is_the_model_s(make: Callable[..., Path], runs: Path, kind: str, dtype: torch.dtype, tied: bool) -> None:
    folder = make(kind, dtype=dtype, tie_word_embeddings=tied)
    weights = load_file(folder / "model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], 2)
    summary = pyrust_nn.convert_model_to_gguf("s", folder, outtype=["f16", "bf16", "q8_0"], verify=False, runs_dir=runs)
    for path, outtype in zip(converted(summary, runs), ("F16", "BF16", "Q8_0"), strict=True):
        file = File(path)
        assert len(file.numbers) == len(weights)
        for name, tensor in weights.items():
            ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
            kept = tensor.dim() == 1 or "norm" in name
            assert file.types[ours] == ("F32" if kept else outtype), name
            np.testing.assert_array_equal(file.numbers[ours], stored(tensor, file.types[ours]), err_msg=name)


def test_the_table_of_types_is_ggmls() -> None:
    for kind in _core.gguf_types():
        constant = gguf.GGMLQuantizationType[kind["name"]]
        assert kind["id"] == constant.value
        assert (kind["block"], kind["block_bytes"]) == gguf.GGML_QUANT_SIZES[constant]
    for file in _core.gguf_file_types():
        name = "ALL_F32" if file["name"] == "f32" else f"MOSTLY_{file['name'].upper()}"
        assert file["id"] == gguf.LlamaFileType[name].value
        assert file["tensor_type"] == file["name"].upper().removesuffix("_S").removesuffix("_M").removesuffix("_L")


def test_rows_that_are_no_whole_blocks_are_stored_in_16_bits(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2", intermediate_size=80)
    file = File(*converted(pyrust_nn.convert_model_to_gguf("s", folder, outtype=["q8_0"], verify=False, runs_dir=runs), runs))
    assert file.types["blk.0.ffn_down.weight"] == "F16"
    assert file.types["blk.0.ffn_up.weight"] == "Q8_0"


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe"])
def test_experts_are_stacked(make: Callable[..., Path], runs: Path, kind: str, fused: bool) -> None:
    folder = make(kind)
    weights = load_file(folder / "model.safetensors")
    experts = {
        (layer, projection): torch.stack(
            [weights[f"model.layers.{layer}.mlp.experts.{index}.{projection}_proj.weight"] for index in range(4)]
        )
        for layer in range(2)
        for projection in ("gate", "up", "down")
    }
    if fused:  # as in the files of transformers' own new layout
        others = {name: tensor for name, tensor in weights.items() if ".experts." not in name}
        for layer in range(2):
            both = torch.cat([experts[layer, "gate"], experts[layer, "up"]], dim=1)
            others[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = both
            others[f"model.layers.{layer}.mlp.experts.down_proj"] = experts[layer, "down"]
        save_file(others, folder / "model.safetensors", metadata={"format": "pt"})
    file = File(*converted(pyrust_nn.convert_model_to_gguf("s", folder, outtype=["q8_0"], verify=False, runs_dir=runs), runs))
    for (layer, projection), tensor in experts.items():
        np.testing.assert_array_equal(file.numbers[f"blk.{layer}.ffn_{projection}_exps.weight"], stored(tensor, "Q8_0"))
    gate = weights["model.layers.1.mlp.gate.weight"]
    np.testing.assert_array_equal(file.numbers["blk.1.ffn_gate_inp.weight"], gate.float().numpy())
    architecture = kind.replace("_", "")
    assert (file.keys[f"{architecture}.expert_count"], file.keys[f"{architecture}.expert_used_count"]) == (4, 2)


@pytest.mark.parametrize("kind", ["qwen3_5_text", "qwen3_5_moe_text"])
def test_value_heads_of_qwen35_stand_as_llama_cpp_wants_them(make: Callable[..., Path], runs: Path, kind: str) -> None:
    folder = make(kind)
    weights = load_file(folder / "model.safetensors")
    file = File(*converted(pyrust_nn.convert_model_to_gguf("s", folder, outtype=["f16"], verify=False, runs_dir=runs), runs))

    # Two key heads with three value heads each: stored 0 1 2 | 3 4 5, for llama.cpp 0 3 1 4 2 5.
    order = [0, 3, 1, 4, 2, 5]

    def tiled(tensor: torch.Tensor, width: int) -> torch.Tensor:
        return torch.cat([tensor[head * width : (head + 1) * width] for head in order])

    def mixed(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor[:64], tiled(tensor[64:], 16)])  # queries and keys first, 2 x 16 rows of each

    layer = "model.layers.0.linear_attn."
    expected = {
        "attn_qkv.weight": stored(mixed(weights[layer + "in_proj_qkv.weight"]), "F16"),
        "attn_gate.weight": stored(tiled(weights[layer + "in_proj_z.weight"], 16), "F16"),
        "ssm_alpha.weight": stored(tiled(weights[layer + "in_proj_a.weight"], 1), "F16"),
        "ssm_beta.weight": stored(tiled(weights[layer + "in_proj_b.weight"], 1), "F16"),
        "ssm_out.weight": stored(tiled(weights[layer + "out_proj.weight"].T, 16).T, "F16"),
        "ssm_conv1d.weight": mixed(weights[layer + "conv1d.weight"][:, 0]).float().numpy(),
        "ssm_dt.bias": tiled(weights[layer + "dt_bias"], 1).float().numpy(),
        "ssm_a": -torch.exp(tiled(weights[layer + "A_log"], 1).float()).numpy(),
        "ssm_norm.weight": weights[layer + "norm.weight"].float().numpy(),
        # Stored as what is added to one.
        "attn_norm.weight": weights["model.layers.0.input_layernorm.weight"].float().numpy() + 1,
    }
    for name, numbers in expected.items():
        np.testing.assert_array_equal(file.numbers[f"blk.0.{name}"], numbers, err_msg=name)
    architecture = file.keys["general.architecture"]
    assert file.keys[f"{architecture}.attention.recurrent_layers"] == [True, True, True, False]
    assert file.keys[f"{architecture}.rope.dimension_sections"] == [11, 11, 10, 0]


def test_a_model_in_several_files_is_the_one_in_one_file(make: Callable[..., Path], runs: Path) -> None:
    whole = make("qwen3")
    split = whole.with_name("split") / "qwen3"
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(split, max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(whole / name, split)
    assert len(list(split.glob("*.safetensors"))) > 2
    hashes = set()
    for step, folder in (("one", whole), ("many", split)):
        (path,) = converted(pyrust_nn.convert_model_to_gguf("s", folder, step=step, verify=False, runs_dir=runs), runs)
        tensors = {name: numbers.tobytes() for name, numbers in File(path).numbers.items()}
        hashes.add(hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest())
    assert len(hashes) == 1


# The vocabulary and what runs the file


def test_the_vocabulary_is_the_tokenizer_s(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2")
    keys = File(*converted(pyrust_nn.convert_model_to_gguf("s", folder, verify=False, runs_dir=runs), runs)).keys
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = keys["tokenizer.ggml.tokens"]
    assert {token: index for index, token in enumerate(tokens[:1280])} == tokenizer.get_vocab()
    assert tokens[1280:] == [f"[PAD{index}]" for index in range(1280, 1290)]
    control, unused = gguf.TokenType.CONTROL, gguf.TokenType.UNUSED
    assert keys["tokenizer.ggml.token_type"][-13:] == [control] * 3 + [unused] * 10
    merges = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    assert keys["tokenizer.ggml.merges"] == [" ".join(merge) for merge in merges]
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert keys["tokenizer.ggml.eos_token_id"] == keys["tokenizer.ggml.eot_token_id"] == end
    assert keys["tokenizer.chat_template"] == tokenizer.chat_template


def test_a_step_s_model_is_named_by_session_and_step(trained: dict[str, str], runs: Path) -> None:
    summary = pyrust_nn.convert_model_to_gguf("s", trained["full"], verify=False, runs_dir=runs)
    (path,) = converted(summary, runs)
    assert path.name == "trained-finetune_full.f16.gguf"
    assert File(path).keys["general.name"] == "trained finetune_full"
    left = sorted(entry.name for entry in path.parent.iterdir())
    assert [name for name in left if name.startswith(".")] == [], "temporary files are left"


def test_a_modelfile_stands_beside_each_file(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2")
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    (folder / "generation_config.json").write_text(json.dumps(sampling), encoding="utf-8")
    one = pyrust_nn.convert_model_to_gguf("s", folder, step="one", verify=False, runs_dir=runs)
    text = (converted(one, runs)[0].parent / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./qwen2.f16.gguf\n")
    assert 'SYSTEM """You are a helpful assistant."""' in text, "the chat template's own default"
    assert "<|im_start|>{{ .Role }}\n{{ .Content }}" in text and "<|im_start|>assistant\n{{ end }}" in text
    assert re.findall(r"^PARAMETER (.+)$", text, re.MULTILINE) == [
        'stop "<|im_end|>"',
        'stop "<|endoftext|>"',
        "temperature 0.7",
        "top_p 0.8",
        "top_k 20",
        "min_p 0.0",
        "repeat_penalty 1.05",
        "num_ctx 512",
    ]
    many = pyrust_nn.convert_model_to_gguf("s", folder, step="many", outtype=["f16", "q8_0"], verify=False, runs_dir=runs)
    for path, outtype in zip(converted(many, runs), ("f16", "q8_0"), strict=True):
        assert f"FROM ./{path.name}\n" in (path.parent / f"Modelfile.{outtype}").read_text(encoding="utf-8")


def test_a_chat_template_that_is_not_chatml_is_left_to_ollama(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
    (path,) = converted(pyrust_nn.convert_model_to_gguf("s", folder, verify=False, runs_dir=runs), runs)
    assert "TEMPLATE" not in (path.parent / "Modelfile").read_text(encoding="utf-8")


# Adapters


def test_pairs_of_an_adapter_are_the_adapter_s(make: Callable[..., Path], tmp_path: Path, runs: Path) -> None:
    adapter = make_adapter(tmp_path / "my-lora", make("qwen3"), r=32)
    (path,) = converted(pyrust_nn.convert_lora_to_gguf("s", adapter, outtype=["q8_0"], verify=False, runs_dir=runs), runs)
    file = File(path)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 2)
    weights = load_file(adapter / "adapter_model.safetensors")
    assert len(file.numbers) == len(weights) == 28
    for name, tensor in weights.items():
        module, half = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name).groups()  # type: ignore[union-attr]
        ours = f"{names.get_name(module)}.weight.lora_{half.lower()}"
        np.testing.assert_array_equal(file.numbers[ours], stored(tensor, "Q8_0"), err_msg=name)
    assert (file.keys["general.type"], file.keys["adapter.type"]) == ("adapter", "lora")
    assert (file.keys["general.architecture"], file.keys["adapter.lora.alpha"]) == ("qwen3", 16.0)


def test_rank_stabilized_adapters_are_scaled_as_peft_scales_them(make: Callable[..., Path], tmp_path: Path, runs: Path) -> None:
    adapter = make_adapter(tmp_path / "lora", make("qwen2"), r=16, use_rslora=True)
    (path,) = converted(pyrust_nn.convert_lora_to_gguf("s", adapter, verify=False, runs_dir=runs), runs)
    # llama.cpp divides by the rank, peft by its root.
    assert File(path).keys["adapter.lora.alpha"] / 16 == 16 / math.sqrt(16)


def test_an_adapter_given_as_a_model_is_merged(make: Callable[..., Path], tmp_path: Path, runs: Path) -> None:
    base = make("qwen2", dtype=torch.float32)
    adapter = make_adapter(tmp_path / "lora", base)
    shutil.copy(base / "tokenizer.json", adapter)
    (path,) = converted(pyrust_nn.convert_model_to_gguf("s", adapter, verify=False, runs_dir=runs), runs)
    file = File(path)
    pairs = load_file(adapter / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.mlp.down_proj.lora_"
    change_ = 16 / 8 * pairs[f"{stem}B.weight"] @ pairs[f"{stem}A.weight"]
    merged = load_file(base / "model.safetensors")["model.layers.1.mlp.down_proj.weight"] + change_
    np.testing.assert_allclose(file.numbers["blk.1.ffn_down.weight"], merged.numpy(), rtol=1e-3, atol=1e-5)
    assert path.name == "lora.f16.gguf" and file.keys["general.type"] == "model"
    assert [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")] == []


# What cannot be converted


def refused(task: Callable[..., Any], subject: Path | str, runs: Path, **parameters: Any) -> str:
    """The message, after checking that the step left no output behind."""
    with pytest.raises((ModelError, InputError, pyrust_nn.UsageError)) as caught:
        task("s", subject, runs_dir=runs, **parameters)
    step = runs / "s" / task.__name__
    assert [path.name for path in step.glob("*.gguf")] + [path.name for path in step.glob(".*")] == []
    return str(caught.value)


def test_a_quantized_folder_is_refused(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2")
    quantized = pyrust_nn.quantize_model("s", folder, bits=8, verify=False, runs_dir=runs)
    message = refused(pyrust_nn.convert_model_to_gguf, runs / "s" / quantized["outputs"]["model"], runs)
    assert "quantized by bitsandbytes" in message and "convert the model from which they were quantized" in message
    assert pyrust_nn.list_sessions(runs_dir=runs)[0]["state"] == "success" and not (runs / "s/convert_model_to_gguf").exists()


def test_a_model_that_is_no_language_model_of_qwen_s_is_refused(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2")
    change(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    assert "llama (LlamaForCausalLM) cannot be converted" in refused(pyrust_nn.convert_model_to_gguf, folder, runs)
    change(folder / "config.json", model_type="qwen2", architectures=["Qwen2ForSequenceClassification"])
    assert "Qwen2ForSequenceClassification" in refused(pyrust_nn.convert_model_to_gguf, folder, runs)


def test_weights_that_lack_tensors_are_refused(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2_moe", tie_word_embeddings=False)
    whole = load_file(folder / "model.safetensors")
    for lacking, says in (
        ("model.layers.1.self_attn.k_proj.weight", "attn_k of layer 1"),
        ("model.layers.0.mlp.experts.2.up_proj.weight", "has 11 of 12 matrices"),
        ("lm_head.weight", "lm_head.weight"),
    ):
        weights = {name: tensor for name, tensor in whole.items() if name != lacking}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        message = refused(pyrust_nn.convert_model_to_gguf, folder, runs, overwrite=True)
        assert says in message and "download the model again" in message


def test_an_index_that_names_what_its_files_lack_is_refused(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2")
    names = {name: "model.safetensors" for name in [*load_file(folder / "model.safetensors"), "model.extra.weight"]}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    assert "model.extra.weight" in refused(pyrust_nn.convert_model_to_gguf, folder, runs)


def test_damaged_weights_are_refused(make: Callable[..., Path], runs: Path) -> None:
    folder = make("qwen2")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    message = refused(pyrust_nn.convert_model_to_gguf, folder, runs)
    assert "model.safetensors is not a complete safetensors file" in message and "download it again" in message


def test_a_tokenizer_that_does_not_fit_is_refused(make: Callable[..., Path], runs: Path) -> None:
    small = make("qwen2", vocab_size=1200)
    assert "ids up to 1279" in refused(pyrust_nn.convert_model_to_gguf, small, runs)
    (small / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refused(pyrust_nn.convert_model_to_gguf, small, runs, overwrite=True)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "qwen3_5_text"])
def test_the_pre_tokenizer_is_that_of_the_file(make: Callable[..., Path], runs: Path, kind: str) -> None:
    """For Qwen2 and Qwen3 transformers takes its own expression, whatever the file says."""
    folder = make(kind)
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer.replace(r"|\\p{N}|", r"|\\p{N}{1,3}|"), encoding="utf-8")
    (path,) = converted(pyrust_nn.convert_model_to_gguf("s", folder, verify=False, runs_dir=runs), runs)
    assert File(path).keys["tokenizer.ggml.pre"] == "llama-bpe"

    (folder / "tokenizer.json").write_text(tokenizer.replace(r"|\\p{N}|", r"|\\p{N}{1,5}|"), encoding="utf-8")
    says = refused(pyrust_nn.convert_model_to_gguf, folder, runs / "refused")
    assert "llama.cpp has no name for" in says and r"\p{N}{1,5}" in says


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases"),
        ({"modules_to_save": ["norm"]}, "whole modules (norm)"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
        ({"alpha_pattern": {"q_proj": 4}}, "different alphas"),
    ],
)
def test_adapters_that_llama_cpp_cannot_apply_are_refused(
    make: Callable[..., Path], tmp_path: Path, runs: Path, settings: dict[str, Any], says: str
) -> None:
    adapter = make_adapter(tmp_path / "lora", make("qwen2"), **settings)
    message = refused(pyrust_nn.convert_lora_to_gguf, adapter, runs)
    assert says in message and "merge it into its base" in message


def test_a_model_given_as_an_adapter_is_refused(make: Callable[..., Path], runs: Path) -> None:
    with pytest.raises(pyrust_nn.PyrustNNError, match="adapter"):
        pyrust_nn.convert_lora_to_gguf("s", make("qwen2"), verify=False, runs_dir=runs)


def test_a_disk_without_room_is_found_before_anything_is_written(make: Callable[..., Path], tmp_path: Path) -> None:
    from pyrust_nn.files import check_free_space
    from pyrust_nn.gguf_export.keys import model_label
    from pyrust_nn.gguf_export.plan import model_plan
    from pyrust_nn.gguf_export.writing import write_gguf_files

    folder = make("qwen2")
    out = tmp_path / "out"
    out.mkdir()
    session = SimpleNamespace(step_folder=out, progress=lambda *_: None)
    plan = model_plan(folder, "f16", out / "a.gguf", model_label(str(folder), folder))
    plan["tensors"][0]["shape"] = (1 << 50, 64)
    with pytest.raises(
        pyrust_nn.StorageError, match=r"writing GGUF needs 144115188\.\d GB, and .* GB are free on the disk of .*out; free some"
    ):
        write_gguf_files({"f16": plan}, session)
    assert list(out.iterdir()) == []
    check_free_space(out, 1, "a byte")
