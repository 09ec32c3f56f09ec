"""Every type of Arrow: the values that pyarrow's own `to_pylist` has, as JSON, or a refusal that names column and type."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyrust_nn import InputError
from pyrust_nn.hf_datasets import json_lines

UTC = datetime.UTC
MOMENT = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456)
MAP = pa.map_(pa.string(), pa.int64())

ARRAYS: dict[str, pa.Array] = {
    "decimal32": pa.array([Decimal("1.25"), None, Decimal("-0.01")], pa.decimal32(5, 2)),
    "decimal64": pa.array([Decimal("12345678901.25")], pa.decimal64(18, 2)),
    "decimal128": pa.array([Decimal("0.1"), Decimal("12345678901234567890.123456789")], pa.decimal128(38, 9)),
    "decimal256": pa.array([Decimal(10) ** 60, Decimal(7)], pa.decimal256(70, 0)),
    "decimal of negative scale": pa.array([Decimal("1.2E+5")], pa.decimal128(10, -4)),
    "time32[s]": pa.array([datetime.time(1, 2, 3), None], pa.time32("s")),
    "time32[ms]": pa.array([datetime.time(1, 2, 3, 4000)], pa.time32("ms")),
    "time64[us]": pa.array([datetime.time(23, 59, 59, 999999)], pa.time64("us")),
    "date32": pa.array([datetime.date(1, 1, 1), datetime.date(9999, 12, 31)], pa.date32()),
    "date64": pa.array([datetime.date(2024, 2, 29)], pa.date64()),
    "timestamp[s]": pa.array([MOMENT.replace(microsecond=0)], pa.timestamp("s")),
    "timestamp[us]": pa.array([MOMENT, None], pa.timestamp("us")),
    "timestamp with a zone": pa.array([MOMENT.replace(tzinfo=UTC)], pa.timestamp("us", "Europe/Rome")),
    "dictionary": pa.array(["a", "b", None, "a"]).dictionary_encode(),
    "dictionary of numbers": pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.int8()), pa.array([10**18 + 1, 2])),
    "dictionary of decimals": pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array([Decimal("1.50")])),
    "run-end encoded": pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["x", None])),
    "half": pa.array([1.5, None], pa.float32()).cast(pa.float16()),
    "float": pa.array([0.1, 1e-30], pa.float32()),
    "double": pa.array([0.1, 41.902783512345, 1e-12, 5e-324]),
    "int64": pa.array([-(2**63), 2**63 - 1, None]),
    "uint64": pa.array([2**64 - 1], pa.uint64()),
    "bool": pa.array([True, None, False]),
    "null": pa.array([None, None]),
    "large_string": pa.array(["ü", None], pa.large_string()),
    "string_view": pa.array(["a longer text than twelve bytes", "b"], pa.string_view()),
    "large_list": pa.array([[1, None], [], None], pa.large_list(pa.int64())),
    "fixed_size_list": pa.array([[1.5, 2.5], None], pa.list_(pa.float64(), 2)),
    "list of lists of decimals": pa.array([[[Decimal("1.5")], None], []], pa.list_(pa.list_(pa.decimal128(4, 1)))),
    "struct": pa.array(
        [{"t": datetime.time(1), "d": Decimal("2.5"), "l": [{"x": 1}, {"x": None}]}, {"t": None, "d": None, "l": []}],
        pa.struct([("t", pa.time32("s")), ("d", pa.decimal128(5, 1)), ("l", pa.large_list(pa.struct([("x", pa.uint8())])))]),
    ),
    "map": pa.array([[("a", 1), ("b", None)], [], None], MAP),
    "map of numbers to text": pa.array([[(1, "x")]], pa.map_(pa.int32(), pa.large_string())),
    "list_view": pa.array([[1, 2], None], pa.list_view(pa.int64())),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])),
}


def as_json(value: Any, kind: pa.DataType, inside: bool = False) -> Any:
    """What JSON has for a value of `to_pylist`: in a struct the nulls are left out, since Arrow fills them in."""
    if isinstance(value, Decimal):
        number = float(value)
        return (
            int(value)
            if value.as_tuple().exponent == 0 and abs(value) < 2**63
            else number
            if Decimal(repr(number)) == value
            else str(value)
        )
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if pa.types.is_map(kind) and value is not None:
        return {str(key): as_json(item, kind.item_type) for key, item in value}
    if isinstance(value, dict):
        return {name: as_json(item, kind.field(name).type) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [as_json(item, kind.value_type) for item in value]
    return value


def read(path: Path) -> list[Any]:
    made, _ = json_lines(path, None, ["v", "n"])
    return [json.loads(line).get("v") for line in Path(made).read_text(encoding="utf-8").splitlines()]


def written(folder: Path, column: pa.Array) -> Path:
    table = pa.table({"v": column, "n": list(range(len(column)))})
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return folder / "a.arrow"


@pytest.mark.parametrize("name", ARRAYS)
def test_a_column_has_the_values_of_to_pylist(name: str, tmp_path: Path) -> None:
    column = ARRAYS[name]
    expected = [as_json(value, column.type) for value in column.to_pylist()]
    assert read(written(tmp_path, column)) == expected
    try:
        pq.write_table(pa.table({"v": column, "n": list(range(len(column)))}), tmp_path / "a.parquet")
    except (pa.ArrowException, OSError):
        return  # Parquet has no such type
    assert read(tmp_path / "a.parquet") == expected


NANOSECONDS = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))


def test_nanoseconds_keep_all_digits(tmp_path: Path) -> None:
    assert read(written(tmp_path, NANOSECONDS)) == ["2023-11-14T22:13:20.123456789"]
    times = pa.array([3_723_000_000_001, 3_723_000_000_000, 3_723_500_000_000, None], pa.time64("ns"))
    assert read(written(tmp_path, times)) == ["01:02:03.000000001", "01:02:03", "01:02:03.500000", None]


REFUSED: dict[str, tuple[pa.Array, str]] = {
    "duration": (pa.array([datetime.timedelta(seconds=1)], pa.duration("us")), r"duration\[us\]"),
    "interval": (pa.array([pa.MonthDayNano([1, 2, 3])]), "month_day_nano_interval"),
    "binary": (pa.array([b"\xff"]), "binary"),
    "large_binary in a struct": (pa.array([{"b": b"x"}], pa.struct([("b", pa.large_binary())])), r"column v\.b .*large_binary"),
    "fixed_size_binary in a list": (pa.array([[b"abc"]], pa.list_(pa.binary(3))), r"column v\[\] .*fixed_size_binary"),
    "union": (pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1]), pa.array(["x"])]), "sparse_union"),
    "nanoseconds of a day in a list": (pa.array([[1]], pa.list_(pa.time64("ns"))), r"column v\[\] .*time64\[ns\]"),
    "map with a key twice": (pa.MapArray.from_arrays([0, 2], ["a", "a"], [1, 2]), "one key twice"),
    "map of dates": (pa.array([[(datetime.date(2024, 1, 1), 1)]], pa.map_(pa.date32(), pa.int8())), "map<date32"),
    "a year beyond 9999": (pa.array([10**12], pa.timestamp("s")), "cannot be read"),
    "fields of one name": (pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"]), "cannot be read"),
    "infinity in a list": (pa.array([[1.0, float("inf")]]), r"column v\[\] has the number inf"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_json_cannot_hold_is_refused_with_its_column_and_type(name: str, tmp_path: Path) -> None:
    column, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as refusal:
        read(written(tmp_path, column))
    assert "column v" in str(refusal.value)
