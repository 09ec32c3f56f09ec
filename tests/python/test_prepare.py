"""Prepared data sets: literal special tokens, reasoning, overlong rows, duplicates, the evaluation split, file formats."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from data_engine import SHARED, assistant, model_folder, prepare, rows, system, target_spans, target_texts, user, with_template, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import pyrust_nn
from pyrust_nn import InputError
from pyrust_nn.models.tokenizers import load_tokenizer

CONTROL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>"]


def trl_template(name):
    return (Path(find_spec("trl").origin).parent / "chat_templates" / f"{name}.jinja").read_text()


@pytest.fixture(scope="session")
def models():
    """name → a model's folder and its tokenizer: the built-in one with several templates."""
    tiny = load_tokenizer("builtin:tiny")
    base = model_folder(tiny)
    made = {"tiny": (base, tiny)}
    for name in ("qwen2_5", "qwen3", "qwen3_5_think", "qwen3_5_nothink"):
        made[name] = with_template(base, trl_template(name))
    if SHARED.is_dir():
        folder = str(SHARED / "qwen2-tokenizer")
        made["qwen2's own"] = folder, AutoTokenizer.from_pretrained(folder)
    return made


def of(models, name):
    if name not in models:
        pytest.skip(f"the folder {SHARED} is not there")
    return models[name]


def plain(samples):
    return [(sample.input_ids.tolist(), sample.labels.tolist()) for sample in samples]


# Control tokens in the user's own texts

special_texts = st.lists(
    st.one_of(st.sampled_from([*CONTROL, "<|im_end|>\n<|im_start|>assistant\n", "<|im_", "\ufdd0", "\n"]), st.text("ab é<|>", max_size=4)),
    max_size=5,
)


def segments(tokenizer, parts):
    """Ids of a text whose control tokens are given apart: ("control", token) or ("text", what is text whatever it spells)."""
    ids = []
    for kind, text in parts:
        ids += (
            [tokenizer.convert_tokens_to_ids(text)]
            if kind == "control"
            else tokenizer(text, split_special_tokens=True)["input_ids"]
            if text
            else []
        )
    return ids


@pytest.mark.parametrize("name", ["tiny", "qwen2's own"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(special_texts.map(lambda parts: "x" + "".join(parts) + "x"), min_size=3, max_size=3))
def test_control_tokens_spelled_in_texts_stay_text(models, name, texts):
    folder, tokenizer = of(models, name)
    said = dict(zip(("system", "user", "assistant"), texts, strict=True))
    prepared = prepare(folder, [{"role": role, "content": text} for role, text in said.items()])
    start, end = ("control", "<|im_start|>"), ("control", "<|im_end|>")
    parts, target = [], []
    for i, (role, text) in enumerate(said.items()):
        parts += [start, ("text", f"{role}\n{text}"), end, ("text", "\n")]
        target = [("text", text), end] if i == 2 else []
    (sample,) = prepared.samples
    assert sample.input_ids.tolist() == segments(tokenizer, parts)
    assert prepared.report["literal_special_tokens"] == any(token in text for text in texts for token in CONTROL)
    ((begin, stop),) = target_spans(sample)
    assert sample.input_ids[begin:stop].tolist() == segments(tokenizer, target)
    assert stop == len(sample.input_ids) - len(tokenizer("\n")["input_ids"])


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_5_think"])
def test_control_tokens_spelled_anywhere_else_stay_text_too(models, name):
    folder, tokenizer = of(models, name)
    call = {"type": "function", "function": {"name": "f", "arguments": {"<|im_end|>": "<|im_start|>", "b": ["<|endoftext|>"]}}}
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "description": "<|im_end|>",
            "parameters": {"type": "object", "properties": {"<|im_end|>": {"type": "string"}}},
        },
    }
    honest = {
        "messages": [
            user("go"),
            assistant("", tool_calls=[call]),
            {"role": "tool", "content": "<|im_end|>"},
            assistant("done", reasoning_content="<|im_end|>?"),
        ],
        "tools": [tool],
    }
    harmless = json.loads(
        json.dumps(honest)
        .replace("<|im_end|>", "<|im_e_d|>")
        .replace("<|im_start|>", "<|im_st_rt|>")
        .replace("<|endoftext|>", "<|endoft_xt|>")
    )
    bad, good = prepare(folder, honest), prepare(folder, harmless)
    assert bad.report["literal_special_tokens"] == 1 and good.report["literal_special_tokens"] == 0
    control = {tokenizer.convert_tokens_to_ids(token) for token in CONTROL}
    for one, other in zip(bad.samples, good.samples, strict=True):
        count = [sum(int(token) in control for token in sample.input_ids) for sample in (one, other)]
        assert count[0] == count[1]
        text = tokenizer.decode(one.input_ids).replace("<|im_end|>?", "<|im_e_d|>?")
        assert len(target_spans(one)) == len(target_spans(other)) and "\ufdd0" not in text


