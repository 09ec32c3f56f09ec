"""The types of what the functions take and return."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Required, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


ChatMessage = dict[str, Any]
"""A message with everything that a chat template may read: role, content, tool_calls, reasoning_content."""


class Conversation(TypedDict, total=False):
    """A prompt: the messages before the answer, and the other inputs of the chat template."""

    messages: Required[list[ChatMessage]]
    tools: list[dict[str, Any]]
    documents: list[dict[str, Any]]
    chat_template_kwargs: dict[str, Any]


class StepError(TypedDict):
    """Why a step failed."""

    kind: str
    message: str
    causes: list[str]
    traceback: str | None


class Summary(TypedDict):
    """The record of one step, as in its summary.json; paths are relative to the session's folder."""

    task: str
    session: str  # empty: a dry run for which no session was named
    step: str
    status: Literal["Success", "Failure"]
    params: dict[str, Any]
    outputs: dict[str, Any]
    metrics: dict[str, Any]
    result: Any
    proof: NotRequired[list[dict[str, Any]]]
    error: StepError | None
    pipeline_run: NotRequired[str]
    started_at: str
    finished_at: str
    duration_s: float


class Counts(TypedDict):
    """Counts of the prepared data; explained in docs/data.md."""

    conversations: int
    rows: int
    tokens: int
    target_tokens: int
    truncated: int
    dropped: int
    duplicates: int
    lost_tokens: int
    split_conversations: int
    separately_tokenized_turns: int
    literal_special_tokens: int
    longest: int


class PreparedDataset(Counts):
    """A data set prepared as rows to train on."""

    path: str
    eval_path: str | None
    eval_rows: int
    digest: str
    cached: bool
    notes: list[str]
    warnings: list[str]


class DatasetOptions(TypedDict):
    """What decides the rows of a data set; the names and values are those of the parameters."""

    max_length: int
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"]
    thinking: Literal["keep", "drop", "mask"]
    drop_duplicates: bool
    eval_split: float
    seed: int
    shape: str
    columns: dict[str, str]
    template_kwargs: dict[str, Any]


class StepDataset(PreparedDataset):
    """A data set as a step's session hands it to the script."""

    options: DatasetOptions


class DataFault(TypedDict):
    """An error in a file. Line and column count from 1; they are 0 for an error of the whole file."""

    file: str
    line: int
    column: int
    path: str
    text: str


# `from` is a Python keyword, so this cannot be a class.
LengthBin = TypedDict("LengthBin", {"from": int, "to": int, "rows": int})
"""The number of rows with `from` to `to` tokens, both inclusive."""


class Lengths(TypedDict):
    """The rows' numbers of tokens, after truncation."""

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
    """The number of samples that are too long, and the first of them."""

    count: int
    first: list[TooLongSample]


class Piece(TypedDict):
    """A token of a sample, or several tokens that are only together valid text."""

    text: str
    tokens: int
    target: bool
    control: bool


class SamplePreview(TypedDict):
    """A sample as its tokens; without pieces if it is dropped."""

    conversation: int
    message: int | None
    tokens: int
    kept: int
    target_tokens: int
    pieces: list[Piece]


class TurnTokens(TypedDict):
    """What one kind of turn contributes to the rows; a turn includes its header and the token that ends it."""

    kind: Literal["system", "user", "tool", "thought", "answer", "text"]
    tokens: int
    target_tokens: int


class Leak(TypedDict):
    """A conversation of the evaluation data that is in the training data too, by its indices."""

    evaluation: int
    training: int


class EvaluationReport(TypedDict):
    """The data set of `eval_dataset_path`."""

    files: list[str]
    counts: Counts
    leaked: int
    first_leaked: list[Leak]


class MemoryEstimate(TypedDict):
    """Bytes of memory by purpose; the formulas are in docs/check.md."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    total: int


class DiskEstimate(TypedDict):
    """Bytes on disk; `checkpoint` is the size of one checkpoint."""

    output: int
    checkpoints: int
    checkpoint: int
    total: int


class TimeEstimate(TypedDict):
    """A rough time of all steps, extrapolated from one row."""

    seconds: float
    tokens_per_second: float
    row_tokens: int
    row_target_tokens: int


class Estimate(TypedDict):
    """What training will need. Values that could not be estimated are None, and `missing` says why."""

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
    """What `check_dataset` found; `ok` says whether training would accept the data."""

    ok: bool
    files: list[str]
    model: str
    problems: list[DataFault]
    problem_count: int
    errors: list[str]
    warnings: list[str]
    notes: list[str]
    counts: Counts
    eval_rows: int
    roles: dict[str, int]
    turns: list[TurnTokens]
    evaluation: EvaluationReport | None
    lengths: Lengths
    too_long: TooLong
    previews: list[SamplePreview]
    estimate: Estimate
