"""The training loop and callbacks: its events are those of transformers' Trainer, and what a callback decides happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from fixtures import write
from small_training import run_training, small_model
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import pyrust_nn
from pyrust_nn import InputError, ModelError
from pyrust_nn.models.tokenizers import load_tokenizer
from pyrust_nn.training.callbacks import ETACallback
from pyrust_nn.training.rows import PreparedRows, Row

EVENTS = ["train_begin", "train_end", "epoch_begin", "epoch_end", "step_begin", "step_end", "pre_optimizer_step", "optimizer_step"]
EVENTS += ["log", "evaluate", "save"]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return load_tokenizer("builtin:tiny")


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Twelve rows of different lengths."""
    pairs = [(f"Question {i}?", f"Answer {i} " * (1 + 3 * i % 7)) for i in range(12)]
    data = write(tmp_path_factory.mktemp("samples") / "data.json", pairs)
    rows = PreparedRows(pyrust_nn.prepare_dataset("builtin:tiny", dataset_path=data)["path"])
    return [Row(row.input_ids.copy(), row.labels.copy()) for row in rows]


class Recorder(TrainerCallback):
    """Notes every event, with the step, the epoch and the names of what is logged."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []


def recording(event: str) -> Any:
    def record(self: Recorder, args: Any, state: Any, control: Any, **known: Any) -> None:
        assert {"model", "processing_class", "optimizer", "lr_scheduler"} <= known.keys()
        logged = {name for name in known.get("logs", ()) if not name.startswith(("train_", "total_", "eval_"))}
        final = any(name.startswith("train_") for name in known.get("logs", ()))
        self.seen.append((event, state.global_step, state.max_steps, round(state.epoch, 9), sorted(logged), final))

    return record


for one in EVENTS:
    setattr(Recorder, f"on_{one}", recording(one))


class Plain(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of equal length for transformers' Trainer."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(8) + row
        return {"input_ids": ids, "labels": ids}


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return TrainingArguments(output_dir=str(folder), per_device_train_batch_size=4, **quiet, **more)


@pytest.mark.parametrize(
    ("epochs", "log", "evaluate", "save"), [(2, 2, 2, 3), (2.5, 3, 4, 2), (1, 1, 1, 1), (0.5, 5, 5, 5), (3, 100, 2, 100)]
)
def test_the_events_are_those_of_transformers_trainer(
    tokenizer: Any, samples: list[Row], tmp_path: Path, epochs: float, log: int, evaluate: int, save: int
) -> None:
    theirs, ours = Recorder(), Recorder()
    given: dict[str, Any] = {"logging_steps": log, "eval_steps": evaluate, "save_steps": save}
    args = arguments(tmp_path / "theirs", num_train_epochs=epochs, eval_strategy="steps", save_strategy="steps", **given)
    Trainer(small_model(), args, train_dataset=Plain(), eval_dataset=Plain(), callbacks=[theirs]).train()
    run_training(small_model(), tokenizer, samples, tmp_path, held_out=samples[:3], num_epochs=epochs, callbacks=[ours], **given)
    # Besides theirs, ours logs the last step and saves the best.
    last = theirs.seen[-1][1]
    extra = [event for event in ours.seen if event not in theirs.seen]
    assert {event[0] for event in extra} <= {"log", "save"}
    assert all(event[1] == last for event in extra if event[0] == "log")
    assert [event for event in ours.seen if event not in extra] == theirs.seen


def test_the_remaining_time_is_estimated_for_anyones_trainer(tmp_path: Path) -> None:
    now = iter(range(10_000))
    eta = ETACallback(clock=lambda: float(next(now)))
    seen: list[float | None] = []

    class See(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
            seen.append(eta.eta_seconds)

    Trainer(small_model(), arguments(tmp_path, num_train_epochs=3), train_dataset=Plain(), callbacks=[eta, See()]).train()
    # Each step takes a second of this clock.
    assert seen == [None, None, None, 5, 4, 3, 2, 1, 0]


class Decide(TrainerCallback):
    """Sets flags of the control at a training step, by the event `on_step_end` or another."""

    def __init__(self, step: int, *flags: str, event: str = "on_step_end") -> None:
        def decide(args: Any, state: Any, control: Any, **known: Any) -> Any:
            for flag in flags if state.global_step == step else ():
                setattr(control, flag, True)
            return control

        setattr(self, event, decide)


def test_a_callback_may_stop_save_evaluate_and_log(tokenizer: Any, samples: list[Row], tmp_path: Path) -> None:
    recorder = Recorder()
    given: dict[str, Any] = {"num_epochs": 4, "logging_steps": 100, "held_out": samples[:3], "eval_steps": 100}
    callbacks = [
        Decide(2, "should_log"),
        Decide(3, "should_save"),
        Decide(4, "should_evaluate"),
        Decide(5, "should_training_stop"),
        recorder,
    ]
    metrics = run_training(small_model(), tokenizer, samples, tmp_path, callbacks=callbacks, **given)
    assert metrics["steps"] == 5 and metrics["eval_loss"] > 0
    events = {event: [step for name, step, *_ in recorder.seen if name == event] for event in ("log", "save", "evaluate")}
    assert events == {"log": [2, 4, 5], "save": [3], "evaluate": [4]}  # 4: the evaluation; 5: the summary of the training
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]


def test_a_callback_may_end_an_epoch(tokenizer: Any, samples: list[Row], tmp_path: Path) -> None:
    recorder = Recorder()
    callbacks = [Decide(2, "should_epoch_stop"), recorder]
    metrics = run_training(small_model(), tokenizer, samples, tmp_path, num_epochs=3, callbacks=callbacks)
    epochs = [round(epoch, 3) for name, _, _, epoch, *_ in recorder.seen if name == "step_end"]
    assert epochs == [0.333, 0.667, 1.333, 1.667, 2, 2.333, 2.667, 3] and metrics["steps"] == 8


def test_a_callback_may_ask_for_an_evaluation_at_an_epochs_end(tokenizer: Any, samples: list[Row], tmp_path: Path) -> None:
    recorder = Recorder()
    callbacks = [Decide(3, "should_evaluate", "should_save", event="on_epoch_end"), recorder]
    run_training(small_model(), tokenizer, samples, tmp_path, held_out=samples[:3], eval_steps=100, num_epochs=2, callbacks=callbacks)
    assert [(name, step) for name, step, *_ in recorder.seen if name in ("evaluate", "save")] == [
        ("evaluate", 3),
        ("save", 3),
        ("evaluate", 6),
    ]


def test_an_evaluation_without_data_is_refused(tokenizer: Any, samples: list[Row], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a callback asks for an evaluation, but there is no data"):
        run_training(small_model(), tokenizer, samples, tmp_path, callbacks=[Decide(1, "should_evaluate")])


def test_transformers_own_early_stopping_is_such_a_callback(tokenizer: Any, samples: list[Row], tmp_path: Path) -> None:
    given: dict[str, Any] = {"learning_rate": 1.0, "max_grad_norm": 0.0, "num_epochs": 20, "eval_steps": 1, "held_out": samples[:3]}
    recorder = Recorder()
    metrics = run_training(small_model(), tokenizer, samples, tmp_path, callbacks=[EarlyStoppingCallback(2), recorder], **given)
    assert metrics["steps"] < 60
    assert metrics["best_eval_loss"] < metrics["eval_loss"]


class Drawing(TrainerCallback):
    """Draws random numbers, as a callback does that generates text."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        torch.rand(7)

    on_epoch_begin = on_step_end = on_train_begin


