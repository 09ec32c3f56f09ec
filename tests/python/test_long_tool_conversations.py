"""Long conversations with calls of tools: rows equal to transformers' rendering turn by turn, in time that grows with their length."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from data_engine import SHARED, model_folder, with_template, write
from test_prepare import trl_template

from pyrust_nn import _core, check_dataset
from pyrust_nn.models.tokenizers import load_tokenizer

TEMPLATES = ["qwen2_5", "qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_instruct_2507"]
PUBLISHED = sorted((SHARED / "chat-templates").glob("*.jinja"))
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": f"To {name}.", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}},
    }
    for name in ("look_up", "add")
]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def conversation(seed: int, exchanges: int, **more: Any) -> dict[str, Any]:
    """Exchanges of all kinds: calls with words and thoughts or without, several results, contents that templates test."""
    chosen = random.Random(seed)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be exact."}] if seed % 2 else []
    for number in range(exchanges):
        messages.append(
            {"role": "user", "content": chosen.choice([f"question {number}", f"x {number}\n", "<tool_response>no</tool_response> é"])}
        )
        for step in range(chosen.randrange(3)):
            message: dict[str, Any] = {"role": "assistant", "content": chosen.choice(["", f"I look {step}."])}
            message["tool_calls"] = [call("look_up", q=f"{number}"), *([call("add", a=1, b=[step])] if chosen.random() < 0.3 else [])]
            if chosen.random() < 0.4:
                message["reasoning_content"] = f"Step {step} of {number}."
            messages.append(message)
            messages += [{"role": "tool", "content": f"result {step} </think> {one}"} for one in range(len(message["tool_calls"]))]
        answer = chosen.choice([f"answer {number}", f"<think>\nhm {number}\n</think>\n\nso {number}", f"see </think> in {number}", "a\n"])
        messages.append({"role": "assistant", "content": answer} | ({"train": False} if chosen.random() < 0.1 else {}))
    return {"messages": messages, "tools": TOOLS, **more}


@pytest.fixture(scope="module")
def folders() -> dict[str, str]:
    base = model_folder(load_tokenizer("builtin:tiny"))
    made = {name: with_template(base, trl_template(name))[0] for name in TEMPLATES}
    return made | {path.stem: with_template(base, path.read_text(encoding="utf-8"))[0] for path in PUBLISHED}


@pytest.mark.parametrize("name", [*TEMPLATES, *(path.stem for path in PUBLISHED)])
def test_rows_are_those_of_transformers(name: str, folders: dict[str, str]) -> None:
    conversations = [conversation(seed, 32) for seed in range(4)]
    conversations.append(conversation(5, 32, chat_template_kwargs={"enable_thinking": False}))
    conversations.append({"messages": conversation(6, 40)["messages"]})
    # One question and many calls: a single exchange.
    steps = [
        [{"role": "assistant", "content": "", "tool_calls": [call("add", a=i)]}, {"role": "tool", "content": str(i)}] for i in range(40)
    ]
    agent = [
        {"role": "user", "content": "count"},
        *(message for step in steps for message in step),
        {"role": "assistant", "content": "done"},
    ]
    conversations.append({"messages": agent, "tools": TOOLS})
    texts = [json.dumps(one, ensure_ascii=False) for one in conversations]
    for ours, theirs in zip(_core.render_chat(folders[name], texts), _core.render_chat_by_transformers(folders[name], texts), strict=True):
        assert ours == theirs


def test_the_table_of_check_counts_the_turns_of_each_row(folders: dict[str, str]) -> None:
    given = conversation(1, 40)
    report: Any = check_dataset(folders["qwen2_5"], dataset_path=write([given]), max_length=100_000)
    kinds = {one["kind"]: one for one in report["turns"]}
    assert {"system", "user", "tool", "answer"} <= kinds.keys()
    assert kinds["tool"]["target_tokens"] == 0 and kinds["user"]["target_tokens"] == 0
    rewriting: Any = check_dataset(folders["qwen3_5_think"], dataset_path=write([given]), max_length=100_000, overlong="drop")
    kinds = {one["kind"]: one for one in rewriting["turns"]}
    assert kinds["tool"]["tokens"] > 0 and kinds["tool"]["target_tokens"] == kinds["user"]["target_tokens"] == 0
    assert sum(one["target_tokens"] for one in rewriting["turns"]) == rewriting["counts"]["target_tokens"]


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_5_think"])
def test_a_very_long_conversation_needs_few_runs_of_the_template(name: str, folders: dict[str, str], binary: Path) -> None:
    """Turn by turn, 3,000 exchanges would be 36 million messages for the template: minutes, beyond the limit."""
    data = write([conversation(3, 3000)])
    words = [str(binary), "check", data, "--model", folders[name], "--overlong", "truncate_left", "--show", "0", "--json", "--no-setup"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    report = json.loads(done.stdout)
    assert report["ok"] and report["counts"]["longest"] > 50_000
