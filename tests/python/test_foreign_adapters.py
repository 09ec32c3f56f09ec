"""Adapters of other tools: every known form gives what peft computes with its own form, everything else is refused with its names.

Forms are those that the tools write; see the comments. The oracle is peft with the canonical files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import pyrust_nn
from pyrust_nn.models.model_folder import model_folder

TARGETS = ["q_proj", "v_proj", "down_proj"]
RANKS: dict[str, Any] = {"r": 4, "lora_alpha": 8, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 3}}
IDS = torch.tensor([[5, 9, 300, 77, 41, 1000, 3]])
Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], tuple[dict[str, torch.Tensor], dict[str, Any]]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a user's folder."""
    return Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path_factory.mktemp("foreign") / "base"))


def make(base: Path, folder: Path, **config: Any) -> Path:
    """An adapter of peft's with random weights."""
    torch.manual_seed(3)
    given: dict[str, Any] = RANKS | {"target_modules": TARGETS, "task_type": "CAUSAL_LM"} | config
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(**given))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def by_peft(base: Path, adapter: Path) -> torch.Tensor:
    return logits(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval())


def merged(runs: Path, adapter: Path, **params: Any) -> torch.Tensor:
    """What our merge of an adapter computes in plain transformers."""
    step = f"m{len(list(runs.glob('s/*')))}"
    pyrust_nn.merge("s", adapter, step=step, verify=False, runs_dir=runs, device="cpu", **params)
    return logits(AutoModelForCausalLM.from_pretrained(runs / "s" / step / "model"))


def changed(adapter: Path, target: Path, change: Change) -> Path:
    """A copy whose files another tool wrote."""
    tensors, config = change(load_file(adapter / "adapter_model.safetensors"), json.loads((adapter / "adapter_config.json").read_text()))
    target.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "adapter_model.safetensors")
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


def renamed(old: str, new: str) -> Change:
    return lambda tensors, config: ({re.sub(old, new, name): tensor for name, tensor in tensors.items()}, config)


def unsloth(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As Unsloth's FastVisionModel writes it: the names of the multimodal class, and a pattern as target_modules."""
    tensors, _ = renamed(r"base_model\.model\.model\.", "base_model.model.model.language_model.")(tensors, config)
    pattern = r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|v_proj|down_proj).*?)"
    return tensors, config | {"target_modules": pattern, "auto_mapping": {"base_model_class": "Qwen3_5ForConditionalGeneration"}}


