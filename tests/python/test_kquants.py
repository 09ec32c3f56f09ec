"""Encoders and decoders of GGUF's block formats, against libgguf (ggml's own code) and the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libgguf import dequantize_rows, quantize_rows

from pyrust_nn import _core

BLOCKS = {kind["name"]: kind["block"] for kind in _core.gguf_types()}
QUANTIZED = [name for name, block in BLOCKS.items() if block > 1]


def forms() -> list[str]:
    """The forms of the encoders that this processor can execute."""
    found = []
    for form in ("plain", "avx2", "avx512"):
        try:
            _core.gguf_encode("Q4_0", np.zeros((1, 32), np.float32), None, form)
        except Exception:
            continue
        found.append(form)
    return found


FORMS = forms()


def encoded(name: str, rows: np.ndarray, importance: np.ndarray | None, form: str | None = None) -> np.ndarray:
    return np.frombuffer(_core.gguf_encode(name, np.ascontiguousarray(rows), importance, form), np.uint8).reshape(len(rows), -1)


def check(name: str, rows: np.ndarray, importance: np.ndarray | None) -> None:
    wanted = quantize_rows(rows, gguf.GGMLQuantizationType[name], importance).view(np.uint8).reshape(len(rows), -1)
    for form in FORMS:
        ours = encoded(name, rows, importance, form)
        wrong = np.argwhere(ours != wanted)
        assert not len(wrong), f"{name} {form}: {len(wrong)} of {wanted.size} bytes differ, the first at {wrong[0]}"


def natural(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Numbers as in a model: rounded to float16, of a scale that varies by row."""
    scale = np.exp(rng.normal(-3, 2, (rows, 1)))
    return (rng.standard_normal((rows, columns)) * scale).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_bytes_equal_ggml_s(name, weighted):
    rng = np.random.default_rng(1)
    for rows, columns in ((1, 256), (3, 512), (67, 768)):
        importance = (rng.standard_normal(columns) ** 2).astype(np.float32) if weighted else None
        check(name, natural(rng, rows, columns), importance)


def special_rows(columns: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((4, columns)).astype(np.float32)
    outlier = noise * 1e-3
    outlier[:, 7] = 40.0
    signs = np.where(rng.random((4, columns)) < 0.5, 0.0, -0.0).astype(np.float32)
    holes = noise.copy()
    holes[:, : columns // 2] = 0
    lone = np.zeros((4, columns), np.float32)
    lone[:, columns - 5] = -0.25
    return {
        "zeros": np.zeros((4, columns), np.float32),
        "negative zeros": signs,
        "equal": np.full((4, columns), 0.3, np.float32),
        "equal and negative": np.full((4, columns), -0.3, np.float32),
        "half zeros": holes,
        "one number": lone,
        "outlier": outlier,
        "positive": np.abs(noise),
        "negative": -np.abs(noise),
        "denormals": noise * np.float32(1e-41),
        "smallest halves": (noise * 1e-7).astype(np.float16).astype(np.float32),
        "tiny": noise * np.float32(1e-30),
        "few values": np.round(noise * 2).astype(np.float32),
        "two values": np.where(noise > 0, 1.0, -1.0).astype(np.float32),
        "large": noise * np.float32(15000),
    }


@pytest.mark.parametrize("name", QUANTIZED)
def test_special_rows_equal_ggml_s(name):
    for columns in (256, 512):
        rng = np.random.default_rng(3)
        for what, rows in special_rows(columns).items():
            some = (rng.random(columns) < 0.3).astype(np.float32)
            for importance in (None, np.zeros(columns, np.float32), some, (rng.random(columns) * 1e-6).astype(np.float32)):
                try:
                    check(name, rows, importance)
                except AssertionError as cause:
                    raise AssertionError(f"{what}, {'no importance' if importance is None else importance[:3]}") from cause


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_rows_equal_ggml_s(data):
    name = data.draw(st.sampled_from(QUANTIZED))
    columns = BLOCKS[name] * data.draw(st.integers(1, 5))
    rows = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    numbers = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-6, 4, (rows, columns // 16)).repeat(16, 1)
    if data.draw(st.booleans()):
        numbers[rng.random(numbers.shape) < 0.4] = 0
    importance = rng.random(columns).astype(np.float32) ** 4 if data.draw(st.booleans()) else None
    if importance is not None and data.draw(st.booleans()):
        importance[rng.random(columns) < 0.5] = 0
    check(name, numbers.astype(np.float32), importance)


@pytest.mark.parametrize("name", BLOCKS)
def test_decoded_numbers_equal_those_of_gguf_and_libgguf(name):
    kind = gguf.GGMLQuantizationType[name]
    rng = np.random.default_rng(4)
    rows = natural(rng, 9, 1024)
    ours = encoded(name, rows, None)
    numbers = np.frombuffer(_core.gguf_decode(name, ours.tobytes()), np.float32).reshape(rows.shape)
    stored = {"F32": np.float32, "F16": np.float16}.get(name, np.uint8)
    assert np.array_equal(numbers, gguf.dequantize(ours.view(stored), kind))
    if BLOCKS[name] > 1:
        assert np.array_equal(numbers, dequantize_rows(ours, kind, 1024))


@pytest.mark.parametrize("name", QUANTIZED)
def test_any_bytes_are_decoded_as_by_libgguf(name):
    rng = np.random.default_rng(5)
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (64, size), dtype=np.uint8)
    numbers = np.frombuffer(_core.gguf_decode(name, data.tobytes()), np.float32).reshape(64, block)
    assert np.array_equal(numbers, dequantize_rows(data, kind, block), equal_nan=True)


def test_the_header_is_that_of_gguf_s_reader(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen2")
    writer.add_string("s", "ä")
    writer.add_array("list", ["a", "bc"])
    writer.add_float32("f", 0.5)
    writer.add_int64("i", -7)
    rows = natural(np.random.default_rng(6), 3, 512)
    writer.add_tensor("t.weight", rows)
    quantized = encoded("Q4_K", rows, None)
    writer.add_tensor("q.weight", quantized, raw_shape=quantized.shape, raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header, reader = _core.gguf_header(tmp_path / "a.gguf"), gguf.GGUFReader(tmp_path / "a.gguf")
    assert header["keys"] == {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert [(t["name"], t["type"], t["offset"], t["bytes"]) for t in header["tensors"]] == [
        (t.name, t.tensor_type.name, t.data_offset, t.n_bytes) for t in reader.tensors
    ]
    assert [t["shape"] for t in header["tensors"]] == [[3, 512], [3, 512]]
