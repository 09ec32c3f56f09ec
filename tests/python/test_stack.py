"""Stacked adapters, and stacks flattened to one adapter, compared with peft with all adapters loaded."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from fixtures import answer_loss
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import pyrust_nn
from pyrust_nn.models.loading import load_model
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.tokenizers import load_tokenizer

GIVEN: dict[str, Any] = {"num_epochs": 4, "batch_size": 2, "learning_rate": 1e-2, "lora_dropout": 0.2, "logging_steps": 1, "device": "cpu"}
# Ranks, scales and modules differ: 8/4 everywhere, 6/√8 on two, 5/2 on all seven again.
FIRST: dict[str, Any] = {"lora_rank": 4, "lora_alpha": 8}
SECOND: dict[str, Any] = {"lora_rank": 8, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]}
THIRD: dict[str, Any] = {"lora_rank": 2, "lora_alpha": 5}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model as the user's (`base`), three data sets and a runs folder."""
    home = tmp_path_factory.mktemp("stack")
    shutil.copytree(model_folder("builtin:tiny"), home / "base")
    for number, answer in enumerate(("It is one.", "They are two, or so.", "Three of a kind!"), 1):
        rows = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": answer}]} for n in range(4)]
        (home / f"{number}.json").write_text(json.dumps(rows))
    return home


@pytest.fixture(scope="module")
def tower(home: Path) -> list[Path]:
    """Three adapters, each stacked on the previous one."""
    folders: list[Path] = []
    for number, given in enumerate((FIRST, SECOND, THIRD), 1):
        more = {"checkpoint_lora": folders[-1], "checkpoint_mode": "stack"} if folders else {}
        train(home, number, f"stage{number}", **given, **more)
        folders.append(home / f"runs/s/stage{number}/adapter")
    return folders


def train(home: Path, data: int, step: str, session: str = "s", **params: Any) -> dict[str, Any]:
    given = GIVEN | {"dataset_path": home / f"{data}.json", "runs_dir": home / "runs"} | params
    return dict(pyrust_nn.finetune_lora(session, home / "base", step=step, **given))


def by_hand(base: Path, newest: Path, *parents: Path) -> Any:
    """The stack in peft, from its parts."""
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), newest)
    for number, parent in enumerate(parents):
        model.load_adapter(parent, f"n{number}")
    model.base_model.set_adapter(["default", *(f"n{number}" for number in range(len(parents)))])
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    ids = load_tokenizer("builtin:tiny")("The answer is one. They are two, or so. Three of a kind!")["input_ids"]
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits
    return found


def products(adapter: Path) -> dict[str, torch.Tensor]:
    """Scale times B A by module, computed from the files alone."""
    config, tensors = json.loads((adapter / "adapter_config.json").read_text()), load_file(adapter / WEIGHTS)
    found = {}
    for name, a in tensors.items():
        if match := re.fullmatch(r"base_model\.model\.(.*)\.lora_A\.weight", name):
            b = tensors[name.replace("lora_A", "lora_B")]
            rank = a.shape[0]
            scale = config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)
            found[match[1]] = scale * b.double() @ a.double()
    return found


def test_a_stack_holds_its_parents_as_they_were_and_measures_with_all_of_them(home: Path, tower: list[Path]) -> None:
    first, second, third = tower
    for parent, copy in ((first, second / "parents/1"), (first, third / "parents/1"), (second, third / "parents/2")):
        assert (copy / WEIGHTS).read_bytes() == (parent / WEIGHTS).read_bytes()
        assert json.loads((copy / "adapter_config.json").read_text()) == json.loads((parent / "adapter_config.json").read_text())
    assert sorted(path.name for path in (third / "parents").iterdir()) == ["1", "2"]
    lineage = json.loads((third / "lineage.json").read_text())
    assert [one["folder"] for one in lineage["stack"]] == ["parents/1", "parents/2"]
    assert lineage["parent"]["adapter"] == str(second) and len(lineage["stages"]) == 3
    assert json.loads((third / "adapter_config.json").read_text())["r"] == 2

    summary = json.loads((home / "runs/s/stage3/summary.json").read_text())
    before, after = by_hand(home / "base", second, first), by_hand(home / "base", third, first, second)
    rows = summary["result"]["forgetting"]
    assert [row["stage"] for row in rows] == [1, 2]
    for row in rows:
        dataset = home / f"{row['stage']}.json"
        assert row["loss_before"] == pytest.approx(answer_loss(before, dataset), rel=1e-4)
        assert row["loss_after"] == pytest.approx(answer_loss(after, dataset), rel=1e-4)
    own = sum(tensor.numel() for tensor in load_file(third / WEIGHTS).values())
    assert summary["metrics"]["trainable_parameters"] == own, "only the newest one learns"
    assert summary["metrics"]["last_loss"] < summary["metrics"]["first_loss"]


