"""Models: the built-in one, loading of every family, adapters and merging, refused models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn.models import adapter_folder, devices, loading, lora_targets, merging, tiny, tokenizers
from pyrust_nn.models.tokenizers import TOKENIZER_FILES, TokenizerFiles

CPU = torch.device("cpu")

# ---- data.json: what the tiny model is judged by ----


def test_a_model_that_always_takes_the_likeliest_token_can_know_every_answer_of_the_sample(conversations: Any) -> None:
    asked = [
        json.dumps(messages[:index])
        for messages in conversations
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    assert len(asked) == len(set(asked)) >= 20


def test_the_sample_shows_what_data_may_hold(conversations: Any) -> None:
    texts = " ".join(message["content"] for messages in conversations for message in messages)
    assert any(messages[0]["role"] == "system" for messages in conversations)
    assert any(sum(message["role"] == "user" for message in messages) >= 3 for messages in conversations)
    for letters in ("微调", "é", "ü", "¿", "🙂"):
        assert letters in texts, letters


# ---- builtin:tiny ----


def make_in(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYRUST_NN_CACHE", str(cache))
    return tiny.tiny_model_folder()


def test_the_tiny_model_is_the_same_bytes_wherever_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (make_in(tmp_path / name, monkeypatch) for name in "ab")
    assert one != other and one.name == other.name
    files = sorted(file.name for file in one.iterdir())
    assert files == sorted(file.name for file in other.iterdir())
    for name in files:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_the_tiny_model_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_in(tmp_path, monkeypatch)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert make_in(tmp_path, monkeypatch) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made


def test_processes_may_make_the_tiny_model_at_the_same_time(tmp_path: Path) -> None:
    code = "from pyrust_nn.models.tiny import tiny_model_folder; print(tiny_model_folder())"
    environment = {**os.environ, "PYRUST_NN_CACHE": str(tmp_path)}
    makers = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(4)]
    folders = {maker.communicate(timeout=120)[0].decode().strip() for maker in makers}
    assert [maker.returncode for maker in makers] == [0] * 4
    assert len(folders) == 1
    assert [str(path) for path in tmp_path.iterdir()] == list(folders), "something was left behind"
    AutoModelForCausalLM.from_pretrained(folders.pop())


def test_plain_transformers_loads_the_tiny_model() -> None:
    folder = tiny.tiny_model_folder()
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "Qwen2ForCausalLM" and model.dtype == torch.float32
    assert not report["missing_keys"] and not report["unexpected_keys"]
    loss = model(**{name: torch.arange(50)[None] for name in ("input_ids", "labels")}).loss.item()
    assert abs(loss - torch.tensor(float(model.config.vocab_size)).log().item()) < 0.5, "noise should know nothing"


def test_the_tiny_tokenizer_cuts_text_as_qwen2s_does() -> None:
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    parts = json.loads((tiny.tiny_model_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    assert parts["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": PRETOKENIZE_REGEX}
    assert parts["normalizer"] == {"type": "NFC"}
    tokenizer = tokenizers.load_tokenizer("builtin:tiny")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert text == ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_the_tiny_tokenizer_can_write_any_text(text: str) -> None:
    import unicodedata

    tokenizer = tokenizers.load_tokenizer("builtin:tiny")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == unicodedata.normalize("NFC", text)


# ---- families ----

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHARED_EXPERT = {"shared_expert_intermediate_size": 32}
DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
DENSE = {"gate_proj", "up_proj", "down_proj"}
DELTA_LAYERS = {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"}

FAMILIES = {
    "qwen2": (lambda: transformers.Qwen2Config(**SMALL), ATTENTION | DENSE),
    "qwen2_moe": (lambda: transformers.Qwen2MoeConfig(**SMALL, **EXPERTS, **SHARED_EXPERT), ATTENTION | DENSE),
    "qwen3": (lambda: transformers.Qwen3Config(**SMALL), ATTENTION | DENSE),
    "qwen3_moe": (lambda: transformers.Qwen3MoeConfig(**SMALL, **EXPERTS), ATTENTION),
    "qwen3_5_text": (lambda: transformers.Qwen3_5TextConfig(**SMALL, **DELTA), ATTENTION | DENSE | DELTA_LAYERS),
    "qwen3_5_moe_text": (
        lambda: transformers.Qwen3_5MoeTextConfig(**SMALL, **DELTA, **EXPERTS, **SHARED_EXPERT),
        ATTENTION | DENSE | DELTA_LAYERS,
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A folder with a random model of the family, and the layers that LoRA should adapt in it."""
    config, targets = FAMILIES[request.param]
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    AutoModelForCausalLM.from_config(config()).save_pretrained(folder)
    return folder, targets


