"""The native tokenizer's ids, against the tokenizers library's."""

import functools
import json
import random
import shutil
import unicodedata
from pathlib import Path

import pytest
from data_engine import SHARED, assistant, model_folder, prepare, user
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from pyrust_nn import _core
from pyrust_nn.models.tokenizers import load_tokenizer

QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Models by the pattern that cuts their words: the built-in vocabulary with each, and Qwen2's own where it is there."""
    tiny = model_folder(load_tokenizer("builtin:tiny"))
    other = tmp_path_factory.mktemp("qwen3.5") / "model"
    shutil.copytree(tiny, other)
    change(other, lambda made: made["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=QWEN35))
    made = {"tiny": tiny, "tiny with Qwen3.5's pattern": str(other)}
    if SHARED.is_dir():
        made["qwen2"] = str(SHARED / "qwen2-tokenizer")
    return made


def change(folder, how):
    """Changes a model's tokenizer.json."""
    path = Path(folder) / "tokenizer.json"
    made = json.loads(path.read_text(encoding="utf-8"))
    how(made)
    path.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")


@functools.cache
def library(folder):
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def differing(folder, texts):
    """The texts for which the library has other ids."""
    fast, ours = _core.tokenize(folder, texts)
    assert fast
    theirs = library(folder).encode_batch_fast(texts, add_special_tokens=False)
    return [text for text, mine, wanted in zip(texts, ours, theirs, strict=True) if mine != wanted.ids]


NAMES = ["tiny", "tiny with Qwen3.5's pattern", "qwen2"]


def of(folders, name):
    if name not in folders:
        pytest.skip(f"the folder {SHARED} is not there")
    return folders[name]


def every_character():
    """Every code point of the planes that hold letters, signs and marks, and some of those that hold none."""
    points = [*range(0x32400), *range(0xE0000, 0xE0200), *range(0x32400, 0xE0000, 97), *range(0xE0200, 0x110000, 97)]
    return [chr(point) for point in points if not 0xD800 <= point <= 0xDFFF]


@pytest.mark.parametrize("name", NAMES)
def test_every_character_beside_any_other_sort(folders, name):
    # Digits are words of their own, so they part the cases. The mark behind tests composition and its order.
    case = "0{0}0a{0}b0 {0}0!{0}0{0}{0}0\n{0}0'{0}0e{0}\u0301\u0323".format
    every = every_character()
    texts = ["".join(case(c) for c in every[i : i + 16]) for i in range(0, len(every), 16)]
    suspects = {c for text in differing(of(folders, name), texts) for c in text}
    wrong = {c for c in suspects if differing(folders[name], [case(c)])}
    assert not wrong, f"{len(wrong)} characters: {[f'U+{ord(c):04X}' for c in sorted(wrong)][:40]}"


words = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text(st.sampled_from(" \t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000"), max_size=6),
    st.text(st.sampled_from("'’sStTrReEvVmMlLdDſK"), max_size=6),
    st.text(
        st.sampled_from("eaoO\u0301\u0323\u0308\u0345\u0f71\u0f72\u0f74\u1100\u1161\u11a8\uac00\u0338=<\u09c7\u09be\U000110b9\U000110ba"),
        max_size=8,
    ),
    st.text(st.sampled_from("aé中ना1٣²½ⅣⅷA-_.,!?()[]{}#@…·"), max_size=10),
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            "<|im_end|>",
            "<|im_start|>",
            "<|endoftext|>",
            "<|im_",
            "<thin",
            "👩‍👩‍👧‍👦",
            "🇨🇭",
            "\0",
            "\ufeff",
        ]
    ),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(st.lists(words, max_size=8).map("".join), min_size=100, max_size=100))
def test_any_text(folders, name, texts):
    assert differing(of(folders, name), texts) == []


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(st.lists(words, max_size=8).map("".join), min_size=1, max_size=20))
def test_what_texts_can_touch_of_a_tokenizer_is_enough_for_the_library(folders, name, texts):
    # With it each data set is compared: were it short of a merge, the comparison would fail for nothing.
    theirs = library(of(folders, name)).encode_batch_fast(texts, add_special_tokens=False)
    assert _core.tokenize_by_library(folders[name], texts) == [wanted.ids for wanted in theirs]


