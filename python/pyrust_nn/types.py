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


class PreparedDataset(TypedDict):
    """A data set as rows to train on; the counts are explained in docs/data.md."""

    path: str
    eval_path: str | None
    eval_rows: int
    digest: str
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
    cached: bool
