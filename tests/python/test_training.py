"""Fine-tuning from the outside: what is learned, saved, refused and reported."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_training import run_training, small_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

import pyrust_nn
from pyrust_nn import InputError, ModelError, UsageError
from pyrust_nn.models.loading import freeze_quantized
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.tokenizers import TokenizerFiles, load_tokenizer
from pyrust_nn.training import loop
from pyrust_nn.training.batches import BatchLayout, MicroBatching
from pyrust_nn.training.order import epoch_order
from pyrust_nn.training.rows import PreparedRows, Row
from pyrust_nn.training.step_loss import StepLoss

TINY = "builtin:tiny"
ENDS = {"<|im_end|>", "<|endoftext|>"}


def write(path, conversations):
    path.write_text(json.dumps([{"messages": messages} for messages in conversations]), encoding="utf-8")
    return path


def encoded(dataset):
    """Its rows, as copies that a test may change."""
    rows = PreparedRows(pyrust_nn.prepare_dataset(TINY, dataset_path=dataset, max_length=999)["path"])
    return [Row(row.input_ids.copy(), row.labels.copy()) for row in rows]


def conversation(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(TINY)


@pytest.fixture
def few(tmp_path):
    """Eleven conversations of different lengths."""
    return write(tmp_path / "few.json", [conversation(f"Question {i}?", f"Answer {i} " * (1 + 3 * i % 7)) for i in range(11)])


@pytest.fixture
def same(tmp_path):
    """Four times one conversation: whichever is trained on or held out, its loss can be computed."""
    return write(tmp_path / "same.json", [conversation("What is it?", "A pipeline, written twice.")] * 4)


def folder(runs, summary, kind):
    assert summary["status"] == "Success"
    return runs / "s" / summary["outputs"][kind]


def weights(path):
    return load_file(next(Path(path).glob("*.safetensors")))


def metrics_file(runs, step):
    return [json.loads(line) for line in (runs / "s" / step / "metrics.jsonl").read_text().splitlines()]


def plain_loss(model, dataset):
    """Mean loss per target token of the first conversation, computed without any of our training code."""
    tokenizer = load_tokenizer(TINY)
    (messages, *_) = [row["messages"] for row in json.loads(dataset.read_text())]
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    ids = prompt + tokenizer(messages[1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), torch.tensor(ids[len(prompt) :])).item()


def tiny_model():
    return AutoModelForCausalLM.from_pretrained(model_folder(TINY))


def with_adapter(path):
    return peft.PeftModel.from_pretrained(tiny_model(), path).eval()


def test_full_fine_tune_learns_and_its_folder_is_a_model_like_the_first(runs, data_json):
    summary = pyrust_nn.finetune_full(
        "s",
        TINY,
        dataset_path=data_json,
        num_epochs=4,
        learning_rate=2e-3,
        logging_steps=5,
        eval_split=0.1,
        runs_dir=runs,
    )
    saved = folder(runs, summary, "model")
    figures = summary["metrics"]
    assert figures["last_loss"] < figures["first_loss"] - 1
    conversations = json.loads(Path(data_json).read_text(encoding="utf-8"))
    rows = figures["rows"] - figures["eval_rows"]
    assert figures["rows"] == len(conversations) and figures["eval_rows"] == round(0.1 * len(conversations))
    assert figures["steps"] == 4 * math.ceil(rows / 4) and figures["epochs"] == 4
    assert figures["trainable_parameters"] == figures["all_parameters"]
    assert summary["params"]["device"] in ("cpu", "cuda") and summary["params"]["dtype"] in ("fp32", "bf16", "fp16")

    # metrics.jsonl: the loss at every 5th step and the last, an evaluation at each epoch's end
    records = metrics_file(runs, "finetune_full")
    steps = figures["steps"]
    assert [r["step"] for r in records if "loss" in r] == sorted({*range(5, steps + 1, 5), steps})
    assert [r["epoch"] for r in records if "eval_loss" in r] == [1, 2, 3, 4]
    assert [r["eval_loss"] for r in records if "eval_loss" in r][-1] == figures["eval_loss"]
    for record in records:
        wanted = {"step", "epoch", "peak_memory_bytes", "eta_seconds"}
        if "loss" in record:
            wanted |= {"loss", "learning_rate", "grad_norm", "target_tokens_per_second", "tokens_per_second"}
        assert set(record) == wanted | {"eval_loss"} & set(record)
    covered = [b - a for a, b in zip([0, *range(5, steps, 5)], [r["step"] for r in records if "loss" in r], strict=False)]
    mean = sum(r["loss"] * n for r, n in zip((r for r in records if "loss" in r), covered, strict=True)) / steps
    assert mean == pytest.approx(figures["train_loss"], rel=1e-5)

    # transformers loads it, in the base's dtype, with the stop set and the template; nothing is pickled
    model = AutoModelForCausalLM.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert {tokenizer.decode(token) for token in model.generation_config.eos_token_id} == ENDS
    assert tokenizer.chat_template == load_tokenizer(TINY).chat_template
    assert model.config.use_cache is True and model.dtype == tiny_model().dtype
    assert not [file for file in saved.rglob("*") if file.suffix in (".bin", ".pt", ".pth")]
    assert not (saved.parent / "checkpoints").exists()


@pytest.mark.parametrize("task", ["finetune_full", "finetune_lora"])
def test_micro_batches_change_nothing(runs, few, task):
    """Eleven rows, so that the last step is not full: 1x8, 2x4 and 8x1 end in the same weights."""
    results = []
    more = {"lora_dropout": 0} if task == "finetune_lora" else {}
    for batch, accumulation in ((1, 8), (2, 4), (8, 1)):
        summary = getattr(pyrust_nn, task)(
            "s", TINY, dataset_path=few, num_epochs=2, batch_size=batch, gradient_accumulation_steps=accumulation,
            learning_rate=1e-3, logging_steps=1, step=f"by{batch}", runs_dir=runs, **more,
        )  # fmt: skip
        losses = [record["loss"] for record in metrics_file(runs, f"by{batch}")]
        results.append((losses, weights(folder(runs, summary, "model" if task == "finetune_full" else "adapter"))))
    (losses, first), *others = results
    assert len(losses) == 4
    for other_losses, other in others:
        assert other_losses == pytest.approx(losses, rel=1e-4)
        for name, tensor in first.items():
            # Adam divides by the gradient's size, so rounding shows where a gradient is almost nothing.
            assert (other[name] - tensor).abs().mean() < 1e-5, name


def test_evaluation_loss_is_the_mean_over_target_tokens(runs, same):
    summary = pyrust_nn.finetune_full(
        "s", TINY, dataset_path=same, num_epochs=1, learning_rate=1e-3, eval_dataset_path=same, batch_size=2, runs_dir=runs
    )
    model = AutoModelForCausalLM.from_pretrained(folder(runs, summary, "model"))
    assert summary["metrics"]["first_loss"] == pytest.approx(plain_loss(tiny_model(), same), rel=1e-4)
    assert summary["metrics"]["eval_loss"] == pytest.approx(plain_loss(model, same), rel=1e-4)


def test_an_adapter_loads_in_plain_peft_and_computes_what_was_trained(runs, same):
    summary = pyrust_nn.finetune_lora(
        "s", TINY, dataset_path=same, num_epochs=3, learning_rate=5e-3, lora_rank=4, eval_dataset_path=same, runs_dir=runs
    )
    saved = folder(runs, summary, "adapter")
    assert summary["metrics"]["eval_loss"] < summary["metrics"]["first_loss"]
    assert summary["metrics"]["eval_loss"] == pytest.approx(plain_loss(with_adapter(saved), same), rel=1e-4)

    # Its formula by hand: every adapted matrix W becomes W + alpha / rank * B A.
    model, tensors = tiny_model(), weights(saved)
    adapted = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    with torch.no_grad():
        for name in adapted:
            module = model.get_submodule(name.removeprefix("base_model.model."))
            module.weight += 32 / 4 * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(with_adapter(saved)(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert len(adapted) == 2 * 7
    assert summary["metrics"]["trainable_parameters"] == sum(tensor.numel() for tensor in tensors.values())

    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == TINY
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 32, 0.05)
    params = summary["params"]
    assert (params["lora_rank"], params["lora_alpha"], params["lora_dropout"]) == (4, 32, 0.05)
    assert params["target_modules"] == sorted(config["target_modules"])
    assert AutoTokenizer.from_pretrained(saved).chat_template and not (saved / "README.md").exists()


def test_a_checkpoint_goes_on_as_peft_itself_would(runs, same):
    shared = {"dataset_path": same, "num_epochs": 1, "scheduler": "constant", "learning_rate": 1e-3, "runs_dir": runs}
    first = folder(runs, pyrust_nn.finetune_lora("s", TINY, **shared, lora_rank=3, lora_dropout=0, step="first"), "adapter")
    summary = pyrust_nn.finetune_lora("s", TINY, **shared, checkpoint_lora=first, step="second")
    second = folder(runs, summary, "adapter")
    assert summary["metrics"]["steps"] == 1
    assert summary["metrics"]["first_loss"] == pytest.approx(plain_loss(with_adapter(first), same), rel=1e-4)
    assert [summary["params"][name] for name in ("lora_rank", "lora_alpha", "lora_dropout")] == [3, 32, 0]

    # One step by hand: four equal rows have the gradient of one.
    model = peft.PeftModel.from_pretrained(tiny_model(), first, is_trainable=True)
    (sample, *_) = encoded(same)
    ids, labels = (torch.tensor(array.astype("int64"))[None] for array in (sample.input_ids, sample.labels))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0)
    model(ids, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    expected = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    got = weights(second)
    assert got.keys() == expected.keys()
    before = weights(first)
    for name, tensor in expected.items():
        assert (got[name] - before[name]).abs().max() > 5e-4
        assert (got[name] - tensor).abs().mean() < 1e-5, name


def test_a_checkpoint_keeps_its_dropout_unless_another_is_given(runs, same):
    first = pyrust_nn.finetune_lora("s", TINY, dataset_path=same, num_epochs=1, lora_dropout=0.3, step="first", runs_dir=runs)
    path = folder(runs, first, "adapter")
    for given_dropout, expected in ((None, 0.3), (0.1, 0.1)):
        more = {} if given_dropout is None else {"lora_dropout": given_dropout}
        summary = pyrust_nn.finetune_lora(
            "s",
            TINY,
            dataset_path=same,
            num_epochs=1,
            checkpoint_lora=path,
            step=f"next{given_dropout}",
            runs_dir=runs,
            **more,
        )
        config = json.loads((folder(runs, summary, "adapter") / "adapter_config.json").read_text())
        assert config["lora_dropout"] == summary["params"]["lora_dropout"] == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lora_rank": 5}, "lora_rank is .* not 5"),
        ({"lora_alpha": 5}, "lora_alpha is .* not 5"),
        ({"target_modules": ["q_proj"]}, "target_modules is"),
        ({"use_rslora": True}, "use_rslora is false in the checkpoint"),
        ({"model": TINY}, "was trained on .* but builtin:tiny has other weights"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(runs, trained, few, given, words):
    model = given.get("model", trained["full"])
    more = {name: value for name, value in given.items() if name != "model"}
    with pytest.raises(InputError, match=words):
        pyrust_nn.finetune_lora("s", model, dataset_path=few, checkpoint_lora=trained["lora"], runs_dir=runs, **more)


def test_a_copy_of_the_base_is_the_base(runs, trained, same, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in Path(trained["full"]).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    summary = pyrust_nn.finetune_lora("s", copy, dataset_path=same, num_epochs=1, checkpoint_lora=trained["lora"], runs_dir=runs)
    config = json.loads((folder(runs, summary, "adapter") / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(copy)


@pytest.mark.parametrize(
    ("task", "given", "words"),
    [
        ("finetune_lora", {"model": "lora"}, "itself a LoRA adapter.*checkpoint_lora.*merge"),
        ("finetune_full", {"model": "lora"}, "is a LoRA adapter.*merge"),
        ("finetune_lora", {"target_modules": ["q_proj", "nix"]}, r"[\"']nix[\"'].*down_proj.*v_proj"),
        ("finetune_full", {"max_length": 5000}, "5000.*2048 positions"),
        ("finetune_full", {"max_length": 20}, r"longer|more than max_length 20.*\[0\]"),
        ("finetune_full", {"max_length": 8, "overlong": "drop"}, "no sample is left"),
        ("finetune_full", {"eval_split": 0.9, "rows": 1}, "eval_split.*leaves nothing"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_fix(runs, trained, few, tmp_path, task, given, words):
    model = trained[given["model"]] if "model" in given else TINY
    if "rows" in given:
        few = write(tmp_path / "cut.json", [row["messages"] for row in json.loads(few.read_text())][: given["rows"]])
    more = {name: value for name, value in given.items() if name not in ("model", "rows")}
    known_before = "model" in given or given.get("max_length") == 5000
    with pytest.raises(UsageError if known_before else InputError, match=words):
        getattr(pyrust_nn, task)("s", model, dataset_path=few, runs_dir=runs, **more)


def test_a_quantized_model_is_not_fine_tuned_in_full(runs, few, tmp_path):
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    for file in model_folder(TINY).iterdir():
        (quantized / file.name).write_bytes(file.read_bytes())
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"is quantized.*finetune_lora"):
        pyrust_nn.finetune_full("s", quantized, dataset_path=few, runs_dir=runs)


def test_a_loss_that_is_no_number_stops_the_training(runs, few):
    with pytest.raises(ModelError, match=r"diverged.*lower learning_rate \(now 10\)"):
        pyrust_nn.finetune_full(
            "s",
            TINY,
            dataset_path=few,
            num_epochs=30,
            learning_rate=10.0,
            max_grad_norm=0,
            weight_decay=10.0,
            runs_dir=runs,
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_broke_in_the_last_step_is_found(tokenizer, samples, tmp_path, value):
    class Break(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model, **more):
            if state.global_step == state.max_steps:
                model.model.layers[1].mlp.up_proj.weight.data[3, 4] = value

    with pytest.raises(ModelError, match="weights became infinite or NaN"):
        run_training(small_model(), tokenizer, samples, tmp_path, callbacks=[Break()])


def test_a_tokenizer_that_was_loaded_is_its_saved_files(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "plain")
    TokenizerFiles.from_loaded(tokenizer).save_pretrained(tmp_path / "saved")
    plain, saved = ({path.name: path.read_bytes() for path in (tmp_path / kind).iterdir()} for kind in ("plain", "saved"))
    assert plain == saved and "tokenizer.json" in plain


def test_the_seed_decides_everything(runs, few):
    made = {}
    for step, seed in (("one", 1), ("again", 1), ("two", 2)):
        summary = pyrust_nn.finetune_lora("s", TINY, dataset_path=few, num_epochs=1, seed=seed, step=step, runs_dir=runs)
        made[step] = weights(folder(runs, summary, "adapter"))
    assert all(torch.equal(made["one"][name], made["again"][name]) for name in made["one"])
    assert not any(torch.equal(made["one"][name], made["two"][name]) for name in made["one"])


def test_checkpoints_are_whole_folders(runs, few):
    summary = pyrust_nn.finetune_lora("s", TINY, dataset_path=few, num_epochs=2, batch_size=4, save_steps=2, runs_dir=runs)
    assert summary["metrics"]["steps"] == 6
    checkpoints = runs / "s" / "finetune_lora" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for checkpoint in checkpoints.iterdir():
        names = {path.name for path in checkpoint.iterdir()}
        assert {
            "adapter_model.safetensors",
            "optimizer.pt",
            "scheduler.pt",
            "rng_state.pth",
            "trainer_state.json",
        } <= names
        assert "training_args.bin" not in names
    last, saved = weights(checkpoints / "checkpoint-6"), weights(folder(runs, summary, "adapter"))
    assert all(torch.equal(last[name], saved[name]) for name in saved)


def test_bf16_on_a_cpu_trains_and_saves_bf16_and_the_next_step_is_fp32_again(runs, few):
    summary = pyrust_nn.finetune_full(
        "s",
        TINY,
        dataset_path=few,
        num_epochs=2,
        learning_rate=1e-3,
        dtype="bf16",
        device="cpu",
        step="half",
        runs_dir=runs,
    )
    assert summary["params"]["dtype"] == "bf16" and summary["metrics"]["last_loss"] < summary["metrics"]["first_loss"]
    assert {tensor.dtype for tensor in weights(folder(runs, summary, "model")).values()} == {torch.bfloat16}
    adapter = pyrust_nn.finetune_lora("s", TINY, dataset_path=few, num_epochs=1, dtype="bf16", device="cpu", step="lora", runs_dir=runs)
    assert {tensor.dtype for tensor in weights(folder(runs, adapter, "adapter")).values()} == {torch.float32}
    again = pyrust_nn.finetune_full("s", TINY, dataset_path=few, num_epochs=1, device="cpu", step="whole", runs_dir=runs)
    assert {tensor.dtype for tensor in weights(folder(runs, again, "model")).values()} == {torch.float32}


def test_fp16_without_a_gpu_is_refused(runs, few):
    with pytest.raises(UsageError, match="fp16 needs a CUDA device"):
        pyrust_nn.finetune_full("s", TINY, dataset_path=few, dtype="fp16", device="cpu", runs_dir=runs)


def test_qlora_trains_an_adapter_on_a_model_in_4_bit(runs, same):
    summary = pyrust_nn.finetune_lora(
        "s", TINY, dataset_path=same, num_epochs=4, learning_rate=5e-3, load_in_4bit=True, eval_dataset_path=same, runs_dir=runs
    )
    figures = summary["metrics"]
    assert figures["last_loss"] < figures["first_loss"]
    assert figures["all_parameters"] == sum(p.numel() for p in tiny_model().parameters()) + figures["trainable_parameters"]
    # nf4 is near enough to the plain weights for the adapter to help there too
    assert plain_loss(with_adapter(folder(runs, summary, "adapter")), same) < plain_loss(tiny_model(), same)


# What follows reaches below the public functions, where the property cannot be seen from outside.


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Twelve rows of different lengths."""
    conversations = [conversation(f"Question {i}?", f"Answer {i} " * (1 + 3 * i % 7)) for i in range(12)]
    return encoded(write(tmp_path_factory.mktemp("samples") / "data.json", conversations))