def adapted() -> Any:
    return peft.get_peft_model(small_model(), peft.LoraConfig(r=2, lora_dropout=0.3, target_modules=["q_proj", "down_proj"]))


def test_a_training_resumes_exactly_though_callbacks_draw_random_numbers(tokenizer: Any, samples: list[Row], tmp_path: Path) -> None:
    given: dict[str, Any] = {"num_epochs": 2.5, "save_steps": 1, "callbacks": [Drawing()], "learning_rate": 1e-2}
    whole = adapted()
    run_training(whole, tokenizer, samples, tmp_path, **given)
    checkpoints = sorted((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert len(checkpoints) == 8
    for checkpoint in checkpoints:
        model = adapted()
        run_training(model, tokenizer, samples, tmp_path / f"from-{checkpoint.name}", checkpoint=checkpoint, **given)
        for (name, ours), theirs in zip(model.named_parameters(), whole.parameters(), strict=True):
            assert torch.equal(ours, theirs), f"{name} of {checkpoint.name}"
        records = json.loads((checkpoint / "trainer_state.json").read_text())
        assert records["global_step"] == int(checkpoint.name.rpartition("-")[2])


def test_fp16_gradients_that_overflow_at_any_scale_end_the_training(tokenizer: Any, samples: list[Row], tmp_path: Path) -> None:
    """On a CPU, where the parameter `dtype` refuses fp16: the scaler is the same."""
    recorder, rates = Recorder(), []

    class Overflow(TrainerCallback):
        def __init__(self, steps: int) -> None:
            self.steps = steps

        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **known: Any) -> None:
            hooked = model.get_parameter("base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight")
            if state.global_step < self.steps:
                self.hook = hooked.register_hook(lambda gradient: gradient * float("inf") + float("inf"))

        def on_step_end(self, args: Any, state: Any, control: Any, lr_scheduler: Any, **known: Any) -> None:
            rates.append(lr_scheduler.get_last_lr()[0])
            if state.global_step <= self.steps:
                self.hook.remove()

    given: dict[str, Any] = {"dtype": torch.float16, "num_epochs": 20, "warmup": 30, "max_grad_norm": 0.0}
    metrics = run_training(adapted(), tokenizer, samples, tmp_path, callbacks=[Overflow(3), recorder], **given | {"num_epochs": 2})
    assert metrics["steps"] == 6
    # A step that changes nothing does not advance the warm-up.
    assert rates == pytest.approx([0, 0, 0, 1e-3 / 30, 2e-3 / 30, 3e-3 / 30])
    with pytest.raises(ModelError, match=r"gradients overflow fp16 in \d+ steps in a row.*dtype to fp32"):
        run_training(adapted(), tokenizer, samples, tmp_path, callbacks=[Overflow(1000)], **given)