FORMS: dict[str, Change] = {
    "conditional generation": renamed(r"base_model\.model\.model\.", "base_model.model.model.language_model."),
    "conditional generation before transformers 4.52": renamed(r"base_model\.model\.model\.", "base_model.model.language_model.model."),
    "unsloth": unsloth,
    "no prefix": renamed(r"base_model\.model\.", ""),
    "the model without its output matrix": renamed(r"base_model\.model\.model\.", "base_model.model."),
    "the adapter's name, as in a state dict": renamed(r"lora_([AB])\.", r"lora_\1.default."),
    "torch.compile": renamed(r"base_model\.model\.", "base_model.model._orig_mod."),
    "base_layer": renamed(r"\.lora_", ".base_layer.lora_"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_known_form_is_merged_to_what_peft_computes(form: str, base: Path, tmp_path: Path, runs: Path) -> None:
    adapter = make(base, tmp_path / "peft")
    expected = by_peft(base, adapter)
    assert not torch.allclose(expected, logits(AutoModelForCausalLM.from_pretrained(base)), atol=0.1)
    other = changed(adapter, tmp_path / "other", FORMS[form])
    torch.testing.assert_close(merged(runs, other), expected, rtol=1e-4, atol=1e-4)
    assert str(other) in (runs / "s/pipeline.log").read_text(), "the log says what was converted"


def test_each_task_takes_another_form_for_the_same_adapter(base: Path, tmp_path: Path, runs: Path, data_json: str) -> None:
    adapter = make(base, tmp_path / "peft")
    other = changed(adapter, tmp_path / "other", unsloth)
    pyrust_nn.flatten("s", other, verify=False, runs_dir=runs, device="cpu")
    torch.testing.assert_close(by_peft(base, runs / "s/flatten/adapter"), by_peft(base, adapter), rtol=0, atol=1e-5)
    uniform = make(base, tmp_path / "uniform", rank_pattern={}, alpha_pattern={})
    for number, folder in enumerate((uniform, changed(uniform, tmp_path / "uniform2", unsloth))):
        pyrust_nn.convert_lora_to_gguf("s", folder, step=f"g{number}", verify=False, runs_dir=runs)
    files = [next((runs / f"s/g{number}").glob("*.gguf")) for number in (0, 1)]
    assert gguf_tensors(files[0]) == gguf_tensors(files[1])
    given: dict[str, Any] = {"dataset_path": data_json, "num_epochs": 0.2, "runs_dir": runs, "device": "cpu", "lora_dropout": 0.0}
    ends = []
    for number, folder in enumerate((adapter, other)):
        pyrust_nn.finetune_lora("s", base, checkpoint_lora=folder, step=f"c{number}", **given)
        ends.append(load_file(runs / f"s/c{number}/adapter/adapter_model.safetensors"))
        pyrust_nn.finetune_lora("s", base, checkpoint_lora=folder, checkpoint_mode="stack", lora_rank=2, step=f"k{number}", **given)
    assert ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=0, atol=0)
    stacks = [merged(runs, runs / f"s/k{number}/adapter") for number in (0, 1)]
    torch.testing.assert_close(stacks[0], stacks[1], rtol=0, atol=0)


def gguf_tensors(path: Path) -> dict[str, bytes]:
    import gguf

    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def mlx(tensors: dict[str, torch.Tensor], scale: float) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As mlx-lm writes it: transposed, under its own names and with its own configuration."""
    own = {}
    for name, tensor in tensors.items():
        short = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b")
        own[short.replace(".lora_magnitude_vector", ".m")] = tensor.T.contiguous() if tensor.dim() == 2 else tensor
    keys = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]
    return own, {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "model": "mlx-community/tiny-4bit",
        "lora_parameters": {"rank": 4, "scale": scale, "dropout": 0.0, "keys": keys},
        "iters": 100,
    }


@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapter_of_mlx_lm_is_merged_to_what_peft_computes(use_dora: bool, base: Path, tmp_path: Path, runs: Path) -> None:
    adapter = make(base, tmp_path / "peft", rank_pattern={}, alpha_pattern={}, lora_alpha=10, use_dora=use_dora)
    tensors, config = mlx(load_file(adapter / "adapter_model.safetensors"), 2.5)
    config["fine_tune_type"] = "dora" if use_dora else "lora"
    other = tmp_path / "mlx"
    other.mkdir()
    save_file(tensors, other / "adapters.safetensors")
    (other / "adapter_config.json").write_text(json.dumps(config))
    torch.testing.assert_close(merged(runs, other, base_model=base), by_peft(base, adapter), rtol=1e-4, atol=1e-4)
    config["lora_parameters"]["alpha"] = 16.0
    (other / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(pyrust_nn.InputError, match=r"alpha beside the scale.*remove alpha"):
        merged(runs, other, base_model=base)


def drop(pattern: str) -> Change:
    return lambda tensors, config: ({name: tensor for name, tensor in tensors.items() if not re.search(pattern, name)}, config)


STRANGE: dict[str, tuple[Change, str]] = {
    "another architecture": (renamed(r"model\.layers", "transformer.h"), r"belong to no layer of it \(base_model\.model\.transformer\.h"),
    "a layer too many": (renamed(r"layers\.1\.", "layers.7."), r"belong to no layer of it .*layers\.7\."),
    "half of it": (drop(r"layers\.1\."), r"is incomplete: .*layers\.1\."),
    "a module missing": (drop(r"layers\.0.*down_proj"), r"is incomplete: .*layers\.0\.mlp\.down_proj"),
    "half a pair": (drop(r"layers\.0.*q_proj\.lora_B"), r"half of the pair of model\.layers\.0\.self_attn\.q_proj"),
    "another rank": (lambda tensors, config: (tensors, config | {"r": 6}), r"ranks 4 and 4, but its configuration says 6"),
    "an unknown setting": (lambda tensors, config: (tensors, config | {"use_later_method": True}), "use_later_method"),
}


@pytest.mark.parametrize("how", STRANGE)
def test_what_fits_nothing_or_is_missing_is_refused_at_every_door(
    how: str, base: Path, tmp_path: Path, runs: Path, data_json: str, cli: Any
) -> None:
    change, words = STRANGE[how]
    bad = changed(make(base, tmp_path / "peft"), tmp_path / "bad", change)
    doors: dict[str, Callable[[], Any]] = {
        "merge": lambda: pyrust_nn.merge("s", bad, verify=False, runs_dir=runs),
        "inference": lambda: pyrust_nn.inference("s", bad, prompt="Hi", runs_dir=runs),
        "quantize": lambda: pyrust_nn.quantize_model("s", bad, bits=16, verify=False, runs_dir=runs),
        "gguf": lambda: pyrust_nn.convert_model_to_gguf("s", bad, verify=False, runs_dir=runs),
        "lora to gguf": lambda: pyrust_nn.convert_lora_to_gguf("s", bad, verify=False, runs_dir=runs),
        "flatten": lambda: pyrust_nn.flatten("s", bad, verify=False, runs_dir=runs),
        "continue": lambda: pyrust_nn.finetune_lora("s", base, dataset_path=data_json, checkpoint_lora=bad, step="c", runs_dir=runs),
        "stack": lambda: pyrust_nn.finetune_lora(
            "s", base, dataset_path=data_json, checkpoint_lora=bad, checkpoint_mode="stack", step="k", runs_dir=runs
        ),
    }
    for door, enter in doors.items():
        with pytest.raises(pyrust_nn.InputError, match=words) as raised:
            enter()
        assert str(bad) in str(raised.value), door
    if how == "half of it":
        assert cli("merge", "--model", bad, "--session", "t", "--runs-dir", runs).returncode == 2


@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_a_pair_that_was_taken_from_the_base_is_merged_and_continued_with_the_rest_of_it(
    how: str, base: Path, tmp_path: Path, runs: Path, data_json: str
) -> None:
    adapter = make(base, tmp_path / "peft", init_lora_weights=how, rank_pattern={}, alpha_pattern={})
    torch.testing.assert_close(merged(runs, adapter), by_peft(base, adapter), rtol=1e-3, atol=1e-3)
    given: dict[str, Any] = {"dataset_path": data_json, "num_epochs": 1, "runs_dir": runs, "device": "cpu", "learning_rate": 1e-12}
    pyrust_nn.finetune_lora("s", base, checkpoint_lora=adapter, step="next", **given)
    torch.testing.assert_close(by_peft(base, runs / "s/next/adapter"), by_peft(base, adapter), rtol=1e-3, atol=1e-3)
    with pytest.raises(pyrust_nn.InputError, match=rf"flattened: its initialization \({how}\).*merge"):
        pyrust_nn.flatten("s", adapter, verify=False, runs_dir=runs)
    with pytest.raises(pyrust_nn.InputError, match=rf"initialization \({how}\) changed the base"):
        pyrust_nn.convert_lora_to_gguf("s", adapter, verify=False, runs_dir=runs)
    with pytest.raises(pyrust_nn.InputError, match=rf"stack: its initialization \({how}\)"):
        pyrust_nn.finetune_lora("s", base, checkpoint_lora=adapter, checkpoint_mode="stack", step="k", **given)


@pytest.mark.parametrize("how", ["pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_a_changed_base_that_cannot_be_computed_again_is_refused(how: str, base: Path, tmp_path: Path, runs: Path, data_json: str) -> None:
    bad = changed(make(base, tmp_path / "peft"), tmp_path / "bad", lambda tensors, config: (tensors, config | {"init_lora_weights": how}))
    for enter in (
        lambda: pyrust_nn.merge("s", bad, verify=False, runs_dir=runs),
        lambda: pyrust_nn.inference("s", bad, prompt="Hi", runs_dir=runs),
        lambda: pyrust_nn.flatten("s", bad, verify=False, runs_dir=runs),
        lambda: pyrust_nn.convert_lora_to_gguf("s", bad, verify=False, runs_dir=runs),
        lambda: pyrust_nn.finetune_lora("s", base, dataset_path=data_json, checkpoint_lora=bad, step="c", runs_dir=runs),
    ):
        with pytest.raises(pyrust_nn.InputError, match=how):
            enter()


def test_a_base_that_is_elsewhere_is_given_by_base_model(base: Path, tmp_path: Path, runs: Path, data_json: str) -> None:
    adapter = make(base, tmp_path / "peft", rank_pattern={}, alpha_pattern={})
    expected = by_peft(base, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    for named in ("/content/drive/qwen", "Somebody/Tiny-Qwen", None):
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
        torch.testing.assert_close(merged(runs, adapter, base_model=base, offline=True), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(pyrust_nn.ModelError, match="does not name the base model of the adapter; give it as base_model"):
        merged(runs, adapter)
    given: dict[str, Any] = {"runs_dir": runs, "base_model": base}
    pyrust_nn.inference("s", adapter, prompt="Hi", max_new_tokens=2, **given)
    pyrust_nn.flatten("s", adapter, **given)
    pyrust_nn.quantize_model("s", adapter, bits=16, **given)
    pyrust_nn.convert_model_to_gguf("s", adapter, **given)
    pyrust_nn.convert_lora_to_gguf("s", adapter, **given)
    pyrust_nn.finetune_lora("s", base, dataset_path=data_json, checkpoint_lora=adapter, num_epochs=0.1, step="c", runs_dir=runs)
    assert "has its shapes and is used" in (runs / "s/pipeline.log").read_text()
    with pytest.raises(pyrust_nn.UsageError, match=r"base_model is the base of an adapter, but .* is a whole model"):
        pyrust_nn.inference("s", base, prompt="Hi", step="w", **given)
    wide = tmp_path / "wide"
    from transformers import AutoConfig

    other = AutoConfig.from_pretrained(base)
    other.hidden_size, other.head_dim = 128, 32
    AutoModelForCausalLM.from_config(other).save_pretrained(wide)
    for file in base.glob("*token*"):
        shutil.copy(file, wide)
    with pytest.raises(pyrust_nn.InputError, match=r"does not fit its base .*wide: its pair of .* is for a matrix of"):
        merged(runs, adapter, base_model=wide)
