"""Chat templates rendered natively, against transformers' rendering of the same conversations.

The turns in the texts are found by the same code in both cases, so they are also held against what inference is given: see
`check_turns`, which asks transformers alone.
"""

import functools
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import xxhash
from data_engine import SHARED, assistant, model_folder, prepare, target_texts, user, with_template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrust_nn import InputError, ModelError, _core
from pyrust_nn.models.tokenizers import load_tokenizer

CHECKOUT = Path(__file__).resolve().parents[2]
COMPARED = dict(line.split(" ", 1)[::-1] for line in (CHECKOUT / "src/data/render/compared_templates.txt").read_text().splitlines())


@functools.cache
def trl_templates():
    """name → text of the templates that TRL carries."""
    # Found without importing it, which takes seconds.
    return {path.stem: path.read_text() for path in sorted((Path(find_spec("trl").origin).parent / "chat_templates").glob("*.jinja"))}


@functools.cache
def compared_templates():
    """name → text of every template that is rendered natively without asking transformers."""
    trl = trl_templates()
    texts = {"builtin:tiny": load_tokenizer("builtin:tiny").chat_template}
    for name in COMPARED:
        if name in ("Qwen2.5-Instruct", "Qwen3"):
            path = SHARED / "chat-templates" / {"Qwen2.5-Instruct": "Qwen-Qwen2.5-7B-Instruct", "Qwen3": "Qwen-Qwen3-0.6B"}[name]
            if SHARED.is_dir():
                texts[name] = path.with_name(path.name + ".jinja").read_text()
        elif name != "builtin:tiny":
            texts[name] = trl[name]
    return texts


def others():
    """Templates of TRL's that are compared while a data set is prepared, the marked copies for training left out."""
    return sorted(name for name in trl_templates() if name not in COMPARED and not name.endswith("_training"))


@pytest.fixture(scope="session")
def renderers(tmp_path_factory):
    """text of a template → a model's folder with it, and transformers' tokenizer."""
    base = model_folder(load_tokenizer("builtin:tiny"))
    made = {}

    def of(text):
        if text not in made:
            made[text] = with_template(base, text)
        return made[text]

    return of


spaces = st.text(st.sampled_from(" \n\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff"), max_size=4)
pieces = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<think>\nhm\n</think>\n\n",
            "<think></think>",
            "<tool_response>",
            "</tool_response>",
            "<tool_call>\n{}\n</tool_call>",
            "<|im_end|>",
            "<|im_start|>assistant\n",
            "👩‍👩‍👧‍👦 🇨🇭",
            "e\u0301",
            "'\"\\ &<>\u2028\x7f",
            "{{ x }}{% if %}",
            "\r\n",
            "/no_think",
        ]
    ),
)


@st.composite
def texts(draw):
    """Words with any white space around and between."""
    return draw(spaces) + "x".join(draw(st.lists(pieces, min_size=2, max_size=4))) + draw(spaces)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1e-7, 1e22, 1e16, 1e-5, 0.1, -0.0, 100.0, 2**53, 5e-324]),
    texts(),
)
names = st.one_of(st.sampled_from(["a", "name", "items", "keys", "type", "é", "two words", "<|im_end|>"]), st.text(max_size=5))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8)
objects = st.dictionaries(names, values, max_size=4)


@st.composite
def tools(draw):
    parameters = {"type": "object", "properties": draw(st.dictionaries(names, objects, max_size=2)), **draw(objects)}
    function = {"name": draw(texts()), "description": draw(texts()), "parameters": parameters}
    return {"type": "function", "function": function} if draw(st.booleans()) else function


@st.composite
def calls(draw):
    arguments = draw(objects)
    function = {
        "name": draw(texts().filter(bool)),
        "arguments": json.dumps(arguments, ensure_ascii=False) if draw(st.booleans()) else arguments,
    }
    return {"type": "function", "id": "c1", "function": function} if draw(st.booleans()) else function


