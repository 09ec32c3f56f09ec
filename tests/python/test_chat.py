"""Rendering, token ids and labels, compared with the masks of transformers and TRL and with the prompts of inference."""

import functools
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
from data_engine import SHARED, assistant, model_folder, prepare, target_spans, target_texts, user, with_template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import pyrust_nn
from pyrust_nn import InputError, ModelError
from pyrust_nn.models.tiny import tiny_model_folder
from pyrust_nn.models.tokenizers import load_tokenizer, shared_tokenizer
from pyrust_nn.training.rows import IGNORED, PreparedRows

EMPTY_THINKING = "<think>\n\n</think>\n\n"

# Qwen1.5's template with the marks from which transformers computes its own mask.
MARKED_QWEN15 = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '
' }}{% endfor %}"""

# As first published for Qwen1.5: the very last turn stays open.
OPEN_END = """\
{% for message in messages %}{{'<|im_start|>' + message['role'] + '
' + message['content']}}{% if not loop.last %}{{ '<|im_end|>' + '
' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_end|>
<|im_start|>assistant
' }}{% endif %}"""

# Opens every prompt with a thought, as Qwen3.5 does.
THINKING_PROMPT = """\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.last %}
{{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}
{{- message.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"""


@pytest.fixture(scope="session")
def tiny():
    """Always there: the built-in tokenizer with Qwen1.5's template."""
    return load_tokenizer("builtin:tiny")


@pytest.fixture(scope="session")
def qwen(tiny):
    """name → tokenizer with that family's own template; more than the built-in one only beside a `shared` folder."""
    tokenizers = {"tiny": tiny}
    if SHARED.is_dir():
        for name, template in (
            ("qwen1.5", None),
            ("qwen2.5", "Qwen-Qwen2.5-7B-Instruct"),
            ("qwen3", "Qwen-Qwen3-0.6B"),
        ):
            tokenizers[name] = AutoTokenizer.from_pretrained(SHARED / "qwen2-tokenizer")
            if template:
                tokenizers[name].chat_template = (SHARED / "chat-templates" / f"{template}.jinja").read_text()
    return tokenizers


def family(qwen, name):
    if name not in qwen:
        pytest.skip(f"no template of {name}: the folder {SHARED} is not there")
    return qwen[name]


FOLDERS = {}


def folder_of(tokenizer):
    """A model's folder with this tokenizer."""
    if id(tokenizer) not in FOLDERS:
        FOLDERS[id(tokenizer)] = model_folder(tokenizer), tokenizer
    return FOLDERS[id(tokenizer)][0]


@functools.cache
def other_template(tokenizer, template):
    """The tokenizer with another template."""
    folder, changed = with_template(folder_of(tokenizer), template)
    FOLDERS[id(changed)] = folder, changed
    return changed


def encode(tokenizer, *conversations, **params):
    return prepare(folder_of(tokenizer), *conversations, **params)


words = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.sampled_from(
        [
            "Héllo wörld",
            "你好,世界",
            "👩‍👩‍👧‍👦 🇨🇭!",
            "नमस्ते",
            "e\u0301te\u0301",
            "  indented\n\ncode",
            "a\n",
            "\nfirst",
            "\n\n\nx",
            "\t\n tab",
            "(x)",
        ]
    ),
).filter(lambda text: text.strip() and "<" not in text and "\0" not in text)


@st.composite
def conversations(draw):
    """Any order of roles that holds an assistant's turn, a system message only at the beginning."""
    roles = draw(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=6))
    messages = [{"role": role, "content": draw(words)} for role in ["user", *roles, "assistant"]]
    if draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": draw(words)})
    for message in messages[:-1]:
        if message["role"] == "assistant" and draw(st.integers(0, 3)) == 0:
            message["train"] = False
    return messages