def test_whatever_is_made_of_a_stack_computes_with_all_its_adapters(home: Path, tower: list[Path], runs: Path) -> None:
    expected = logits(by_hand(home / "base", tower[2], *tower[:2]))
    assert not torch.allclose(expected, logits(by_hand(home / "base", tower[2])), atol=0.1), "the parents matter"
    loaded = load_model(str(tower[2]), device=torch.device("cpu"), dtype=torch.float32)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    pyrust_nn.merge("s", tower[2], runs_dir=runs)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(runs / "s/merge/model")), expected, rtol=1e-4, atol=1e-4)


def test_a_stack_that_is_continued_trains_its_newest_adapter_alone(home: Path, tower: list[Path]) -> None:
    made = train(home, 2, "on", session="on", checkpoint_lora=tower[1], lora_dropout=0)
    adapter = home / "runs/on/on/adapter"
    assert (adapter / "parents/1" / WEIGHTS).read_bytes() == (tower[0] / WEIGHTS).read_bytes()
    assert (adapter / WEIGHTS).read_bytes() != (tower[1] / WEIGHTS).read_bytes()
    assert made["metrics"]["first_loss"] == pytest.approx(
        answer_loss(by_hand(home / "base", tower[1], tower[0]), home / "2.json"), rel=1e-3
    )
    assert made["metrics"]["last_loss"] == pytest.approx(answer_loss(by_hand(home / "base", adapter, tower[0]), home / "2.json"), abs=0.05)


def test_a_stack_flattens_into_one_adapter_of_equal_logits_for_plain_peft(home: Path, tower: list[Path], runs: Path) -> None:
    summary = pyrust_nn.flatten("s", tower[2], runs_dir=runs)
    adapter = runs / "s" / summary["outputs"]["adapter"]
    assert not (adapter / "parents").exists() and summary["metrics"]["adapters"] == 3

    ranks = {
        name.split(".lora_A")[0]: tensor.shape[0] for name, tensor in load_file(adapter / WEIGHTS).items() if name.endswith("lora_A.weight")
    }
    assert {rank for name, rank in ranks.items() if name.endswith(("q_proj", "down_proj"))} == {4 + 8 + 2}
    assert {rank for name, rank in ranks.items() if not name.endswith(("q_proj", "down_proj"))} == {4 + 2}
    assert json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"] == {"q_proj": 14, "down_proj": 14}

    expected = logits(by_hand(home / "base", tower[2], *tower[:2]))
    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "base"), adapter).eval()
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-5)

    parts = [products(folder) for folder in tower]
    for name, module in plain.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            wanted = sum(part[name] for part in parts if name in part)
            torch.testing.assert_close(module.get_delta_weight("default").double(), wanted, rtol=1e-5, atol=1e-7)

    # It is an adapter like others: known by its lineage, trained on, and written as GGUF.
    made = train(home, 3, "next", session="next", checkpoint_lora=adapter)
    assert [row["stage"] for row in made["result"]["forgetting"]] == [1, 2, 3]
    assert made["result"]["forgetting"][0]["loss_before"] == pytest.approx(answer_loss(plain, home / "1.json"), rel=1e-4)
    assert pyrust_nn.convert_lora_to_gguf("s", adapter, runs_dir=runs)["status"] == "Success"


def test_adapters_of_one_scale_are_laid_beside_each_other_to_the_byte(home: Path, tower: list[Path], runs: Path) -> None:
    """Patterns of modules, too, which have no short names."""
    stacked = {"checkpoint_lora": tower[0], "checkpoint_mode": "stack", "lora_rank": 3, "lora_alpha": 6}
    train(home, 2, "like", session="like", **stacked)
    stack = home / "runs/like/like/adapter"
    config = json.loads((stack / "adapter_config.json").read_text())
    tensors = load_file(stack / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if ".layers.0." in name}
    assert 0 < len(kept) < len(tensors)
    from safetensors.torch import save_file

    copy = Path(shutil.copytree(stack, runs / "copy"))
    save_file(kept, copy / WEIGHTS)
    (copy / "adapter_config.json").write_text(json.dumps(config | {"layers_to_transform": [0]}))
    (copy / "lineage.json").unlink()

    for number, source in enumerate((stack, copy)):
        adapter = runs / "s" / pyrust_nn.flatten("s", source, step=f"flat{number}", runs_dir=runs)["outputs"]["adapter"]
        parts, flat = [load_file(tower[0] / WEIGHTS), load_file(source / WEIGHTS)], load_file(adapter / WEIGHTS)
        assert flat.keys() == parts[0].keys()
        if source == stack:
            for name, tensor in flat.items():
                assert torch.equal(tensor, torch.cat([part[name] for part in parts], dim=0 if "lora_A" in name else 1))
        plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "base"), adapter).eval()
        torch.testing.assert_close(logits(plain), logits(by_hand(home / "base", source, tower[0])), rtol=0, atol=1e-5)