# Thoughts

THOUGHTS = [user("1+1?"), assistant("2", reasoning_content="easy"), user("2+2?"), assistant("4", reasoning_content="harder")]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "qwen3_5_nothink"])
def test_reasoning_is_kept_masked_or_dropped(models, name):
    folder, tokenizer = of(models, name)
    spelled = [
        {
            "role": m["role"],
            "content": f"<think>\n{m['reasoning_content']}\n</think>\n\n{m['content']}" if "reasoning_content" in m else m["content"],
        }
        for m in THOUGHTS
    ]
    for messages in (THOUGHTS, spelled):
        kept, masked, dropped = (prepare(folder, messages, thinking=thinking) for thinking in ("keep", "mask", "drop"))
        learned = ["".join(target_texts(tokenizer, sample)) for sample in kept.samples]
        assert "easy" in learned[0] and learned[0].endswith("2<|im_end|>")
        assert "harder" in learned[-1] and learned[-1].endswith("4<|im_end|>")
        assert [sample.input_ids.tolist() for sample in masked.samples] == [sample.input_ids.tolist() for sample in kept.samples]
        assert [text for sample in masked.samples for text in target_texts(tokenizer, sample)] == ["2<|im_end|>", "4<|im_end|>"]
        assert [text for sample in dropped.samples for text in target_texts(tokenizer, sample)] == ["2<|im_end|>", "4<|im_end|>"]
        assert all(
            "easy" not in tokenizer.decode(sample.input_ids) and "harder" not in tokenizer.decode(sample.input_ids)
            for sample in dropped.samples
        )


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think"])
def test_dropped_reasoning_leaves_what_the_template_writes_without_them(models, name):
    folder, _ = of(models, name)
    bare = [{key: value for key, value in message.items() if key != "reasoning_content"} for message in THOUGHTS]
    assert plain(prepare(folder, THOUGHTS, thinking="drop").samples) == plain(prepare(folder, bare).samples)


def test_without_reasoning_the_three_are_the_same(models):
    for folder, _ in models.values():
        messages = [user("a"), assistant("b"), user("c"), assistant("d")]
        kept, masked, dropped = (plain(prepare(folder, messages, thinking=thinking).samples) for thinking in ("keep", "mask", "drop"))
        assert kept == masked == dropped


# Too long


@pytest.mark.parametrize("overlong", ["drop", "truncate_left", "truncate_right"])
def test_a_row_that_keeps_nothing_to_learn_is_dropped(models, overlong):
    folder, _ = models["tiny"]
    long_question, long_answer = [user("x " * 200), assistant("y")], [user("a"), assistant("y " * 200)]
    prepared = prepare(folder, long_question, long_answer, [user("a"), assistant("b")], max_length=60, overlong=overlong)
    wanted = {"drop": 1, "truncate_left": 3, "truncate_right": 2}[overlong]
    assert prepared.report["rows"] == len(prepared.samples) == wanted
    assert prepared.report["dropped"] == 3 - wanted
    assert all(sample.target_tokens and sample.labels[0] == -100 and len(sample.input_ids) <= 60 for sample in prepared.samples)


# Duplicates and what is held out


def many(count, start=0):
    return [[user(f"What is {i}?"), assistant(f"It is {i}. " + "la " * (i % 50))] for i in range(start, start + count)]


def test_duplicates_are_counted_and_left_out_across_batches(models):
    folder, _ = models["tiny"]
    once = many(6000)
    path = write([*once, *once[::7], *many(3, 6000), once[0]])
    assert Path(path).stat().st_size > 3 * (1 << 18), "more than a few batches"
    copies = len(once[::7]) + 1
    kept = prepare(folder, path=path)
    assert (kept.report["duplicates"], kept.report["rows"]) == (copies, 6003 + copies)
    left = prepare(folder, path=path, drop_duplicates=True)
    assert (left.report["duplicates"], left.report["rows"], left.report["conversations"]) == (copies, 6003, 6003 + copies)
    assert plain(left.samples) == plain(prepare(folder, *once, *many(3, 6000)).samples)
    assert left.report["tokens"] == sum(len(sample.input_ids) for sample in left.samples)


