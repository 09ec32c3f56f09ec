"""Reads the prompts of inference: strings, conversations, or a file of either.

A string is a user's only message. A conversation is a list of messages, or an object with such a list as `messages`, as
in a data set. If its last message is the assistant's, that is the expected answer, and it is removed.

A file named .txt has one prompt per line. Any other file is JSON: a list of prompts, JSON lines, or a single conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyrust_nn import InputError
from pyrust_nn.types import ChatMessage

ROLES = ("system", "user", "assistant", "tool")


def read_prompts(prompts: Sequence[Any] | None, prompts_file: str | None) -> list[list[ChatMessage]]:
    """The conversations to answer, each without its answer: those of `prompts`, then those of the file.

    Raises InputError if there are none, or if one is malformed; the message names file, place, cause and fix.
    """
    conversations = [parse_conversation(item, f"prompt {index}") for index, item in enumerate(prompts or [])]
    if prompts_file is not None:
        conversations += [parse_conversation(item, f"{prompts_file}: {place}") for place, item in _file_items(Path(prompts_file))]
    elif not conversations:
        raise InputError("there is nothing to answer: give prompt (it may repeat) or prompts_file")
    return conversations


def parse_conversation(item: Any, place: str) -> list[ChatMessage]:
    """One prompt as messages for the chat template, without the answer at its end. `place` names it in errors."""
    if isinstance(item, dict):
        if "messages" not in item:
            raise InputError(f'{place}: the object has no "messages"; write {{"messages": [...]}} or a string')
        place, item = f"{place}.messages", item["messages"]
    if isinstance(item, str):
        item = [{"role": "user", "content": item}]
    elif not isinstance(item, list):
        raise InputError(f"{place}: is {_type_name(item)}; a prompt must be a string or a conversation (a list of messages)")
    messages = [_message(message, f"{place}[{index}]") for index, message in enumerate(item)]

    if messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise InputError(f"{place}: there is nothing to answer; the last message, or the last before an answer, must be a user's")
    return messages


def _message(message: Any, place: str) -> ChatMessage:
    if not isinstance(message, dict):
        raise InputError(f'{place}: is {_type_name(message)}; a message is {{"role": ..., "content": ...}}')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InputError(f"{place}.role: is {role!r}; it must be one of {', '.join(ROLES)}")
    calls_tool = role == "assistant" and message.get("tool_calls")
    if not calls_tool and (not isinstance(content, str) or not content.strip()):
        what = "is empty" if isinstance(content, str) else f"is {_type_name(content)}"
        raise InputError(f"{place}.content: {what}; it must be a non-empty string")
    try:
        json.dumps(message, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as cause:
        raise InputError(f"{place}: contains half of a surrogate pair (\\ud800...); write both halves") from cause
    return {name: value for name, value in message.items() if name != "train"}


def _file_items(path: Path) -> list[tuple[str, Any]]:
    """The prompts of a file, each with its place for errors."""
    text = _read(path)
    if path.suffix.lower() == ".txt":
        items = [(f"line {number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        items = list(_json_items(text, path))
    if not items:
        raise InputError(f"{path} has no prompts; write a JSON list of strings or conversations")
    return items


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as cause:
        raise InputError(f"there is no prompts file {path} (looked in {Path.cwd()}); check prompts_file") from cause
    except OSError as cause:
        raise InputError(f"prompts file {path} cannot be read: {cause.strerror}; give a file of prompts") from cause
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = 1 + data[: cause.start].count(b"\n")
        raise InputError(f"{path}: line {line}: not UTF-8; save the file as UTF-8") from cause


def _json_items(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """The prompts of a JSON list or of successive values (JSON lines), each with its place."""
    values = list(_values(text, path))
    if len(values) != 1 or not isinstance(values[0][1], list):
        yield from values
        return
    ((_, items),) = values
    if items and all(isinstance(item, dict) and "role" in item for item in items):
        yield values[0]  # one conversation
    else:
        yield from ((f"[{index}]", item) for index, item in enumerate(items))


def _values(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    decoder = json.JSONDecoder()
    end = 0
    while (start := len(text) - len(text[end:].lstrip())) < len(text):
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError as cause:
            raise InputError(f"{path}: the JSON is nested too deeply; a prompt must be a string or a conversation") from cause
        except json.JSONDecodeError as cause:
            raise InputError(
                f"{path}: line {cause.lineno}, column {cause.colno}: invalid JSON: {cause.msg}; "
                "fix it there, or name the file .txt if it has one prompt per line"
            ) from cause
        yield f"line {1 + text.count(chr(10), 0, start)}", value


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