property_test = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", ["tiny", "qwen1.5", "qwen2.5", "qwen3"])
@property_test
@given(messages=conversations())
def test_targets_are_the_words_and_the_prompt_is_what_inference_sees(qwen, name, messages):
    tokenizer = family(qwen, name)
    encoded = encode(tokenizer, messages)
    trained = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("train", True)]

    # Qwen3's template strips the newlines at an answer's beginning.
    said = [messages[i]["content"].lstrip("\n") if name == "qwen3" else messages[i]["content"] for i in trained]
    expected = [unicodedata.normalize("NFC", text) + "<|im_end|>" for text in said]
    got = [text for sample in encoded.samples for text in target_texts(tokenizer, sample)]
    if name == "qwen3" and len(encoded.samples) == 1:  # a turn in the middle is rendered as it is
        got = [text.lstrip("\n") for text in got]
    assert got == expected

    rendered = [{"role": m["role"], "content": m["content"]} for m in messages]
    places = [(sample, start) for sample in encoded.samples for start, _ in target_spans(sample)]
    separate_before = False
    for i, (sample, start) in zip(trained, places, strict=True):
        prompt = tokenizer.apply_chat_template(rendered[:i], add_generation_prompt=True, return_dict=False)
        block = tokenizer(EMPTY_THINKING)["input_ids"]
        if name == "qwen3" and sample.input_ids[: start - len(block)].tolist() == prompt:
            prompt += block
        if len(encoded.samples) > 1 or not separate_before:
            assert sample.input_ids[:start].tolist() == prompt
        separate_before |= encoded.report["separately_tokenized_turns"] > 0
    if name != "qwen3":
        (sample,) = encoded.samples
        whole = tokenizer.apply_chat_template(rendered, return_dict=False)
        assert encoded.report["separately_tokenized_turns"] or sample.input_ids.tolist() == whole


@pytest.mark.parametrize("name", ["tiny", "qwen1.5"])
@property_test
@given(messages=conversations())
def test_labels_equal_transformers_own_mask(qwen, name, messages):
    tokenizer = family(qwen, name)
    messages = [{**m, "content": m["content"].lstrip(), "train": True} for m in messages]
    oracle = tokenizer.apply_chat_template(messages, chat_template=MARKED_QWEN15, return_dict=True, return_assistant_tokens_mask=True)
    (sample,) = encode(tokenizer, messages).samples
    assert sample.input_ids.tolist() == oracle["input_ids"]
    assert (sample.labels != IGNORED).astype(int).tolist() == oracle["assistant_masks"]
    assert all(label in (IGNORED, id) for id, label in zip(sample.input_ids, sample.labels, strict=True))