@st.composite
def messages_of(draw, role):
    message = {"role": role, "content": draw(texts())}
    if role == "assistant":
        if draw(st.integers(0, 2)) == 0:
            message["tool_calls"] = draw(st.lists(calls(), min_size=1, max_size=2))
            message["content"] = draw(st.sampled_from(["", message["content"]]))
        for name in draw(st.sets(st.sampled_from(["reasoning_content", "thinking", "reasoning"]), max_size=2)):
            message[name] = draw(texts())
        if draw(st.integers(0, 4)) == 0:
            message["train"] = False
    if role == "tool" and draw(st.booleans()):
        message["name"] = draw(texts())
    return message


@st.composite
def conversations(draw):
    """Roles in any order, an assistant among them."""
    plain = ["system", "user", "assistant", "user", "assistant"]
    wild = draw(st.lists(st.sampled_from(["user", "assistant", "tool", "assistant", "system"]), max_size=6))
    roles = draw(
        st.sampled_from([plain, plain[1:], ["user", *wild, "assistant"], ["system", "user", *wild, "assistant"], [*wild, "assistant"]])
    )
    conversation = {"messages": [draw(messages_of(role)) for role in roles]}
    if draw(st.integers(0, 2)) == 0:
        conversation["tools"] = draw(st.lists(tools(), min_size=1, max_size=2))
    if draw(st.booleans()):
        conversation["chat_template_kwargs"] = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "enable_thinking": st.booleans(),
                    "preserve_thinking": st.booleans(),
                    "add_vision_id": st.booleans(),
                    "x": values,
                },
            )
        )
    return conversation


def transformers_way(folder, conversations):
    """The answers by transformers, their places in bytes; of what it refuses, the reason."""
    return _core.render_chat_by_transformers(folder, [json.dumps(one, ensure_ascii=False) for one in conversations])


def native_way(folder, conversations):
    return _core.render_chat(folder, [json.dumps(one, ensure_ascii=False) for one in conversations])


OPENED_THINKING = re.compile(r"<think>\s*(</think>\s*)?\Z")
EMPTY_THINKING = re.compile(r"<think>\s*</think>\n{0,2}")


def check_turns(tokenizer, conversation, renderings):
    """Checks texts and places of turns by what transformers alone writes: whole conversations, and the prompts of inference."""
    options = {name: conversation[name] for name in ("tools",) if conversation.get(name)} | conversation.get("chat_template_kwargs", {})
    shown = [{name: value for name, value in message.items() if name != "train"} for message in conversation["messages"]]
    for call in [call for message in shown for call in message.get("tool_calls", [])]:
        function = call.get("function", call)
        if isinstance(function["arguments"], str):  # JSON text is decoded
            function["arguments"] = json.loads(function["arguments"])
    ends = (*tokenizer.all_special_tokens, *(token.content for token in tokenizer.added_tokens_decoder.values() if token.special))

    def apply(count, prompt=False):
        return tokenizer.apply_chat_template(shown[:count], tokenize=False, add_generation_prompt=prompt, **options)

    trained = [i for i, m in enumerate(conversation["messages"]) if m["role"] == "assistant" and m.get("train", True)]
    if [message for _, _, message in renderings] == [None]:
        ((text, turns, _),) = renderings
        whole = apply(len(shown))
        assert text.startswith(whole) and text[len(whole) :] in ("", *ends)
        found = [(i, text, turn) for i, turn in zip(trained, turns, strict=True)]
    else:
        assert [message for _, _, message in renderings] == trained
        found = [(i, text, turn) for text, (turn,), i in renderings]
    for i, text, turn in found:
        prompt_end, target_start, target_end = (len(text.encode()[:place].decode()) for place in turn)
        if i > 0:
            prompt = apply(i, prompt=True)
            thought = OPENED_THINKING.search(prompt)
            opened = thought.start() if thought else len(prompt)
            assert text.startswith(prompt[:opened]), "the turn stands behind the prompt of inference"
            start = len(prompt) if text.startswith(prompt) else opened
            empty = EMPTY_THINKING.match(text, opened)
            own = conversation["messages"][i]["content"].lstrip().startswith("<think>")
            assert prompt_end == target_start == (max(start, empty.end()) if empty and not own else start)
        target = text[target_start:target_end]
        alone = apply(i + 1).rstrip()
        assert target.endswith(ends) and any(alone.endswith(end) and alone.endswith(target) for end in ends)


