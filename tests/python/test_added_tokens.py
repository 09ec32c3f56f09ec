"""`add_tokens`, and adapters with a tokenizer of their own: from training to GGUF, compared with transformers, peft and llama.cpp."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from data_engine import SHARED, prepare
from safetensors.torch import load_file
from test_resume import back_to
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn import InputError, _core
from pyrust_nn.llama.engine import Engine, EngineSettings
from pyrust_nn.models.model_folder import model_folder

NEW = ["<call>", "</call>", "⟨état⟩"]
TEXTS = ["<call>find</call>", "a <call> b</call>\n⟨état⟩x", "<calls> call", "plain words", "<|im_start|>user\n<call><|im_end|>"]
LORA: dict[str, Any] = {"lora_rank": 4, "learning_rate": 0.01, "num_epochs": 6, "batch_size": 2, "device": "cpu"}


def write(path: Path, count: int = 8) -> Path:
    """Conversations with the new tokens."""
    rows = [
        {"messages": [{"role": "user", "content": f"⟨état⟩ {number}"}, {"role": "assistant", "content": f"<call>look {number}</call>"}]}
        for number in range(count)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model with shared matrices and with two, whose embedding has a row for each token, and one with rows to spare."""
    folder = tmp_path_factory.mktemp("bases")
    tied = Path(shutil.copytree(model_folder("builtin:tiny"), folder / "tied"))
    made = {"tied": tied}
    for name, rows in (("untied", 1280), ("padded", 1290)):
        made[name] = Path(shutil.copytree(tied, folder / name))
        model = AutoModelForCausalLM.from_pretrained(tied)
        model.resize_token_embeddings(rows)
        torch.manual_seed(5)
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.02)
        model.config.tie_word_embeddings = False
        model.save_pretrained(made[name])
    return made