def test_conversations_that_differ_in_anything_shown_are_no_duplicates(models):
    folder, _ = models["qwen2_5"]
    messages = [user("a"), assistant("b")]
    listed = [{"name": "f"}]
    data = [
        messages,
        {"messages": messages, "tools": listed},
        {"messages": messages, "documents": listed},
        {"messages": messages, "chat_template_kwargs": {"x": 1}},
        [user("a"), assistant("b", reasoning_content="c")],
        [system("a"), *messages],
        [*messages, user("c"), assistant("d", train=False)],
        [*messages, user("c"), assistant("d")],
    ]
    assert prepare(folder, *data).report["duplicates"] == 0
    assert prepare(folder, *data, *data).report["duplicates"] == len(data)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(count=st.integers(2, 60), share=st.floats(0.001, 0.6), seed=st.integers(0, 1000))
def test_what_is_held_out_and_what_stays_are_the_whole(models, count, share, seed):
    folder, _ = models["tiny"]
    wanted = max(1, int(share * count + 0.5))
    data = many(count)
    if wanted >= count:
        with pytest.raises(InputError, match="eval_split"):
            prepare(folder, *data, eval_split=share, seed=seed)
        return
    whole = plain(prepare(folder, *data).samples)
    parted = prepare(folder, *data, eval_split=share, seed=seed)
    assert abs(len(parted.held_out) - share * count) <= 0.5 or len(parted.held_out) == 1
    assert parted.report["eval_rows"] == len(parted.held_out) >= 1
    assert sorted(plain(parted.samples) + plain(parted.held_out)) == sorted(whole)
    in_order = iter(whole)
    assert all(row in in_order for row in plain(parted.samples)), "in the order of the data"


def test_the_seed_draws_what_is_held_out(models):
    folder, _ = models["tiny"]
    path = write(many(50))
    drawn = [plain(prepare(folder, path=path, eval_split=0.2, seed=seed).held_out) for seed in (1, 2)]
    assert len(drawn[0]) == len(drawn[1]) == 10 and drawn[0] != drawn[1]


def test_rows_of_one_conversation_are_held_out_together(models):
    folder, tokenizer = models["qwen3"]
    data = [
        [user(f"{i}+0?"), assistant(f"<think>\na{i}\n</think>\n\n{i}"), user(f"{i}+1?"), assistant(f"<think>\nb{i}\n</think>\n\n{i + 1}")]
        for i in range(20)
    ]
    parted = prepare(folder, *data, eval_split=0.25)
    assert parted.report["split_conversations"] == 20
    assert (len(parted.samples), len(parted.held_out)) == (30, 10)
    asked = [
        {tokenizer.decode(sample.input_ids).split("+0?")[0].rsplit("\n", 1)[1] for sample in side}
        for side in (parted.samples, parted.held_out)
    ]
    assert len(asked[0]) == 15 and len(asked[1]) == 5 and not asked[0] & asked[1]


# Forms of files


def test_every_form_of_file_gives_the_same_rows(models, tmp_path):
    import datasets
    import pyarrow as pa

    folder, _ = models["tiny"]
    data = [{"messages": [user(f"Ünï {i}"), assistant(f"çödé {i}\n<|im_end|>")]} for i in range(30)]
    text = json.dumps(data, ensure_ascii=False).encode()
    lines = b"".join(json.dumps(one).encode() + b"\n" for one in data)
    table = datasets.Dataset.from_list(data)
    (tmp_path / "list.json").write_bytes(text)
    (tmp_path / "lines.jsonl").write_bytes(lines)
    (tmp_path / "list.json.gz").write_bytes(gzip.compress(text))
    (tmp_path / "lines.zst").write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    table.to_parquet(str(tmp_path / "rows.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": table.select([0]), "train": table}).save_to_disk(str(tmp_path / "splits"))
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.data.table.schema) as out:
        out.write_table(table.data.table)
    (tmp_path / "parts").mkdir()
    for part in range(3):
        (tmp_path / "parts" / f"{part}.json").write_text(json.dumps(data[part * 10 : part * 10 + 10]))
        table.select(range(part * 10, part * 10 + 10)).to_parquet(str(tmp_path / "parts" / f"{part}.parquet"))

    wanted = plain(prepare(folder, *data).samples)
    assert len(wanted) == 30
    for name in [
        "list.json",
        "lines.jsonl",
        "list.json.gz",
        "lines.zst",
        "rows.parquet",
        "saved",
        "splits",
        "stream.arrow",
        "parts/*.json",
        "parts/*.parquet",
    ]:
        assert plain(prepare(folder, path=str(tmp_path / name)).samples) == wanted, name
    several = pyrust_nn.prepare_dataset(
        folder, dataset_path=[str(tmp_path / "parts/0.json"), str(tmp_path / "parts/1.parquet"), str(tmp_path / "parts/2.json")]
    )
    assert plain(rows(several["path"])) == wanted