@pytest.mark.parametrize("vocabulary", ["tiny", "qwen1.5"])
@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
@property_test
@given(messages=conversations(), thought=words)
def test_labels_equal_trls_but_for_the_newlines_around(qwen, vocabulary, name, messages, thought):
    # TRL's masks are exact for the templates that it knows to the letter, so these come from it.
    trl = pytest.importorskip("trl.chat_template_utils", reason="TRL is not installed")
    template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    tokenizer = other_template(family(qwen, vocabulary), template)
    messages = [{"role": m["role"], "content": m["content"].strip()} for m in messages]
    if name == "qwen3":  # TRL keeps earlier thinking, so compare where there is none
        messages = [
            *(m for m in messages[:-1] if m["role"] != "assistant"),
            messages[-1] | {"reasoning_content": thought.strip()},
        ]
    oracle = tokenizer.apply_chat_template(
        messages,
        chat_template=trl.get_training_chat_template(tokenizer),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    newline = tokenizer("\n")["input_ids"]
    mask = [0, *oracle["assistant_masks"], 0]
    expected = mask[:]
    for i in range(1, len(mask)):
        if mask[i - 1] and not mask[i]:
            assert oracle["input_ids"][i - 2 : i - 1] == newline
            expected[i - 1] = 0
        if mask[i] and not mask[i - 1] and name == "qwen2_5":
            assert oracle["input_ids"][i - 1 : i] == newline
            expected[i] = 0
    (sample,) = encode(tokenizer, messages).samples
    assert sample.input_ids.tolist() == oracle["input_ids"]
    assert (sample.labels != IGNORED).astype(int).tolist() == expected[1:-1]


def test_answer_that_begins_with_a_newline_is_tokenized_apart_from_its_prompt(tiny):
    messages = [user("a"), assistant("\nb"), user("c"), assistant("d")]
    # A vocabulary in which two newlines are one token, as in Qwen's.
    tiny = tiny.train_new_from_iterator(["\n\na"] * 99, 300)
    assert len(tiny("\n\n")["input_ids"]) == 1
    encoded = encode(tiny, messages)
    assert encoded.report["separately_tokenized_turns"] == 1
    (sample,) = encoded.samples
    prompt = tiny.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    assert sample.input_ids[: len(prompt)].tolist() == prompt
    assert target_texts(tiny, sample) == ["\nb<|im_end|>", "d<|im_end|>"]
    assert tiny.decode(sample.input_ids) == tiny.apply_chat_template(messages, tokenize=False)


def test_history_that_the_template_rewrites_makes_one_sample_a_turn(qwen):
    tokenizer = family(qwen, "qwen3")
    messages = [
        user("1+1?"),
        assistant("<think>\neasy\n</think>\n\n2"),
        user("2+2?"),
        assistant("<think>\nharder\n</think>\n\n4"),
    ]
    encoded = encode(tokenizer, messages, [user("x"), assistant("y")])
    assert encoded.report["split_conversations"] == 1
    assert len(encoded.samples) == 3
    assert [target_texts(tokenizer, sample) for sample in encoded.samples] == [
        ["<think>\neasy\n</think>\n\n2<|im_end|>"],
        ["<think>\nharder\n</think>\n\n4<|im_end|>"],
        ["y<|im_end|>"],
    ]
    assert "easy" not in tokenizer.decode(encoded.samples[1].input_ids)
    assert EMPTY_THINKING + "y" in tokenizer.decode(encoded.samples[2].input_ids)


def test_empty_reasoning_is_trained_on_only_where_the_user_wrote_it(qwen):
    tokenizer = family(qwen, "qwen3")
    (sample,) = encode(tokenizer, [user("x"), assistant(EMPTY_THINKING + "y")]).samples
    assert target_texts(tokenizer, sample) == [EMPTY_THINKING + "y<|im_end|>"]


def test_prompts_that_open_the_reasoning(tiny):
    tokenizer = other_template(tiny, THINKING_PROMPT)
    samples = encode(tokenizer, [user("x"), assistant("y")], [user("x"), assistant("y", reasoning_content="hm")]).samples
    assert [target_texts(tokenizer, sample) for sample in samples] == [["y<|im_end|>"], ["hm\n</think>\n\ny<|im_end|>"]]


def test_template_that_leaves_the_last_turn_open(tiny):
    tokenizer = other_template(tiny, OPEN_END)
    (sample,) = encode(tokenizer, [user("a"), assistant("b"), user("c"), assistant("d")]).samples
    assert target_texts(tokenizer, sample) == ["b<|im_end|>", "d<|im_end|>"]


def test_a_conversation_may_begin_with_the_assistant(tiny):
    (sample,) = encode(tiny, [assistant("Welcome!"), user("Hi"), assistant("Hello")]).samples
    assert target_texts(tiny, sample) == ["Welcome!<|im_end|>", "Hello<|im_end|>"]


def test_tool_calls(qwen):
    tokenizer = family(qwen, "qwen2.5")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        user("1+1?"),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        assistant("2"),
    ]
    (sample,) = encode(tokenizer, messages).samples
    called, answered = target_texts(tokenizer, sample)
    assert re.fullmatch(r'\s*<tool_call>\n\{"name": "add", "arguments": \{"a": 1\}\}\n</tool_call><\|im_end\|>', called)
    assert answered == "2<|im_end|>"