def test_an_adapter_that_stands_alone_flattens_to_itself(tower: list[Path], runs: Path) -> None:
    adapter = runs / "s" / pyrust_nn.flatten("s", tower[0], runs_dir=runs)["outputs"]["adapter"]
    assert {path.name for path in adapter.iterdir()} == {path.name for path in tower[0].iterdir()}
    for name in (WEIGHTS, "adapter_config.json", "lineage.json"):
        assert (adapter / name).read_bytes() == (tower[0] / name).read_bytes()


def test_an_interrupted_stack_resumes_to_the_same_bytes(home: Path, tower: list[Path], runs: Path) -> None:
    given: dict[str, Any] = {"checkpoint_lora": tower[1], "checkpoint_mode": "stack", "save_steps": 3, "lora_rank": 4, "runs_dir": runs}
    train(home, 3, "up", session="whole", **given)
    shutil.copytree(runs / "whole", runs / "s", symlinks=True)
    step = runs / "s/up"
    shutil.rmtree(step / "adapter")
    for made in ("checkpoint-6", "checkpoint-8"):
        shutil.rmtree(step / "checkpoints" / made)
    (step / "summary.json").unlink()
    record = runs / "s/session.json"
    record.write_text(record.read_text().replace('"status": "Success"', '"status": null'))

    parent = tower[1] / "parents/1" / WEIGHTS
    before = parent.read_bytes()
    parent.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        with pytest.raises(pyrust_nn.InputError, match=r"parent.*parents/1"):
            pyrust_nn.resume("s", runs_dir=runs)
    finally:
        parent.write_bytes(before)
    pyrust_nn.resume("s", runs_dir=runs)
    assert "resumes from checkpoint-3" in (runs / "s/pipeline.log").read_text()
    for name in (WEIGHTS, "parents/1/" + WEIGHTS, "parents/2/" + WEIGHTS, "lineage.json"):
        assert (step / "adapter" / name).read_bytes() == (runs / "whole/up/adapter" / name).read_bytes()

    # A checkpoint is a whole adapter, too.
    checkpoint = step / "checkpoints/checkpoint-3"
    loaded = load_model(str(checkpoint), device=torch.device("cpu"), dtype=torch.float32)
    torch.testing.assert_close(logits(loaded), logits(by_hand(home / "base", checkpoint, *tower[:2])), rtol=0, atol=1e-5)


def test_what_cannot_be_stacked_or_is_incomplete_is_refused_with_the_fix(home: Path, tower: list[Path], runs: Path) -> None:
    def refused(kind: type[Exception], words: str, data: int = 2, **params: Any) -> None:
        with pytest.raises(kind, match=words):
            train(home, data, "no", session="no", runs_dir=runs, overwrite=True, **params)

    stacked = {"checkpoint_lora": tower[0], "checkpoint_mode": "stack"}
    refused(pyrust_nn.UsageError, "checkpoint_mode stack needs an adapter.*checkpoint_lora", checkpoint_mode="stack")
    refused(pyrust_nn.UsageError, "use_dora cannot be combined with checkpoint_mode stack", **stacked, use_dora=True)
    refused(pyrust_nn.InputError, "cannot be continued with these parameters: lora_rank is 4.*stack", checkpoint_lora=tower[0], lora_rank=8)

    def edited(source: Path, name: str, file: str = "adapter_config.json", **settings: Any) -> Path:
        copy = Path(shutil.copytree(source, runs / name))
        (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | settings))
        return copy

    dora = edited(tower[0], "dora", use_dora=True)
    (dora / "lineage.json").unlink()
    refused(pyrust_nn.InputError, "cannot be part of a stack: it has magnitudes.*merge", **(stacked | {"checkpoint_lora": dora}))

    with pytest.raises(pyrust_nn.InputError, match=r"stacked on others.*flatten"):
        pyrust_nn.convert_lora_to_gguf("s", tower[1], runs_dir=runs)
    for name, setting in (("DoRA", {"use_dora": True}), ("alora", {"alora_invocation_tokens": [1]})):
        of_variants = edited(tower[1], "variant" + name[:3], **setting)
        with pytest.raises(pyrust_nn.InputError, match=f"cannot be part of a stack: .*({name})"):
            pyrust_nn.flatten("s", of_variants, overwrite=True, runs_dir=runs)

    broken = Path(shutil.copytree(tower[1], runs / "broken"))
    shutil.rmtree(broken / "parents")
    for task in (pyrust_nn.merge, pyrust_nn.flatten):
        with pytest.raises(pyrust_nn.ModelError, match=r"parents/1, which is missing; copy the folder with all its subfolders"):
            task("s", broken, overwrite=True, runs_dir=runs)
    other = Path(shutil.copytree(tower[1], runs / "other"))
    shutil.copyfile(tower[2] / WEIGHTS, other / "parents/1" / WEIGHTS)
    refused(pyrust_nn.InputError, "its parent .*other weights than when", **(stacked | {"checkpoint_lora": other}))