@pytest.mark.parametrize("name", NAMES)
def test_texts_that_are_hard_to_cut(folders, name):
    texts = [
        "a" * 10_000,
        "é" * 5_000,
        "e\u0301" * 5_000,
        "ab" * 5_000 + " " * 5_000,
        " " * 10_000 + "x",
        "\n" * 5_000 + " \n " * 3_000,
        "!" * 10_000 + "\r\n" * 100,
        "的" * 10_000,
        "👩‍👩‍👧‍👦" * 1_000,
        "1" * 10_000,
        "'" * 1_000 + "s" * 1_000,
        *(
            f"x{quote}{ending} y"
            for quote in "'’"
            for ending in ("s", "S", "ſ", "t", "T", "re", "RE", "rE", "ve", "Ve", "m", "M", "ll", "LL", "lL", "d", "D", "K")
        ),
        "\u0301start",
        "a\n\u0301",
        "\u1100\u1161\u11a8",
        "\u1100\u1161 \u11a8",
        "한" * 100,
        "",
        "<think>x</think>",
        "a<think>\u0301",
        "e</think>\u0301",
        "<tool_call>\n{}</tool_call>",
        "<think><think>",
        " <think> ",
        "<<think>>",
        unicodedata.normalize("NFD", "Ünïcödé Ååg 한국어 ợ"),
    ]
    assert differing(of(folders, name), texts) == []


def test_added_tokens_that_are_not_special_become_tokens(folders):
    folder = of(folders, "qwen2")
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    plain = [token.content for token in tokenizer.get_added_tokens_decoder().values() if not token.special]
    texts = [f"{before}{token}{behind}" for token in plain for before in ("", "a", " ", "e") for behind in ("", "b", " ", "\u0301", "\n")]
    assert differing(folder, texts) == []


@pytest.mark.parametrize("what", ["pre_tokenizer", "normalizer", "added"])
def test_an_unknown_tokenizer_goes_to_the_library(folders, tmp_path, what):
    folder = tmp_path / "model"
    shutil.copytree(folders["tiny"], folder)

    def unknown(made):
        if what == "pre_tokenizer":
            made["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        elif what == "normalizer":
            made["normalizer"] = None
        else:
            # As in Phi-3: a control token takes the white space behind it along.
            for token in made["added_tokens"]:
                token["rstrip"] = True
                token["lstrip"] = token["content"] == "<|im_start|>"

    change(folder, unknown)
    messages = [user("e\u0301x 12  it's"), assistant("\u0301e\u0301 fine \n"), user("\n y"), assistant("<think>no</think>")]
    sample, *_ = prepare(str(folder), messages).samples
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert not _core.tokenize(str(folder), ["x"])[0]
    assert sample.input_ids.tolist() == Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    ends = [i for i, token in enumerate(sample.input_ids.tolist()) if token == tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert [int(sample.labels[end]) != -100 for end in ends] == [False, False, True, False, True]


@pytest.mark.parametrize("name", [*NAMES, "of another kind"])
@pytest.mark.parametrize("skip_special", [True, False])
def test_any_tokens_become_the_text_that_the_library_decodes(folders, tmp_path, name, skip_special):
    if name == "of another kind":
        folder = tmp_path / "other"
        shutil.copytree(of(folders, "tiny"), folder)
        change(folder, lambda made: made.update(normalizer={"type": "Lowercase"}))
    else:
        folder = of(folders, name)
    whole = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    size = whole.get_vocab_size(with_added_tokens=True)
    draw = random.Random(0)
    # Halves of characters, special tokens among others, ids that a padded matrix has and no vocabulary.
    sequences = [[], list(range(size)), [size - 1, size, size + 500, 0]]
    sequences += [[draw.randrange(size) for _ in range(draw.randrange(1, 40))] for _ in range(300)]
    ours = _core.detokenize(folder, sequences, skip_special)
    assert ours == [whole.decode([token for token in one if token < size], skip_special_tokens=skip_special) for one in sequences]