def test_foreign_data_that_cannot_be_read_says_so(models, tmp_path):
    folder, _ = models["tiny"]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"broken\.parquet"):
        prepare(folder, path=str(tmp_path / "broken.parquet"))
    with pytest.raises(InputError, match=r"no data set .*nowhere\.parquet"):
        prepare(folder, path=str(tmp_path / "nowhere.parquet"))


# Templates that only transformers can render


def test_a_template_that_reads_the_clock_goes_to_transformers(models, capfd):
    template = "{{ strftime_now('%Y') }}" + models["tiny"][1].chat_template
    folder, tokenizer = with_template(models["tiny"][0], template)
    messages = [user("a"), assistant("b")]
    (sample,) = prepare(folder, messages).samples
    assert sample.input_ids.tolist() == tokenizer.apply_chat_template(messages, return_dict=False)
    assert target_texts(tokenizer, sample) == ["b<|im_end|>"]
    assert "transformers renders the chat template" in capfd.readouterr().err


@pytest.mark.parametrize(
    "odd",
    [
        "{{ messages[0] }}",
        "{{ [1, 'a'] }}",
        "{{ {'a': none} }}",
        "{{ 'ß'.upper() }}{{ 7 // 2 }}{{ 1 / 3 }}{{ '%05.2f' % 3 }}",
        "{{ 'a,b'.split(',')[::-1] | join }}",
    ],
)
def test_what_python_prints_in_its_own_way_is_never_printed_otherwise(models, odd):
    template = odd + models["tiny"][1].chat_template
    folder, tokenizer = with_template(models["tiny"][0], template)
    messages = [user("a"), assistant("b")]
    (sample,) = prepare(folder, messages).samples
    assert tokenizer.decode(sample.input_ids) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_without_python_such_a_template_is_an_error_with_the_fix(models, cli, tmp_path):
    folder, _ = with_template(models["tiny"][0], "{{ strftime_now('%Y') }}" + models["tiny"][1].chat_template)
    path = write([[user("a"), assistant("b")]])
    done = cli("prepare", path, "--model", folder, "--no-setup", "--python-env", tmp_path / "no")
    assert done.returncode != 0
    assert "needs transformers" in done.stderr and "pyrust-nn setup" in done.stderr


def test_parameters_of_the_renderer_in_the_data_change_nothing(models):
    folder, _ = with_template(models["tiny"][0], "{# another #}" + models["tiny"][1].chat_template)
    messages = [user("a"), assistant("b")]
    given = {"add_generation_prompt": True, "tokenize": True, "messages": [], "return_dict": True}
    assert plain(prepare(folder, {"messages": messages, "chat_template_kwargs": given}).samples) == plain(prepare(folder, messages).samples)


def test_conversations_that_transformers_renders_side_by_side_keep_their_own_tools(models):
    template = "{{ strftime_now('') }}{% for tool in tools %}{{ tool.name }}{% endfor %}" + models["tiny"][1].chat_template
    folder, tokenizer = with_template(models["tiny"][0], template)
    # Several batches, so that several threads have one at the same time.
    words = "word " * 400
    conversations = [{"messages": [user(words), assistant(f"call {i}")], "tools": [{"name": f"tool {i} "}]} for i in range(600)]
    samples = prepare(folder, *conversations).samples
    for i, sample in enumerate(samples):
        text = tokenizer.decode(sample.input_ids)
        assert text.startswith(f"tool {i} ") and f"call {i}<" in text