def test_turns_left_out_and_conversations_without_targets(tiny):
    encoded = encode(
        tiny,
        [user("a"), assistant("no", train=False), user("b"), assistant("yes", train=True)],
        [user("a"), assistant("no", train=False)],
    )
    assert [target_texts(tiny, sample) for sample in encoded.samples] == [["yes<|im_end|>"]]
    assert encoded.report["dropped"] == 1
    assert encoded.report["lost_tokens"] == len(tiny.apply_chat_template([user("a"), assistant("no")], return_dict=False))
    with pytest.raises(InputError, match="no sample is left"):
        encode(tiny, [user("a"), assistant("no", train=False)])


@property_test
@given(
    answers=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    max_length=st.integers(8, 60),
    overlong=st.sampled_from(["drop", "truncate_left", "truncate_right"]),
)
def test_no_token_is_lost_uncounted(tiny, answers, max_length, overlong):
    data = [[user("go"), assistant("x " * count)] for count in answers]
    whole = encode(tiny, *data)
    try:
        cut = encode(tiny, *data, max_length=max_length, overlong=overlong)
    except InputError:
        assert all(len(sample.input_ids) > max_length for sample in whole.samples)
        return
    counts = cut.report
    assert counts["tokens"] + counts["lost_tokens"] == whole.report["tokens"]
    assert counts["rows"] + counts["dropped"] == len(data) and counts["rows"] == len(cut.samples)
    assert counts["tokens"] == sum(len(sample.input_ids) for sample in cut.samples)
    assert counts["target_tokens"] == sum(sample.target_tokens for sample in cut.samples)
    earlier, truncated = iter(whole.samples), 0
    for sample in cut.samples:
        ids = sample.input_ids.tolist()
        assert len(ids) <= max_length and sample.target_tokens > 0 and sample.labels[0] == IGNORED
        full = next(
            full
            for one in earlier
            if (full := one.input_ids.tolist()) and ids == (full[-len(ids) :] if overlong == "truncate_left" else full[: len(ids)])
        )
        truncated += len(ids) < len(full)
    assert counts["truncated"] == truncated


def test_overlong_samples_are_named_with_the_fix(tiny):
    data = [[user("go"), assistant("x")]] + [[user("go"), assistant("x " * 100)]] * 7
    with pytest.raises(InputError) as error:
        encode(tiny, *data, max_length=50)
    text = str(error.value)
    longest = max(len(sample.input_ids) for sample in encode(tiny, *data).samples)
    assert "7 samples" in text and f"[1] has {longest}" in text and "[0]" not in text
    assert "2 more" in text and f"needs {longest}" in text and "truncate_left" in text


def test_templates_that_cannot_be_used(tiny):
    with pytest.raises(ModelError, match="no chat template"):
        encode(other_template(tiny, None), [user("a"), assistant("b")])
    refusing = other_template(tiny, "{{ raise_exception('only poems') }}")
    with pytest.raises(InputError, match=r"\[0\].*only poems"):
        encode(refusing, [user("a"), assistant("b")])


def test_the_datasets_library_reads_the_rows(tiny, data_json):
    import datasets

    made = pyrust_nn.prepare_dataset("builtin:tiny", dataset_path=data_json)
    read = datasets.Dataset.from_file(made["path"])
    assert read.column_names == ["input_ids", "labels"] and len(read) == made["rows"]
    mapped = PreparedRows(made["path"])
    for i in (0, len(mapped) - 1):
        assert read[i] == {"input_ids": mapped[i].input_ids.tolist(), "labels": mapped[i].labels.tolist()}
    assert mapped.lengths().tolist() == [len(row) for row in read["input_ids"]]


def test_a_tokenizer_is_read_again_where_its_files_have_changed(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder(), folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first = shared_tokenizer(str(folder))
    assert shared_tokenizer(str(copy)) is first
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    changed = shared_tokenizer(str(folder))
    assert changed.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi!"
    assert shared_tokenizer(str(copy)).chat_template == first.chat_template
