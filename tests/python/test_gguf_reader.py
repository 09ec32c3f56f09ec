"""The proof's reader of GGUF files, beside the `gguf` package's own."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from pyrust_nn import InputError
from pyrust_nn.proof.gguf_file import GgufFile
from pyrust_nn.proof.gguf_reader import GgufReader

TEXTS = ["", "a", "Ġthe", "naïve 🌍", "x" * 1000]


def written(path: Path, alignment: int = 32) -> Path:
    """A file with a key of each type and a tensor of several types, by the package's writer."""
    writer = gguf.GGUFWriter(path, "qwen2")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for name, value in [("u8", 200), ("i8", -3), ("u16", 60_000), ("i16", -300), ("u32", 4_000_000_000), ("i32", -5)]:
        getattr(writer, {"u": "add_uint", "i": "add_int"}[name[0]] + name[1:])(f"key.{name}", value)
    writer.add_uint64("key.u64", 2**60)
    writer.add_int64("key.i64", -(2**60))
    writer.add_float32("key.f32", 1.5)
    writer.add_float64("key.f64", 0.1)
    writer.add_bool("key.bool", True)
    writer.add_string("key.text", "é\n")
    writer.add_array("key.texts", TEXTS)
    writer.add_array("key.numbers", [1, 2, 3])
    writer.add_array("key.floats", [0.5, -0.25])
    numbers = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    writer.add_tensor("plain", numbers)
    writer.add_tensor("half", numbers.astype(np.float16))
    writer.add_tensor("one", np.ones(5, dtype=np.float32))
    packed = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [32, 256])
def test_keys_and_tensors_are_those_that_the_package_reads(tmp_path, alignment):
    path = written(tmp_path / "a.gguf", alignment)
    ours, theirs = GgufReader(path), gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert {name: value() for name, value in ours.keys.items()} == fields
    assert fields["key.texts"] == TEXTS
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        read = ours.tensors[tensor.name]
        assert (read.tensor_type, list(read.shape)) == (tensor.tensor_type, tensor.shape.tolist())
        assert read.data.dtype == tensor.data.dtype
        assert np.array_equal(read.data, tensor.data)


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path):
    whole = written(tmp_path / "a.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    begin = len(whole) - sum(tensor.n_bytes for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors)
    for size in [*range(0, begin, 7), *range(begin, len(whole) - 64, 101)]:
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.gguf is not a complete GGUF file"):
            GgufFile(cut)


@pytest.mark.parametrize("place", range(4, 24, 4))
def test_absurd_counts_are_refused_and_take_no_memory(tmp_path, place):
    content = bytearray(written(tmp_path / "a.gguf").read_bytes())
    content[place : place + 4] = b"\xff\xff\xff\x7f"
    (tmp_path / "b.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.gguf is not a complete GGUF file"):
        GgufFile(tmp_path / "b.gguf")