def extended(base: Path) -> Any:
    """The tokenizer of `base` with the new tokens, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in NEW])
    return tokenizer


def by_peft(base: Path, adapter: Path, ids: list[int]) -> torch.Tensor:
    """The logits of plain peft: as its users do, the base is resized before."""
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        found: torch.Tensor = peft.PeftModel.from_pretrained(model, adapter).eval()(torch.tensor([ids])).logits[0]
    return found


@pytest.mark.parametrize("source", ["tiny", "real"])
def test_texts_become_the_ids_of_transformers(source: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases["tied"] if source == "tiny" else SHARED / "qwen2-tokenizer"
    if not base.is_dir():
        pytest.skip(f"{base} is not there")
    folder = _core.with_added_tokens(base, NEW)
    wanted = extended(base)
    fast, ids = _core.tokenize(folder, TEXTS[:4])
    assert fast and ids == [wanted(text, add_special_tokens=False)["input_ids"] for text in TEXTS[:4]]
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert loaded(text)["input_ids"] == wanted(text)["input_ids"]
    assert loaded.decode(loaded(TEXTS[1])["input_ids"], skip_special_tokens=True) == TEXTS[1], "they are shown in answers"
    assert _core.with_added_tokens(folder, NEW) == folder, "it has them"
    samples = prepare(str(base), path=str(write(tmp_path / "data.json", 2)), add_tokens=NEW).samples
    text = wanted.apply_chat_template(json.loads((tmp_path / "data.json").read_text())[1]["messages"], tokenize=False)
    whole = wanted(text, add_special_tokens=False)["input_ids"]
    assert samples[1].input_ids.tolist() == whole[: len(samples[1].input_ids)] and len(wanted) - 1 in whole


def test_check_counts_the_new_tokens_as_one(bases: dict[str, Path], tmp_path: Path) -> None:
    data = write(tmp_path / "data.json")
    before, after = (pyrust_nn.check_dataset(bases["tied"], dataset_path=data, **more) for more in ({}, {"add_tokens": NEW}))
    assert after["counts"]["tokens"] < before["counts"]["tokens"] and after["ok"]
    assert after["model"] == before["model"] and after["estimate"]["memory"]["total"] > before["estimate"]["memory"]["total"]


@pytest.mark.parametrize("kind", ["tied", "untied", "padded"])
def test_an_adapter_with_new_tokens_is_the_same_in_peft_merged_and_in_llama_cpp(
    kind: str, bases: dict[str, Path], tmp_path: Path, runs: Path
) -> None:
    base = bases[kind]
    pyrust_nn.finetune_lora("s", base, dataset_path=write(tmp_path / "data.json"), add_tokens=NEW, runs_dir=runs, **LORA)
    adapter = runs / "s/finetune_lora/adapter"
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "⟨état⟩ 3"}], add_generation_prompt=True, return_dict=False)
    assert max(ids) == len(tokenizer) - 1
    expected = by_peft(base, adapter, ids)

    pyrust_nn.merge("s", adapter, runs_dir=runs, device="cpu")
    merged = runs / "s/merge/model"
    plain = AutoModelForCausalLM.from_pretrained(merged)
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor([ids])).logits[0], expected, rtol=1e-4, atol=1e-4)
    rows = plain.get_input_embeddings().weight
    assert len(rows) == max(len(tokenizer), 1290 if kind == "padded" else 0) == plain.config.vocab_size
    known = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight[:1280]
    assert torch.equal(rows[:1280], known), "only the rows of new tokens are trained"

    with torch.no_grad():
        answer = plain.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :]
    wanted = tokenizer.decode(answer, skip_special_tokens=True)
    assert wanted.startswith("<call>"), "the new token was learned"
    asked: dict[str, Any] = {"prompt": "⟨état⟩ 3", "max_new_tokens": 8, "runs_dir": runs, "device": "cpu"}
    for step, model in (("of_adapter", adapter), ("of_merged", merged)):
        summary = pyrust_nn.inference("s", model, step=step, **asked)
        assert summary["result"][0]["text"] == wanted

    made = pyrust_nn.convert_model_to_gguf("s", adapter, outtype="f32", runs_dir=runs, device="cpu")
    with Engine(EngineSettings(str(runs / "s" / made["outputs"]["gguf"][0]), 512)) as engine:
        for text in TEXTS:
            found = engine.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
            assert found == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_new_rows_begin_as_the_mean_of_their_pieces(bases: dict[str, Path], tmp_path: Path, runs: Path) -> None:
    base = bases["untied"]
    pyrust_nn.finetune_full(
        "s",
        base,
        dataset_path=write(tmp_path / "data.json"),
        add_tokens=NEW,
        learning_rate=1e-12,
        num_epochs=0.2,
        runs_dir=runs,
        device="cpu",
    )
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base, runs / "s/finetune_full/model"))
    assert after.config.vocab_size == 1283
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(runs / "s/finetune_full/model")
    for text in NEW:
        pieces = old(text, add_special_tokens=False)["input_ids"]
        (own,) = new(text, add_special_tokens=False)["input_ids"]
        assert own >= 1280 and len(pieces) > 1
        for part in ("get_input_embeddings", "get_output_embeddings"):
            mean = getattr(before, part)().weight[pieces].mean(0)
            torch.testing.assert_close(getattr(after, part)().weight[own], mean, rtol=0, atol=1e-6)


def test_training_with_new_tokens_has_the_loss_of_plain_transformers(bases: dict[str, Path], tmp_path: Path, runs: Path) -> None:
    """The loss of the first step, by transformers and peft alone. That the gradients are equal is in test_target_loss.py."""
    data = write(tmp_path / "data.json", 4)
    given = LORA | {"batch_size": 4, "num_epochs": 1, "lora_dropout": 0.0, "logging_steps": 1, "max_grad_norm": 0.0}
    for kind in ("tied", "untied"):
        pyrust_nn.finetune_lora("s", bases[kind], step=kind, dataset_path=data, add_tokens=NEW, runs_dir=runs, **given)
        line = json.loads((runs / "s" / kind / "metrics.jsonl").read_text().splitlines()[0])
        tokenizer = extended(bases[kind])
        model = AutoModelForCausalLM.from_pretrained(bases[kind])
        old = AutoTokenizer.from_pretrained(bases[kind])
        model.resize_token_embeddings(len(tokenizer))
        with torch.no_grad():
            for matrix in {model.get_input_embeddings(), model.get_output_embeddings()}:
                for text in NEW:
                    matrix.weight[tokenizer.convert_tokens_to_ids(text)] = matrix.weight[
                        old(text, add_special_tokens=False)["input_ids"]
                    ].mean(0)
        new = [tokenizer.convert_tokens_to_ids(text) for text in NEW]
        indices = {"embed_tokens": new} | ({"lm_head": new} if kind == "untied" else {})
        seven = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=seven, trainable_token_indices=indices)
        adapted = peft.get_peft_model(model, config)
        total, count = 0.0, 0
        for row in json.loads(data.read_text()):
            prompt = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=False)
            answer = tokenizer(row["messages"][1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = adapted(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum").item()
            count += len(answer)
        assert line["loss"] == pytest.approx(float(total) / count, rel=1e-5)


def test_an_adapter_keeps_its_tokens_and_its_template_when_it_is_trained_further(
    bases: dict[str, Path], tmp_path: Path, runs: Path
) -> None:
    base, data = bases["tied"], write(tmp_path / "data.json")
    pyrust_nn.finetune_lora("s", base, dataset_path=data, add_tokens=NEW, runs_dir=runs, **LORA)
    adapter = Path(shutil.copytree(runs / "s/finetune_lora/adapter", tmp_path / "adapter"))
    template = (adapter / "chat_template.jinja").read_text().replace("You are a helpful assistant.", "Use <call>.")
    (adapter / "chat_template.jinja").write_text(template)
    further = LORA | {"lora_rank": None, "num_epochs": 1, "forgetting_rows": 4}
    summary = pyrust_nn.finetune_lora("s", base, step="more", dataset_path=data, checkpoint_lora=adapter, runs_dir=runs, **further)
    made = runs / "s/more/adapter"
    assert (made / "chat_template.jinja").read_text() == template
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert len(tokenizer) == 1283 and not torch.equal(rows_of(made), rows_of(adapter)), "the rows are trained further"
    # The rows are those that the adapter's tokenizer and template make.
    conversations = [row["messages"] for row in json.loads(data.read_text())]
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
    assert summary["metrics"]["tokens"] == sum(len(tokenizer(text)["input_ids"]) for text in texts)
    assert summary["result"]["forgetting"][0]["loss_before"] < 5, "the earlier stage is measured with the adapter's tokens"
    log = (runs / "s/pipeline.log").read_text()
    assert f"tokenizer.json and chat_template.jinja of adapter {adapter}, not of its base, are used" in log
    with pytest.raises(InputError, match="gets no more tokens"):
        pyrust_nn.finetune_lora(
            "s", base, step="new", dataset_path=data, checkpoint_lora=adapter, add_tokens=["<other>"], runs_dir=runs, **further
        )


def rows_of(adapter: Path) -> torch.Tensor:
    (found,) = (tensor for name, tensor in load_file(adapter / "adapter_model.safetensors").items() if "trainable_tokens" in name)
    return found


def test_a_resumed_training_keeps_the_new_tokens(bases: dict[str, Path], tmp_path: Path, runs: Path) -> None:
    data = write(tmp_path / "data.json")
    given = LORA | {"dataset_path": data, "add_tokens": NEW, "save_steps": 2, "num_epochs": 2, "runs_dir": runs}
    pyrust_nn.finetune_lora("whole", bases["tied"], **given)
    pyrust_nn.finetune_lora("cut", bases["tied"], **given)
    step = runs / "cut/finetune_lora"
    back_to(step, 4)
    pyrust_nn.resume("cut", "finetune_lora", runs_dir=runs)
    assert torch.equal(rows_of(step / "adapter"), rows_of(runs / "whole/finetune_lora/adapter"))


def test_what_cannot_be_is_refused(bases: dict[str, Path], tmp_path: Path, runs: Path) -> None:
    data = write(tmp_path / "data.json")
    for more, words in (
        ({"add_tokens": [" "]}, "only white space"),
        ({"add_tokens": NEW, "target_modules": ["q_proj", "embed_tokens"]}, "leave it out of target_modules"),
    ):
        with pytest.raises(InputError, match=words):
            pyrust_nn.finetune_lora("s", bases["tied"], dataset_path=data, runs_dir=runs, overwrite=True, **LORA | more)
    # An adapter of another tool, whose tokens were added to the tokenizer, and whose resized embedding was not saved.
    made = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(bases["tied"]), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    )
    made.save_pretrained(tmp_path / "other")
    extended(bases["tied"]).save_pretrained(tmp_path / "other")
    for call in (
        lambda: pyrust_nn.merge("s", tmp_path / "other", runs_dir=runs, device="cpu"),
        lambda: pyrust_nn.inference("s", tmp_path / "other", prompt="a", runs_dir=runs, device="cpu"),
        lambda: pyrust_nn.finetune_lora(
            "s", bases["tied"], step="more", dataset_path=data, checkpoint_lora=tmp_path / "other", runs_dir=runs, device="cpu"
        ),
    ):
        with pytest.raises(InputError, match=r"new tokens </call>, <call>, ⟨état⟩"):
            call()