def assert_close(one, other, tolerance=1e-5):
    for (name, first), second in zip(one.named_parameters(), other.parameters(), strict=True):
        assert (first - second).abs().mean() < tolerance, name


@pytest.mark.parametrize(
    "given",
    [
        {"packing": "off"},
        {"max_tokens_per_batch": 1},
        {"max_tokens_per_batch": 40},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "packing": "off"},
    ],
)
def test_how_a_step_is_computed_does_not_change_what_is_learned(tokenizer, samples, tmp_path, given):
    one, other = small_model(), small_model()
    first = run_training(one, tokenizer, samples, tmp_path, held_out=samples[:3])
    second = run_training(other, tokenizer, samples, tmp_path, held_out=samples[:3], **given)
    assert second["last_loss"] == pytest.approx(first["last_loss"], rel=1e-5)
    assert second["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-5)
    assert_close(one, other)
    assert one.config._attn_implementation == small_model().config._attn_implementation


def linear_attention_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    delta = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 1, "linear_num_value_heads": 2}
    layers = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 16}
    return transformers.Qwen3_5ForCausalLM(transformers.Qwen3_5TextConfig(vocab_size=1280, **sizes, **delta, **layers))


def dora_model():
    torch.manual_seed(0)
    return peft.get_peft_model(small_model(), peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj", "down_proj"]))


@pytest.mark.parametrize(
    ("make", "flat", "ratio"),
    [(linear_attention_model, "A_log", None), (dora_model, "magnitude", None), (dora_model, "magnitude", 4.0)],
    ids=["A_log", "DoRA", "DoRA and LoRA+"],
)
def test_weight_decay_leaves_one_dimensional_weights_alone(make, flat, ratio, tokenizer, samples, tmp_path):
    """After one step the weights with and without decay differ by the decay alone."""
    trained = {}
    for decay in (0.0, 10.0):
        model = make()
        run_training(model, tokenizer, samples[:4], tmp_path, weight_decay=decay, loraplus_ratio=ratio)
        trained[decay] = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    assert any(flat in name for name in trained[0.0])
    for name, weight in trained[10.0].items():
        if "lora_B" not in name:  # it starts at zero, where decay has no effect
            assert torch.equal(weight, trained[0.0][name]) == (weight.ndim < 2), name


def test_an_evaluation_that_needs_too_much_memory_takes_fewer_rows_at_once(tokenizer, samples, tmp_path):
    class Crowded(Qwen2ForCausalLM):
        def forward(self, input_ids, **given):
            if not self.training and input_ids.numel() > 120:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(input_ids=input_ids, **given)

    torch.manual_seed(0)
    crowded = Crowded(small_model().config)
    crowded.load_state_dict(small_model().state_dict())
    assert sum(len(one.input_ids) for one in samples) > 240
    plain = run_training(small_model(), tokenizer, samples[:2], tmp_path, held_out=samples)
    made = run_training(crowded, tokenizer, samples[:2], tmp_path, held_out=samples)
    assert made["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)


def test_memory_that_runs_out_for_good_is_said_with_what_to_do(tokenizer, samples, tmp_path):
    class Full(Qwen2ForCausalLM):
        def forward(self, input_ids, **given):
            if not self.training:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(input_ids=input_ids, **given)

    with pytest.raises(ModelError, match=r"memory of cpu is too small.*max_length"):
        run_training(Full(small_model().config), tokenizer, samples[:2], tmp_path, held_out=samples)


def test_an_evaluation_is_of_tokens_alone_where_experts_have_a_router(tokenizer, samples, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig(vocab_size=1280, **sizes, **experts, output_router_logits=True, router_aux_loss_coef=0.5))
    made = run_training(model, tokenizer, samples[:4], tmp_path, held_out=samples, learning_rate=1e-9)
    total = count = 0
    for one in samples:
        ids, labels = (torch.from_numpy(array.astype("int64"))[None] for array in (one.input_ids, one.labels))
        with torch.no_grad():
            logits = model.eval()(ids).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=-100, reduction="sum").item()
        count += one.target_tokens
    assert made["eval_loss"] == pytest.approx(total / count, rel=1e-4)


def test_padding_changes_nothing_that_is_learned(tokenizer, samples, tmp_path, monkeypatch):
    one, other, padded = small_model(), small_model(), []

    class Padded(MicroBatching):
        def inputs(self, rows):
            made = super().inputs(rows)
            padded.append("attention_mask" in made)
            return made

    first = run_training(one, tokenizer, samples, tmp_path, held_out=samples[:3])
    monkeypatch.setattr(loop, "choose_batching", lambda *given: Padded(BatchLayout.PADDED, 10**6))
    second = run_training(other, tokenizer, samples, tmp_path, held_out=samples[:3])
    assert any(padded)
    for name in ("first_loss", "last_loss", "eval_loss"):
        assert second[name] == pytest.approx(first[name], rel=1e-5)
    assert_close(one, other)


def test_one_of_several_processes_is_refused(runs, few, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"one of 2 processes.*unset WORLD_SIZE"):
        pyrust_nn.finetune_lora("s", TINY, dataset_path=few, runs_dir=runs)


def test_a_step_is_adamws_own_on_the_mean_over_its_target_tokens(tokenizer, samples, tmp_path):
    """Three steps by torch's unfused AdamW, transformers' own loss and one row at a time."""
    ours, plain = small_model(), small_model()
    run_training(ours, tokenizer, samples, tmp_path, weight_decay=0.1)
    decayed = [p for p in plain.parameters() if p.dim() > 1]
    rest = [p for p in plain.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=False, foreach=False)
    order = epoch_order(len(samples), 7, 0)
    for first in range(0, len(order), 4):
        rows = [samples[i] for i in order[first : first + 4]]
        count = sum(row.target_tokens for row in rows)
        for row in rows:
            ids, labels = (torch.tensor(array.astype("int64"))[None] for array in (row.input_ids, row.labels))
            plain(ids, labels=labels, num_items_in_batch=count).loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert_close(ours, plain, 2e-6)


class Crowded(Qwen2ForCausalLM):
    """A model that has memory for so many tokens at a time (kept for the backward pass), and no more."""

    room = 10**9

    def forward(self, input_ids, **kwargs):
        # What checkpointing does not keep is counted as a third.
        if input_ids.numel() / (3 if self.model.gradient_checkpointing else 1) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(input_ids=input_ids, **kwargs)


def test_out_of_memory_takes_smaller_micro_batches_of_the_same_step(tokenizer, samples, tmp_path, caplog):
    plain, crowded = small_model(), Crowded(small_model().config)
    crowded.load_state_dict(plain.state_dict())
    longest = max(len(sample.input_ids) for sample in samples)
    crowded.room = longest // 2
    expected = run_training(plain, tokenizer, samples, tmp_path)
    got = run_training(crowded, tokenizer, samples, tmp_path)
    assert got["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
    assert_close(plain, crowded)
    assert "micro-batches are limited" in caplog.text and "gradient checkpointing is turned on" in caplog.text
    crowded.room = 3
    with pytest.raises(ModelError, match=r"too small to train on a row of \d+ tokens; lower max_length"):
        run_training(crowded, tokenizer, samples, tmp_path)


def test_a_quantized_base_keeps_its_large_matrices_in_half_precision():
    model = small_model().to(torch.bfloat16)
    freeze_quantized(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    kinds = {(parameter.dim(), parameter.dtype) for parameter in model.parameters()}
    assert kinds == {(1, torch.float32), (2, torch.bfloat16)}


def test_compiled_layers_are_not_checkpointed_when_memory_runs_out(samples):
    crowded = Crowded(small_model().config)
    crowded.room = 3
    batching = MicroBatching(BatchLayout.PADDED, 768)
    loss = StepLoss(crowded, batching, torch.device("cpu"), torch.float32, may_checkpoint=False)
    with pytest.raises(ModelError, match=r"too small to train on a row of \d+ tokens.*gradient_checkpointing \(with compile"):
        loss.add_gradients(samples[:4], torch.ones(()), torch.amp.GradScaler(enabled=False))
    assert not crowded.is_activation_checkpointing


def test_a_routers_loss_counts_once_however_a_step_is_cut(tokenizer, samples, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2MoeConfig(
        vocab_size=1280, **sizes, moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts=4,
        num_experts_per_tok=4, output_router_logits=True, router_aux_loss_coef=0.5, mlp_only_layers=[],
    )  # fmt: skip
    losses = []
    for budget in (1, 10**6):
        torch.manual_seed(0)
        model = Qwen2MoeForCausalLM(config)
        losses.append(run_training(model, tokenizer, samples, tmp_path, max_tokens_per_batch=budget)["first_loss"])
    # All experts are chosen, so the router's loss is the same (4) for every part.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] > math.log(1280) + 0.5 * 4 - 1


def test_noise_on_embeddings_is_nefttunes(tokenizer, samples, tmp_path):
    """arXiv 2310.05914: uniform within alpha / sqrt(length x features), in training alone."""
    model, seen = small_model(), []
    before = model.model.embed_tokens.weight.detach().clone()

    def record(module, args, kwargs):
        if model.training and not seen:
            ids, states = recorded["ids"], args[0]
            seen.append((states.detach() - before[ids], ids.numel() * 16))

    recorded = {}
    model.register_forward_pre_hook(lambda m, a, k: recorded.update(ids=k["input_ids"]), with_kwargs=True)
    model.model.layers[0].register_forward_pre_hook(record, with_kwargs=True)
    run_training(model, tokenizer, samples, tmp_path, neftune_alpha=5.0)
    ((noise, size),) = seen
    bound = 5 / math.sqrt(size)
    assert noise.abs().max() <= bound * 1.0001 and noise.abs().max() > 0.9 * bound
    assert noise.abs().mean() == pytest.approx(bound / 2, rel=0.2)
    with pytest.raises(InputError, match="packing cannot be on: neftune_alpha"):
        run_training(small_model(), tokenizer, samples, tmp_path, neftune_alpha=5.0, packing="on")


def test_lora_plus_is_pefts_own(tokenizer, samples, tmp_path):
    """The first step of Adam moves every weight by its rate, so B moves 16 times as far as it would."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(0)
    model = peft.get_peft_model(small_model(), config)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_B" in name}
    run_training(model, tokenizer, samples[:4], tmp_path, loraplus_ratio=16.0, max_grad_norm=0)
    for name, tensor in before.items():
        assert (model.get_parameter(name) - tensor).abs().max().item() == pytest.approx(16e-3, rel=1e-2)


def test_an_8_bit_optimizer_learns_with_moments_of_a_byte(tokenizer, samples, tmp_path):
    kept = []

    class Keep(transformers.TrainerCallback):
        def on_train_end(self, args, state, control, optimizer, **more):
            kept.append(optimizer)

    model = small_model(hidden_size=64, intermediate_size=128)
    given = {"optimizer": "adamw_8bit", "num_epochs": 4, "learning_rate": 1e-2}
    figures = run_training(model, tokenizer, samples, tmp_path, callbacks=[Keep()], **given)
    assert figures["last_loss"] < figures["first_loss"] - 0.5
    moments = {state["state1"].dtype for state in kept[0].state.values() if state["state1"].numel() > 4096}
    assert torch.uint8 in moments


def test_dora_is_saved_as_dora_and_continued_as_such(runs, same):
    shared = {"dataset_path": same, "num_epochs": 1, "learning_rate": 5e-3, "lora_dropout": 0, "runs_dir": runs}
    first = pyrust_nn.finetune_lora("s", TINY, **shared, use_dora=True, step="first")
    saved = folder(runs, first, "adapter")
    assert json.loads((saved / "adapter_config.json").read_text())["use_dora"] is True
    assert any("lora_magnitude_vector" in name for name in weights(saved)) and first["params"]["use_dora"] is True
    second = pyrust_nn.finetune_lora("s", TINY, **shared, checkpoint_lora=saved, step="second")
    assert second["metrics"]["first_loss"] == pytest.approx(plain_loss(with_adapter(saved), same), rel=1e-4)
    with pytest.raises(InputError, match="use_dora is true in the checkpoint"):
        pyrust_nn.finetune_lora("s", TINY, **shared, checkpoint_lora=saved, use_dora=False, step="third")


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]])
def test_an_adapter_on_either_end_of_a_tied_model_is_merged_as_it_answers(runs, few, targets):
    made = pyrust_nn.finetune_lora(
        "s", TINY, dataset_path=few, num_epochs=4, learning_rate=1e-2, lora_dropout=0, target_modules=targets, runs_dir=runs
    )
    adapter = folder(runs, made, "adapter")
    merged = AutoModelForCausalLM.from_pretrained(folder(runs, pyrust_nn.merge("s", adapter, runs_dir=runs), "model"))
    ids = torch.from_numpy(encoded(few)[5].input_ids.astype("int64"))[None]
    with torch.no_grad():
        plain, adapted, joined = (model.eval()(ids).logits for model in (tiny_model(), with_adapter(adapter), merged))
    assert (adapted - plain).abs().max() > 0.1
    torch.testing.assert_close(joined, adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["continue", "stack"])
def test_qlora_goes_on_from_an_adapter(runs, few, mode):
    given = {"dataset_path": few, "num_epochs": 2, "learning_rate": 2e-3, "load_in_4bit": True, "lora_dropout": 0, "runs_dir": runs}
    first = pyrust_nn.finetune_lora("s", TINY, step="first", **given)
    second = pyrust_nn.finetune_lora(
        "s", TINY, step="second", checkpoint_lora=folder(runs, first, "adapter"), checkpoint_mode=mode, **given
    )
    assert second["metrics"]["first_loss"] < first["metrics"]["first_loss"]
    (row,) = second["result"]["forgetting"]
    assert row["loss_before"] > row["loss_after"]


def test_an_embedding_s_adapter_learns_with_loraplus_too(runs, few):
    given = {"dataset_path": few, "num_epochs": 4, "learning_rate": 2e-3, "target_modules": ["embed_tokens", "q_proj"], "runs_dir": runs}

    def largest(step, **more):
        saved = weights(folder(runs, pyrust_nn.finetune_lora("s", TINY, step=step, **given, **more), "adapter"))
        return max(tensor.abs().max() for name, tensor in saved.items() if "lora_embedding_A" in name)

    assert largest("plus", loraplus_ratio=4) > largest("plain") / 4


WANDB = """
import os

run = None
__version__ = "0.31.0"


class Run(dict):
    name = id = url = "run"
    summary = config = property(lambda self: self)

    def update(self, *given, **more):
        pass

    log = _label = define_metric = update


def init(**given):
    global run
    run = Run()
    with open(os.environ["WANDB_CALLS"], "a") as calls:
        calls.write(f"init {os.environ.get('WANDB_DIR')} {os.environ.get('WANDB_MODE')}\\n")
    return run


def finish():
    global run
    with open(os.environ["WANDB_CALLS"], "a") as calls:
        calls.write(f"finish {run is not None}\\n")
    run = None


config = Run()
log = watch = define_metric = lambda *given, **more: None
"""


def test_a_report_s_run_ends_with_its_training_however_that_ends(runs, few, tmp_path):
    """The package itself is no dependency, so one that notes its calls stands in."""
    package = tmp_path / "packages/wandb"
    (package / "sdk/lib").mkdir(parents=True)
    (package / "__init__.py").write_text(WANDB)
    for name in ("sdk/__init__.py", "sdk/lib/__init__.py"):
        (package / name).write_text("")
    (package / "sdk/lib/config_util.py").write_text("class ConfigError(Exception):\n    pass\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, pyrust_nn\n"
        "few, runs = sys.argv[1:]\n"
        "given = {'dataset_path': few, 'report_to': ['wandb'], 'runs_dir': runs}\n"
        "pyrust_nn.finetune_lora('s', 'builtin:tiny', step='good', offline=True, **given)\n"
        "try:\n"
        "    pyrust_nn.finetune_full('s', 'builtin:tiny', step='bad', num_epochs=30, learning_rate=10, max_grad_norm=0, **given)\n"
        "except pyrust_nn.ModelError as error:\n"
        "    assert 'diverged' in str(error)\n"
        "pyrust_nn.finetune_lora('s', 'builtin:tiny', step='after', **given)\n"
        "assert not {'WANDB_DIR', 'WANDB_MODE'} & os.environ.keys()\n"
    )
    calls = tmp_path / "calls"
    paths = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, program, few, runs],
        env=os.environ | {"PYTHONPATH": paths, "WANDB_CALLS": str(calls)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert calls.read_text().splitlines() == [
        f"init {runs / 's/good'} offline",
        "finish True",
        f"init {runs / 's/bad'} None",
        "finish True",
        f"init {runs / 's/after'} None",
        "finish True",
    ]


def test_a_report_that_cannot_be_made_says_what_to_install(runs, same):
    for name in ("wandb", "trackio"):
        with pytest.raises(InputError, match=rf"{name} is not installed.*pip install {name}"):
            pyrust_nn.finetune_lora("s", TINY, dataset_path=same, report_to=[name], runs_dir=runs)


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 13), batch=st.integers(1, 5), accumulation=st.integers(1, 4), epochs=st.integers(1, 3),
    budget=st.integers(8, 200), packing=st.sampled_from(["auto", "off"]),
)  # fmt: skip
def test_an_epoch_has_every_row_exactly_once_in_steps_of_batch_times_accumulation(
    tmp_path_factory, tokenizer, rows, batch, accumulation, epochs, budget, packing
):
    folder = tmp_path_factory.mktemp("s")
    samples = encoded(write(folder / "data.json", [conversation("q", "a " * (1 + i % 4)) for i in range(rows)]))
    for i, sample in enumerate(samples):
        sample.input_ids[0] = i  # the row's name
    seen = []

    def record(module, args, kwargs):
        """The rows of a micro-batch, and what its loss is divided by."""
        ids = kwargs["input_ids"]
        found = [row[0] for row in ids[0].split(kwargs["row_lengths"])] if "row_lengths" in kwargs else ids[:, 0]
        seen.append(([int(row) for row in found], int(kwargs["num_items_in_batch"]), ids.numel()))

    model = small_model()
    model.register_forward_pre_hook(record, with_kwargs=True)
    metrics = run_training(
        model, tokenizer, samples, folder, num_epochs=epochs, batch_size=batch,
        gradient_accumulation_steps=accumulation, max_tokens_per_batch=budget, packing=packing,
    )  # fmt: skip
    size = batch * accumulation
    assert metrics["steps"] == epochs * math.ceil(rows / size)
    targets = {i: sample.target_tokens for i, sample in enumerate(samples)}
    lengths = {i: len(sample.input_ids) for i, sample in enumerate(samples)}
    at = 0
    for epoch in range(epochs):
        order = epoch_order(rows, 7, epoch)
        for first in range(0, rows, size):
            step, trained = order[first : first + size], []
            while len(trained) < len(step):
                names, normalizer, tokens = seen[at]
                at += 1
                trained += names
                # Each micro-batch is normalized by the target tokens of its whole step, and has no padding.
                assert normalizer == sum(targets[row] for row in step)
                assert tokens == sum(lengths[row] for row in names) and (tokens <= budget or len(names) == 1)
            assert sorted(trained) == sorted(step)
    assert at == len(seen)
