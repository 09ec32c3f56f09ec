"""Remaining time, progress bar and metrics.jsonl, driven by a loop's events on a simulated clock; what callbacks of the user's may do."""

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl

from pyrust_nn.training.callbacks import ETACallback, MetricsCallback, ProgressCallback, TrainingMeter
from pyrust_nn.wording import duration


class FakeTraining:
    """Sends a loop's events in their order, and knows how long everything takes."""

    def __init__(self, steps_per_epoch, epochs, *, evaluate=0.0, save=0.0, save_steps=0, done=0, callbacks=()):
        self.now = 1000.0
        self.eta = ETACallback(clock=lambda: self.now)
        self.callbacks = [self.eta, *callbacks]
        self.evaluate, self.save, self.steps_per_epoch = evaluate, save, steps_per_epoch
        self.args = SimpleNamespace(
            eval_strategy="epoch" if evaluate else "no",
            save_strategy="steps" if save else "no",
            num_train_epochs=epochs,
        )
        self.state = SimpleNamespace(
            global_step=done,
            max_steps=math.ceil(steps_per_epoch * epochs),
            eval_steps=500,
            save_steps=save_steps,
            epoch=0.0,
        )
        self.control = TrainerControl()
        self.seen = set()
        self.estimates = []  # (when, events so far, estimate) after each event
        self.send("on_train_begin")

    def send(self, event, **more):
        for callback in self.callbacks:
            getattr(callback, event)(self.args, self.state, self.control, **more)
        self.seen.add(event)
        self.estimates.append((self.now, set(self.seen), self.eta.eta_seconds))

    def step(self, seconds):
        self.now += seconds
        self.state.global_step += 1
        step, last = self.state.global_step, self.state.global_step == self.state.max_steps
        self.state.epoch = step / self.steps_per_epoch
        self.send("on_step_end")
        if self.save and (last or step % self.state.save_steps == 0):
            self.now += self.save
            self.send("on_save")
        if self.evaluate and (last or step % self.steps_per_epoch == 0):
            self.now += self.evaluate
            self.send("on_evaluate", metrics={"eval_loss": 1.0})

    def run(self, seconds):
        while self.state.global_step < self.state.max_steps:
            self.step(seconds)


def test_no_estimate_before_a_few_steps_and_slow_first_ones_do_not_skew_it():
    training = FakeTraining(100, 1)
    for seconds in (60.0, 30.0, 1.0):
        training.step(seconds)
        assert training.eta.eta_seconds is None
    training.step(1.0)
    assert training.eta.eta_seconds == pytest.approx(96.0)
    assert training.eta.training_seconds == pytest.approx(92.0)


def test_evaluation_and_saving_are_measured_apart():
    training = FakeTraining(10, 3, evaluate=7.0, save=3.0, save_steps=4)
    for _ in range(10):
        training.step(1.0)
    # 20 steps; evaluations at 20 and 30; checkpoints at 12, 16, 20, 24, 28 and 30
    assert training.eta.eta_seconds == pytest.approx(20 * 1.0 + 2 * 7.0 + 6 * 3.0)
    assert training.eta.training_seconds == pytest.approx(10.0)


def test_a_resumed_training_counts_only_its_own_steps():
    training = FakeTraining(1000, 1, done=900)
    for _ in range(10):
        training.step(2.0)
    assert training.eta.eta_seconds == pytest.approx(90 * 2.0)


def test_it_follows_a_change_of_pace():
    training = FakeTraining(1000, 1)
    for seconds, count in ((1.0, 300), (5.0, 300)):
        for _ in range(count):
            training.step(seconds)
    assert training.eta.eta_seconds == pytest.approx(400 * 5.0)


@given(
    steps_per_epoch=st.integers(1, 9),
    epochs=st.integers(1, 20).map(lambda quarters: 1 + quarters / 4),
    evaluate=st.sampled_from([0.0, 11.0]),
    save=st.sampled_from([0.0, 5.0]),
    save_steps=st.integers(1, 12),
    done=st.floats(0, 0.9),
)
def test_at_a_steady_pace_the_estimate_is_what_remains(steps_per_epoch, epochs, evaluate, save, save_steps, done):
    total = math.ceil(steps_per_epoch * epochs)
    training = FakeTraining(steps_per_epoch, epochs, evaluate=evaluate, save=save, save_steps=save_steps, done=int(done * total))
    training.run(2.0)
    for when, seen, estimate in training.estimates:
        if estimate is not None:
            # What has never been seen to take time counts nothing; all else is exact.
            unseen = (evaluate * ("on_evaluate" not in seen)) + (save * ("on_save" not in seen))
            assert estimate == pytest.approx(training.now - when) if not unseen else estimate < training.now - when
    assert training.eta.eta_seconds == pytest.approx(0.0)


class Session:
    def __init__(self):
        self.bars, self.records = [], []

    def progress(self, done, total, text=""):
        self.bars.append((done, total, text))

    def metric(self, record):
        self.records.append(json.loads(json.dumps(record, allow_nan=False)))


def test_progress_bar_shows_loss_rate_and_remaining_time():
    session, meter = Session(), TrainingMeter()
    training = FakeTraining(50, 1)
    training.callbacks.append(ProgressCallback(session, training.eta, meter))
    for loss in (3.0, 2.0, 1.5, 1.234):
        meter.record_loss(loss)
        meter.tokens += 1500
        training.step(1.0)
    assert session.bars[0] == (1, 50, "loss 3  1,500 tokens/s")
    assert session.bars[-1] == (4, 50, "loss 1.234  1,500 tokens/s  46 s left")


def test_metrics_are_rates_since_the_last_record_and_hold_no_infinity():
    session, meter = Session(), TrainingMeter()
    training = FakeTraining(4, 1)
    training.callbacks.append(MetricsCallback(session, training.eta, meter, lambda: 77))
    for _ in range(2):
        for _ in range(2):
            meter.tokens += 100
            meter.target_tokens += 30
            training.step(2.0 if not session.records else 1.0)
        training.send("on_log", logs={"loss": 1.5, "grad_norm": math.inf, "learning_rate": 0.1})
    first, second = session.records
    assert first == {
        "step": 2, "epoch": 0.5, "loss": 1.5, "learning_rate": 0.1,
        "target_tokens_per_second": 15.0, "tokens_per_second": 50.0, "peak_memory_bytes": 77,
    }  # fmt: skip
    assert (second["tokens_per_second"], second["eta_seconds"]) == (100.0, 0.0)


def test_the_last_step_is_logged():
    training = FakeTraining(3, 1)
    training.callbacks.append(MetricsCallback(Session(), training.eta, TrainingMeter(), lambda: 0))
    asked = []
    for _ in range(3):
        training.step(1.0)
        asked.append(training.control.should_log)
    assert asked == [False, False, True]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (725, "12 min"), (10807, "3.0 h"), (200_000, "2.3 days")])
def test_durations(seconds, text):
    assert duration(seconds) == text
