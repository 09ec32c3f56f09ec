"""Fine-tuning as a user meets it: what is learned, what is saved, what is refused, what the figures say."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import pyrust_nn
from pyrust_nn import InputError, ModelError
from pyrust_nn.models import load_tokenizer, model_folder
from pyrust_nn.rows import IGNORED, Rows, Sample
from pyrust_nn.training import EpochSampler, TrainingData, train

TINY = "builtin:tiny"
ENDS = {"<|im_end|>", "<|endoftext|>"}


def write(path, conversations):
    path.write_text(json.dumps([{"messages": messages} for messages in conversations]), encoding="utf-8")
    return path


def encoded(dataset):
    """Its rows, as copies that a test may change."""
    rows = Rows(pyrust_nn.prepare_dataset(TINY, dataset_path=dataset, max_length=999)["path"])
    return [Sample(row.input_ids.copy(), row.labels.copy()) for row in rows]


def talk(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(TINY)


@pytest.fixture
def few(tmp_path):
    """Eleven conversations of different lengths."""
    return write(tmp_path / "few.json", [talk(f"Question {i}?", f"Answer {i} " * (1 + 3 * i % 7)) for i in range(11)])


@pytest.fixture
def same(tmp_path):
    """Four times one conversation: whichever is trained on or held out, its loss can be computed."""
    return write(tmp_path / "same.json", [talk("What is it?", "A pipeline, written twice.")] * 4)


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

    # transformers loads it, in the base's number format, with the stop set and the template; nothing is pickled
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
        "s", TINY, dataset_path=same, num_epochs=1, learning_rate=1e-3, eval_split=0.25, batch_size=2, runs_dir=runs
    )
    model = AutoModelForCausalLM.from_pretrained(folder(runs, summary, "model"))
    assert summary["metrics"]["first_loss"] == pytest.approx(plain_loss(tiny_model(), same), rel=1e-4)
    assert summary["metrics"]["eval_loss"] == pytest.approx(plain_loss(model, same), rel=1e-4)


def test_an_adapter_loads_in_plain_peft_and_computes_what_was_trained(runs, same):
    summary = pyrust_nn.finetune_lora(
        "s", TINY, dataset_path=same, num_epochs=3, learning_rate=5e-3, lora_rank=4, eval_split=0.25, runs_dir=runs
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
        ({"use_rslora": True}, "use_rslora is False in the checkpoint"),
        ({"model": TINY}, "was trained on .* and builtin:tiny has other weights"),
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
        ("finetune_lora", {"target_modules": ["q_proj", "nix"]}, "'nix'.*down_proj.*v_proj"),
        ("finetune_full", {"max_length": 5000}, "5000.*2048 positions"),
        ("finetune_full", {"max_length": 20}, r"longer|more than max_length 20.*\[0\]"),
        ("finetune_full", {"max_length": 8, "overlong": "drop"}, "nothing is left"),
        ("finetune_full", {"eval_split": 0.9, "rows": 1}, "eval_split.*leaves nothing"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_cure(runs, trained, few, tmp_path, task, given, words):
    model = trained[given["model"]] if "model" in given else TINY
    if "rows" in given:
        few = write(tmp_path / "cut.json", [row["messages"] for row in json.loads(few.read_text())][: given["rows"]])
    more = {name: value for name, value in given.items() if name not in ("model", "rows")}
    with pytest.raises(InputError, match=words):
        getattr(pyrust_nn, task)("s", model, dataset_path=few, runs_dir=runs, **more)


def test_a_quantized_model_is_not_fine_tuned_in_full(runs, few, tmp_path):
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    for file in model_folder(TINY).iterdir():
        (quantized / file.name).write_bytes(file.read_bytes())
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"is quantized.*finetune_lora"):
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
    with pytest.raises(InputError, match="fp16 needs a CUDA device"):
        pyrust_nn.finetune_full("s", TINY, dataset_path=few, dtype="fp16", device="cpu", runs_dir=runs)


def test_qlora_trains_an_adapter_on_a_model_in_4_bit(runs, same):
    summary = pyrust_nn.finetune_lora("s", TINY, dataset_path=same, num_epochs=4, learning_rate=5e-3, load_in_4bit=True, runs_dir=runs)
    figures = summary["metrics"]
    assert figures["last_loss"] < figures["first_loss"]
    assert figures["all_parameters"] == sum(p.numel() for p in tiny_model().parameters()) + figures["trainable_parameters"]
    # nf4 is near enough to the plain weights for the adapter to help there too
    assert plain_loss(with_adapter(folder(runs, summary, "adapter")), same) < plain_loss(tiny_model(), same)


# What follows reaches below the public functions, where the property cannot be seen from outside.


class Recorder(torch.nn.Module):
    """A model of one weight that keeps the rows it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.config = SimpleNamespace(use_cache=True, to_json_string=str)
        self.rows = []

    def forward(self, input_ids, labels, attention_mask, num_items_in_batch=None, **kwargs):
        self.rows.append((input_ids[:, 0].tolist(), int(num_items_in_batch)))
        return {"loss": self.weight.sum() * (labels != IGNORED).sum() / num_items_in_batch}


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 13), batch=st.integers(1, 5), accumulation=st.integers(1, 4), epochs=st.integers(1, 3))
def test_an_epoch_has_every_row_exactly_once_in_steps_of_batch_times_accumulation(
    tmp_path_factory, tokenizer, rows, batch, accumulation, epochs
):
    folder = tmp_path_factory.mktemp("s")
    samples = encoded(write(folder / "data.json", [talk("q", "a " * (1 + i % 4)) for i in range(rows)]))
    for i, sample in enumerate(samples):
        sample.input_ids[0] = i  # the row's name
    params = SimpleNamespace(
        num_epochs=epochs, batch_size=batch, gradient_accumulation_steps=accumulation, learning_rate=1e-3,
        scheduler="linear", warmup=0, weight_decay=0.0, max_grad_norm=1.0, seed=7, save_steps=0, logging_steps=3,
        save_total_limit=0, eval_steps=0, early_stopping_patience=0, load_best_model_at_end=False,
    )  # fmt: skip
    session = SimpleNamespace(step_folder=folder, progress=lambda *a: None, metric=lambda r: None)
    model = Recorder()
    metrics = train(
        model,
        tokenizer,
        TrainingData(samples, None, "", {}),
        params,
        session,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    seen = [row for micro_batch, _ in model.rows for row in micro_batch]
    assert seen[:rows] == list(EpochSampler(range(rows), 7))  # the order does not depend on the micro-batches
    assert [sorted(seen[at : at + rows]) for at in range(0, len(seen), rows)] == [list(range(rows))] * epochs
    assert metrics["steps"] == epochs * math.ceil(rows / (batch * accumulation))
    # Each micro-batch is normalized by the target tokens of its whole step.
    targets = {i: sample.target_tokens for i, sample in enumerate(samples)}
    at = 0
    for micro_batch, normalizer in model.rows:
        in_epoch = at % rows
        first = in_epoch - in_epoch % (batch * accumulation) + at - in_epoch
        step = seen[first : min(first + batch * accumulation, first - first % rows + rows)]
        assert normalizer == sum(targets[row] for row in step)
        at += len(micro_batch)
