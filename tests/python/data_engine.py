"""Prepares small data sets by the native data engine for tests."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import pyrust_nn
from pyrust_nn.training.rows import PreparedRows, Row

SHARED = Path(__file__).resolve().parents[2].parent / "shared"

Conversation = dict[str, Any]


@dataclass
class Prepared:
    """A prepared data set: its report, and its rows in memory."""

    report: dict[str, Any]
    samples: list[Row]
    held_out: list[Row]


def model_folder(tokenizer: Any, template: str | None = None) -> str:
    """A folder with this tokenizer and its own template, or another; enough of a model to prepare data for."""
    folder = tempfile.mkdtemp(prefix="model-")
    tokenizer.save_pretrained(folder)
    if template is not None:
        (Path(folder) / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def with_template(folder: str, template: str | None) -> tuple[str, Any]:
    """A copy of a model's tokenizer with another template: its folder, and the tokenizer as transformers loads it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    copy = model_folder(tokenizer)
    return copy, AutoTokenizer.from_pretrained(copy)


def write(conversations: list[Any], path: Path | None = None) -> str:
    """The conversations, or lists of messages, as a JSON file."""
    items = [one if isinstance(one, dict) else {"messages": one} for one in conversations]
    path = path or Path(tempfile.mkdtemp(prefix="data-")) / "data.json"
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return str(path)


def rows(path: str | None) -> list[Row]:
    """All rows of a prepared file."""
    mapped = PreparedRows(path) if path else []
    return [mapped[i] for i in range(len(mapped))]


def prepare(folder: str, *conversations: Any, path: str | None = None, max_length: int = 100_000, **params: Any) -> Prepared:
    """Conversations prepared for the model in a folder."""
    report: Any = pyrust_nn.prepare_dataset(folder, dataset_path=path or write(list(conversations)), max_length=max_length, **params)
    return Prepared(report, rows(report["path"]), rows(report["eval_path"]))


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def target_spans(sample: Row) -> list[tuple[int, int]]:
    """[(first, last + 1)] of each span of targets."""
    mask = [0, *(sample.labels != -100).astype(int).tolist(), 0]
    edges = [i - 1 for i in range(1, len(mask)) if mask[i] != mask[i - 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def target_texts(tokenizer: Any, sample: Row) -> list[str]:
    """The text of each span of targets."""
    return [tokenizer.decode(sample.input_ids[a:b]) for a, b in target_spans(sample)]