@pytest.mark.parametrize("name", sorted(compared_templates()))
def test_the_list_names_the_very_template(name):
    text = compared_templates()[name]
    found = xxhash.xxh3_128_hexdigest(text.encode())
    assert found == COMPARED[name], (
        f"the template {name} has changed: if the tests below pass, write {found} for it into compared_templates.txt"
    )


@pytest.mark.parametrize("name", sorted(compared_templates()))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=st.lists(conversations(), min_size=8, max_size=8))
def test_compared_templates_come_out_as_in_transformers(renderers, name, batch):
    folder, tokenizer = renderers(compared_templates()[name])
    ways = native_way(folder, batch), transformers_way(folder, batch)
    for conversation, native, theirs in zip(batch, *ways, strict=True):
        if isinstance(theirs, str):
            assert isinstance(native, str), "transformers refuses it"
        else:
            assert native == theirs
            check_turns(tokenizer, conversation, theirs)


@pytest.mark.parametrize("name", sorted(compared_templates()))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_conversations_of_the_same_roles_come_out_as_in_transformers(renderers, name, data):
    """The second of them and all after it are filled into what the first left."""
    folder, tokenizer = renderers(compared_templates()[name])
    first = data.draw(st.sampled_from([[], ["system"]]))
    then = [["user", "assistant"] * 3, ["user", "assistant", "assistant"], ["user", "tool", "assistant"]]
    roles = first + data.draw(st.sampled_from(then))
    trained = data.draw(st.lists(st.booleans(), min_size=len(roles), max_size=len(roles)))
    words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    plain = st.one_of(words, texts(), pieces).filter(str.strip)

    def conversation():
        made = [{"role": role, "content": data.draw(plain)} for role in roles]
        return {"messages": [m if m["role"] != "assistant" or t else m | {"train": False} for m, t in zip(made, trained, strict=True)]}

    batch = [{"messages": [{**m, "content": f"word {i}"} for i, m in enumerate(conversation()["messages"])]}]
    batch += [conversation() for _ in range(12)]
    ways = native_way(folder, batch), transformers_way(folder, batch)
    for one, native, theirs in zip(batch, *ways, strict=True):
        assert isinstance(native, str) if isinstance(theirs, str) else native == theirs
        if not isinstance(theirs, str):
            check_turns(tokenizer, one, theirs)


SIMPLE = [
    {"messages": [user("Hello"), assistant("  World\n")]},
    {"messages": [{"role": "system", "content": "s"}, user("a"), assistant("b"), user(" c\x1c"), assistant("<think>\nd\n</think>\n\ne")]},
    {"messages": [user("a"), assistant("b", reasoning_content="hm"), user("c"), assistant("d", reasoning_content="hm")]},
    {
        "messages": [
            user("1+1?"),
            assistant(
                "", tool_calls=[{"type": "function", "id": "abcdefghi", "function": {"name": "add", "arguments": {"a": 1, "b": 1e-7}}}]
            ),
            {"role": "tool", "content": "2", "tool_call_id": "abcdefghi", "name": "add"},
            assistant("2"),
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "add",
                    "description": "Adds “numbers”",
                    "parameters": {"type": "object", "properties": {"a": {"type": "number", "default": None}}, "required": ["a"]},
                },
            }
        ],
    },
]


@pytest.mark.parametrize("name", others())
def test_templates_of_other_families_are_equal_or_seen_to_differ(renderers, name):
    folder, tokenizer = renderers(trl_templates()[name])
    for conversation, theirs in zip(SIMPLE, transformers_way(folder, SIMPLE), strict=True):
        if isinstance(theirs, str):
            with pytest.raises((InputError, ModelError)):
                prepare(folder, conversation)
            continue
        rows = prepare(folder, conversation).samples
        assert [tokenizer.decode(row.input_ids) for row in rows] == [text for text, _, _ in theirs]
        wanted = [[text.encode()[start:end].decode() for _, start, end in turns if end > start] for text, turns, _ in theirs]
        assert [target_texts(tokenizer, row) for row in rows] == wanted
