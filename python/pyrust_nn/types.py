"""The shapes of what the functions take and give."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class StepError(TypedDict):
    """Why a step failed."""

    kind: str
    message: str
    causes: list[str]
    traceback: str | None


class Summary(TypedDict):
    """The record of one step, as in its summary.json; paths are relative to the session's folder."""

    task: str
    session: str
    step: str
    status: Literal["Success", "Failure"]
    params: dict[str, Any]
    outputs: dict[str, Any]
    metrics: dict[str, Any]
    result: Any
    error: StepError | None
    started_at: str
    finished_at: str
    duration_s: float


class Counts(TypedDict):
    """What became of the data; explained in docs/data.md."""

    conversations: int
    rows: int
    tokens: int
    target_tokens: int
    truncated: int
    dropped: int
    duplicates: int
    lost_tokens: int
    split_conversations: int
    recut_turns: int
    forged_control_tokens: int
    longest: int


class PreparedDataset(Counts):
    """A data set as rows to train on."""

    path: str
    eval_path: str | None
    eval_rows: int
    digest: str
    cached: bool


class DataFault(TypedDict):
    """A fault in a file; line and column count from 1, and are 0 for a fault of the whole file."""

    file: str
    line: int
    column: int
    path: str
    text: str


# `from` is a keyword of Python, so this one cannot be written as a class.
LengthBin = TypedDict("LengthBin", {"from": int, "to": int, "rows": int})
"""How many rows have `from` to `to` tokens, both included."""


class Lengths(TypedDict):
    """Tokens of the rows, after truncation."""

    median: int
    p90: int
    p99: int
    max: int
    histogram: list[LengthBin]


class TooLongSample(TypedDict):
    """A sample of more than `max_length` tokens."""

    place: str
    tokens: int


class TooLong(TypedDict):
    """How many samples are too long, and the first of them."""

    count: int
    first: list[TooLongSample]


class Piece(TypedDict):
    """A token of a sample, or several that only together are text."""

    text: str
    tokens: int
    target: bool
    control: bool


class SamplePreview(TypedDict):
    """A sample as its tokens; without pieces if it is left out."""

    conversation: int
    message: int | None
    tokens: int
    kept: int
    target_tokens: int
    pieces: list[Piece]


class MemoryEstimate(TypedDict):
    """Bytes of memory, by what holds them; the formulas stand in docs/check.md."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    total: int


class DiskEstimate(TypedDict):
    """Bytes on the disk; `checkpoint` is the size of one."""

    output: int
    checkpoints: int
    checkpoint: int
    total: int


class TimeEstimate(TypedDict):
    """A rough time of all steps, extrapolated from the row described."""

    seconds: float
    tokens_per_second: float
    row_tokens: int
    row_target_tokens: int


class Estimate(TypedDict):
    """What training will take. What is None could not be reckoned, and `missing` says why."""

    task: Literal["finetune_full", "finetune_lora"]
    device: Literal["cpu", "cuda"]
    dtype: Literal["fp32", "bf16", "fp16"]
    steps: int
    steps_per_epoch: int
    parameters: int | None
    trainable_parameters: int | None
    memory: MemoryEstimate | None
    disk: DiskEstimate | None
    time: TimeEstimate | None
    missing: list[str]


class CheckReport(TypedDict):
    """What `check_dataset` found; `ok` says whether training would take the data."""

    ok: bool
    files: list[str]
    model: str
    problems: list[DataFault]
    problem_count: int
    errors: list[str]
    warnings: list[str]
    counts: Counts
    eval_rows: int
    roles: dict[str, int]
    lengths: Lengths
    too_long: TooLong
    previews: list[SamplePreview]
    estimate: Estimate