def test_every_family_loads_as_transformers_loads_it(family: tuple[Path, set[str]]) -> None:
    folder, _ = family
    ids = torch.randint(0, 320, (2, 9), generator=torch.Generator().manual_seed(1))
    ours = loading.load_model(str(folder), device=CPU, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(ours) is type(theirs) and not ours.training
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=0)
    assert loading.load_model(str(folder), device=CPU, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_lora_adapts_every_linear_layer_of_the_blocks_but_what_routes(family: tuple[Path, set[str]]) -> None:
    folder, targets = family
    model = loading.load_model(str(folder), device=CPU, dtype=torch.float32)
    assert set(lora_targets.lora_target_modules(model)) == targets
    adapted = get_peft_model(model, LoraConfig(target_modules=lora_targets.lora_target_modules(model)))
    places = {name for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert all(".layers." in name for name in places)
    assert not any("lm_head" in name or ".gate." in name or "shared_expert_gate" in name for name in places)


def test_the_text_part_of_a_model_that_also_sees_is_loaded(tmp_path: Path) -> None:
    config = transformers.Qwen3_5Config(text_config={**SMALL, **DELTA}, vision_config=VISION)
    whole = transformers.Qwen3_5ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    ids = torch.arange(8)[None]
    text = loading.load_model(str(tmp_path), device=CPU, dtype=torch.float32)
    assert not any("visual" in name for name, _ in text.named_parameters())
    torch.testing.assert_close(text(ids).logits, whole(input_ids=ids).logits)


# ---- adapters ----


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of noise on the tiny model, which it names by its folder."""
    folder = tiny.tiny_model_folder()
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(folder)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_answers_as_peft_says(adapter: Path) -> None:
    ids = torch.arange(20)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny.tiny_model_folder())
    without = base(ids).logits
    expected = PeftModel.from_pretrained(base, str(adapter)).eval()(ids).logits
    assert not torch.allclose(expected, without, atol=1e-2)
    loaded = loading.load_model(str(adapter), device=CPU, dtype=torch.float32)
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_merging_rounds_the_exact_sum_once(adapter: Path) -> None:
    weights = load_file(tiny.tiny_model_folder() / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    merged = merging.merged_model(str(adapter), CPU, torch.bfloat16).state_dict()
    changed = 0
    for name, weight in weights.items():
        a = lora.get(f"base_model.model.{name.replace('.weight', '.lora_A.weight')}")
        if a is not None:
            b = lora[f"base_model.model.{name.replace('.weight', '.lora_B.weight')}"]
            weight = weight.double() + b.double() @ a.double() * (8 / 4)
            changed += 1
        # The sum in float64 is rounded to float32 first, as a matrix product in float32 is.
        difference = (merged[name].float() - weight.float().bfloat16().float()).abs()
        assert difference.max() <= 2**-8 * weight.abs().max(), name
        assert (difference > 0).float().mean() < 0.001, name
    assert changed == 4, "two layers, two modules each"


def test_merging_keeps_the_bases_number_format_unless_told(adapter: Path) -> None:
    assert merging.merged_model(str(adapter), CPU, None).dtype == torch.float32
    assert merging.merged_model(str(adapter), CPU, torch.float16).dtype == torch.float16


def test_merge_makes_a_plain_model_with_the_adapters_answers(trained: dict[str, str], runs: Path) -> None:
    summary = pyrust_nn.merge("s", trained["lora"], runs_dir=runs)
    folder = runs / "s" / summary["outputs"]["model"]
    assert not list(folder.glob("adapter*"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "What is a session?"}], add_generation_prompt=True, return_dict=False)
    base = AutoModelForCausalLM.from_pretrained(trained["full"])
    expected = PeftModel.from_pretrained(base, trained["lora"]).eval()(torch.tensor([ids])).logits
    merged, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    torch.testing.assert_close(merged(torch.tensor([ids])).logits, expected, rtol=1e-4, atol=1e-4)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(trained["full"]).chat_template


def test_a_tokenizer_goes_along_byte_for_byte(trained: dict[str, str], runs: Path) -> None:
    merged = runs / "s" / pyrust_nn.merge("s", trained["lora"], runs_dir=runs, overwrite=True)["outputs"]["model"]
    flat = runs / "s" / pyrust_nn.flatten("s", trained["lora"], runs_dir=runs)["outputs"]["adapter"]
    base = tiny.tiny_model_folder()
    names = [name for name in TOKENIZER_FILES if (base / name).is_file()]
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(names)
    for folder in (Path(trained["full"]), Path(trained["lora"]), merged, flat):
        assert [name for name in TOKENIZER_FILES if (folder / name).is_file()] == names
        assert all((folder / name).read_bytes() == (base / name).read_bytes() for name in names), folder


def test_a_tokenizer_of_an_older_kind_is_saved_as_transformers_saves_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.tiny_model_folder(), folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
    lines = (merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"])
    (folder / "merges.txt").write_text("\n".join(lines))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "Qwen2Tokenizer"}))
    (folder / "tokenizer.json").unlink()
    files = TokenizerFiles.from_model(str(folder))
    plain = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # which is written down
    plain.save_pretrained(tmp_path / "plain")
    files.save_pretrained(tmp_path / "files")
    assert files.eos_token_id == plain.eos_token_id and files.added_tokens_encoder == plain.added_tokens_encoder
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "files" / path.name).read_bytes()


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.tiny_model_folder(), folder)
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(pyrust_nn.ModelError, match=r"tokenizer\.json is broken"):
        TokenizerFiles.from_model(str(folder))


def test_only_adapters_are_merged(trained: dict[str, str], runs: Path) -> None:
    with pytest.raises(pyrust_nn.UsageError, match="whole model"):
        pyrust_nn.merge("s", trained["full"], runs_dir=runs)


def write_base(adapter: Path, base: Any) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))


def test_an_adapters_base_is_found_by_folder_name_or_hub_name(adapter: Path) -> None:
    assert adapter_folder.is_adapter(str(adapter)) and not adapter_folder.is_adapter("builtin:tiny")
    assert adapter_folder.adapter_base(str(adapter)) == str(tiny.tiny_model_folder())
    for base in ("builtin:tiny", "Qwen/Qwen1.5-0.5B-Chat"):
        write_base(adapter, base)
        assert adapter_folder.adapter_base(str(adapter)) == base


def test_an_adapter_whose_base_has_moved_says_where_to_write_the_new_place(adapter: Path) -> None:
    write_base(adapter, "/moved/away")
    with pytest.raises(pyrust_nn.ModelError, match=r"/moved/away does not exist.*adapter_config.json"):
        adapter_folder.adapter_base(str(adapter))
    write_base(adapter, None)
    with pytest.raises(pyrust_nn.ModelError, match="does not name the base model"):
        adapter_folder.adapter_base(str(adapter))


def test_an_adapter_for_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(transformers.Qwen2Config(**SMALL)).save_pretrained(tmp_path / "other")
    write_base(adapter, str(tmp_path / "other"))
    with pytest.raises(pyrust_nn.InputError, match="does not fit its base"):
        loading.load_model(str(adapter), device=CPU, dtype=torch.float32)


def test_an_adapter_without_safe_weights_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(pyrust_nn.ModelError, match="pickle"):
        loading.load_model(str(adapter), device=CPU, dtype=torch.float32)


# ---- what is refused ----


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the tiny model to be damaged."""
    return Path(shutil.copytree(tiny.tiny_model_folder(), tmp_path / "model"))


def refused(folder: Path | str) -> str:
    with pytest.raises(pyrust_nn.ModelError) as raised:
        loading.load_model(str(folder), device=CPU, dtype=torch.float32)
    return str(raised.value)


def test_weights_as_pickle_are_never_opened(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    marker = copy / "pickle_was_run"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    torch.save({"model.norm.weight": Trap()}, copy / "pytorch_model.bin")
    message = refused(copy)
    assert "pytorch_model.bin" in message and "safetensors" in message
    assert not marker.exists()


def test_code_beside_the_weights_is_never_run(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(copy / 'ran')!r}, 'w')")
    refused(copy)
    assert not (copy / "ran").exists()


def test_a_damaged_folder_is_named_with_what_is_missing(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refused(copy), "transformers alone would fill it with noise"

    (copy / "model.safetensors").write_bytes(b"torn")
    assert str(copy) in refused(copy)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model.safetensors").unlink()  # which transformers would take
    assert "model-00002-of-00002.safetensors" in refused(copy)
    (copy / "config.json").write_text("{")
    (copy / "model.safetensors.index.json").unlink()
    (copy / "model.safetensors").write_bytes(b"torn")
    assert "not valid JSON" in refused(copy)
    (copy / "config.json").unlink()
    assert "no config.json" in refused(copy)


def test_names_that_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert "/no/such/folder" in refused("/no/such/folder")
    assert "is a file" in refused(tmp_path / "file")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refused("Qwen/no-such-model-was-downloaded")
    assert "Qwen/no-such-model-was-downloaded" in message and "offline" in message and "folder" in message


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(pyrust_nn.InputError, match="cuda:99"):
        devices.pick_device("cuda:99")


def test_number_formats_by_name_and_by_device() -> None:
    assert devices.pick_dtype("auto", CPU) == torch.float32
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        assert devices.pick_dtype(name, CPU) == dtype
        assert devices.dtype_name(dtype) == name
