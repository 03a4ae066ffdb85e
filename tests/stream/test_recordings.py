"""Recordings: what goes in comes out bit for bit, and whatever is wrong with a folder is said by name."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array
from tta_agent.stream.recordings import writer
from tta_agent.stream.recordings.reader import Preprocessing, Recording, RecordingWriter, Row, import_npz

FULL = ("fog", 3, 7)
BARE = (None, None, None)


def rows_of(count: int, dtype: str = "float32", shape: tuple[int, ...] = (3, 4, 5)) -> list[Row]:
    rng = np.random.default_rng(7)
    rows = []
    for i in range(count):
        x = (rng.normal(size=shape) * 50 + 100).astype(dtype)
        domain, label, version = FULL if i % 2 else BARE
        served = rng.normal(size=10).astype(np.float32) if i % 2 else None
        rows.append(Row(f"id-{i}", 1e9 + i / 3, f"key-{i % 4}", x, domain, label, served, version))
    return rows


def write(
    folder: Path,
    rows: Iterable[Row],
    rows_per_part: int = 4096,
    preprocessing: Preprocessing | None = None,
) -> Recording:
    with RecordingWriter(
        folder, model="net", classes=10, rows_per_part=rows_per_part, preprocessing=preprocessing
    ) as writer:
        for row in rows:
            writer.add(row)
    return Recording.open(folder)


def same(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same_rows(got: list[Row], expected: list[Row]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert (a.id, a.time_s, a.key, a.domain, a.label, a.version) == (
            b.id,
            b.time_s,
            b.key,
            b.domain,
            b.label,
            b.version,
        )
        assert same(a.x, b.x) and same(a.served, b.served)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "float64", "int64", "bool"])
def test_round_trip_is_bit_equal(tmp_path: Path, dtype: str) -> None:
    rows = rows_of(9, dtype)
    recording = write(tmp_path / "r", rows)
    assert_same_rows(list(recording), rows)
    assert (recording.index.dtype, recording.index.shape, len(recording)) == (dtype, (3, 4, 5), 9)


def test_special_values_and_strided_arrays_survive(tmp_path: Path) -> None:
    x = np.array([[np.nan, np.inf], [-0.0, 1e-45]], dtype=np.float32).T
    big_endian = np.arange(4, dtype=">f4").reshape(2, 2)
    got = list(write(tmp_path / "r", [Row("a", 0.0, "a", x), Row("b", 1.0, "b", big_endian)]))
    assert same(got[0].x, np.ascontiguousarray(x))
    assert np.array_equal(got[1].x, big_endian)


def test_parts_are_closed_by_rows_and_read_in_order(tmp_path: Path) -> None:
    rows = rows_of(10)
    recording = write(tmp_path / "r", rows, rows_per_part=4)
    assert recording.index.parts == (
        ("part-00000.parquet", 4),
        ("part-00001.parquet", 4),
        ("part-00002.parquet", 2),
    )
    assert_same_rows(list(recording), rows)
    assert_same_rows(list(recording), rows)  # a recording can be read again


def test_parts_are_closed_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_PART_BYTES", 3 * 240)
    recording = write(tmp_path / "r", rows_of(7))
    assert [rows for _, rows in recording.index.parts] == [3, 3, 1]


def test_index_says_what_is_inside(tmp_path: Path) -> None:
    write(tmp_path / "r", reversed(rows_of(4)))
    index = json.loads((tmp_path / "r" / "recording.json").read_text())
    assert index["schema_version"] == 1
    assert index["model"] == "net"
    assert index["classes"] == [str(i) for i in range(10)]
    assert index["time_range_s"] == [1e9, 1e9 + 1.0]
    assert index["sample"] == {"dtype": "float32", "shape": [3, 4, 5]}
    assert index["count"] == 4


def test_an_empty_recording_is_a_recording(tmp_path: Path) -> None:
    recording = write(tmp_path / "r", [])
    assert len(recording) == 0 and list(recording) == []
    assert recording.index.time_range_s is None


def test_preprocessing_is_scale_then_mean_then_std_per_channel(tmp_path: Path) -> None:
    pre = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    rows = rows_of(3, "uint8")
    with RecordingWriter(tmp_path / "r", model="net", classes=["cat", "dog"], preprocessing=pre) as writer:
        for row in rows:
            writer.add(row)
    recording = Recording.open(tmp_path / "r")
    assert recording.index.preprocessing == pre and recording.index.classes == ("cat", "dog")
    batch = recording.model_input(list(recording))
    x = np.stack([row.x for row in rows]).astype(np.float64)
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (pre.mean, pre.std))
    assert batch.dtype == np.float32 and batch.shape == (3, 3, 4, 5)
    np.testing.assert_allclose(batch, (x / 255 - mean) / std, atol=1e-6)
    np.testing.assert_array_equal(recording.model_input(rows[1]), batch[1])
    np.testing.assert_array_equal(recording.model_input(np.stack([row.x for row in rows])), batch)


def test_without_preprocessing_the_input_is_the_sample(tmp_path: Path) -> None:
    rows = rows_of(2)
    recording = write(tmp_path / "r", rows)
    first = next(iter(recording))
    model_input = recording.model_input(first)
    np.testing.assert_array_equal(model_input, rows[0].x)
    model_input[:] = 0  # a copy: the row is frozen
    assert same(first.x, rows[0].x)


@pytest.mark.parametrize(
    ("pre", "message"),
    [
        (Preprocessing(mean=(0.5, 0.5)), "mean has 2 values.*3 channels"),
        (Preprocessing(std=(1.0, 0.0, 1.0)), "holds a zero"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(tmp_path: Path, pre: Preprocessing, message: str) -> None:
    with pytest.raises(ConfigError, match=message):  # noqa: SIM117
        with RecordingWriter(tmp_path / "r", model="net", classes=None, preprocessing=pre) as writer:
            writer.add(rows_of(1)[0])


def test_a_folder_is_never_written_twice(tmp_path: Path) -> None:
    write(tmp_path / "r", rows_of(2))
    with pytest.raises(ConfigError, match="already holds a recording"):
        RecordingWriter(tmp_path / "r", model="net", classes=10)


def test_an_interrupted_recording_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with RecordingWriter(tmp_path / "r", model="net", classes=10, rows_per_part=2) as writer:
            for row in rows_of(5):
                writer.add(row)
            raise KeyboardInterrupt
    with pytest.raises(ConfigError, match="incomplete recording"):
        Recording.open(tmp_path / "r")
    with pytest.raises(ConfigError, match="incomplete recording"):
        RecordingWriter(tmp_path / "r", model="net", classes=10)


def test_a_sample_of_another_form_is_refused_and_the_rest_stays(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", model="net", classes=10) as writer:
        writer.add(rows_of(1)[0])
        with pytest.raises(
            ConfigError, match=r"'odd' is uint8 \[2, 2\]; this recording holds float32 \[3, 4, 5\]"
        ):
            writer.add(Row("odd", 0.0, "odd", np.zeros((2, 2), np.uint8)))
    assert len(Recording.open(tmp_path / "r")) == 1


def test_text_is_no_sample(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "r", model="net", classes=10)
    with pytest.raises(ConfigError, match="cannot record a sample"):
        writer.add(Row("a", 0.0, "a", np.array(["text"])))


def test_missing_recording(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a recording"):
        Recording.open(tmp_path / "nowhere")


def test_wrong_schema_version(tmp_path: Path) -> None:
    write(tmp_path / "r", rows_of(1))
    path = tmp_path / "r" / "recording.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(ConfigError, match="schema version 9; this release reads 1"):
        Recording.open(tmp_path / "r")


HOSTILE: list[Any] = [
    None, True, -1, 10**400, 1e999, math.nan, "x", "\ud800", "../../part-00000.parquet", "O", [], [1], {}, {"a": 1},
]  # fmt: skip


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys that lead to each value of a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield from ([before] if before else [])
    for key, one in inner:
        yield from places(one, (*before, key))


def test_whatever_stands_in_the_index_ends_in_one_error_with_its_name(tmp_path: Path) -> None:
    write(tmp_path / "r", rows_of(3), preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5)))
    path = tmp_path / "r" / "recording.json"
    good = path.read_text()
    refused = 0
    for place, value in itertools.product(places(json.loads(good)), HOSTILE):
        content = at = json.loads(good)
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = value
        path.write_text(json.dumps(content))
        try:
            list(Recording.open(tmp_path / "r"))
        except ConfigError as error:
            assert str(tmp_path / "r") in str(error) and len(str(error)) < 500
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a": ' * 100_000, '{"schema_version": ' + "9" * 6000 + "}"]
)
def test_an_index_that_is_nested_too_deep_or_holds_a_huge_number(tmp_path: Path, content: str) -> None:
    write(tmp_path / "r", rows_of(1))
    (tmp_path / "r" / "recording.json").write_text(content)
    with pytest.raises(ConfigError, match=r"recording\.json: damaged: .{0,150}$"):
        Recording.open(tmp_path / "r")


def test_an_index_that_counts_other_rows_than_its_parts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "r", rows_of(2))
    path = tmp_path / "r" / "recording.json"
    path.write_text(path.read_text().replace('"count": 2', '"count": 3'))
    with pytest.raises(ConfigError, match="count is 3, its parts hold another number"):
        Recording.open(tmp_path / "r")


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "other", rows_of(2))
    write(tmp_path / "r", rows_of(2))
    path = tmp_path / "r" / "recording.json"
    path.write_text(path.read_text().replace("part-00000.parquet", "../other/part-00000.parquet"))
    with pytest.raises(ConfigError, match=r"expected the name of a file beside it, found '\.\./other/part"):
        Recording.open(tmp_path / "r")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 1}'])
def test_damaged_index(tmp_path: Path, content: str) -> None:
    write(tmp_path / "r", rows_of(1))
    (tmp_path / "r" / "recording.json").write_text(content)
    with pytest.raises(ConfigError, match=r"recording\.json: damaged"):
        Recording.open(tmp_path / "r")


def test_a_part_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    write(folder, rows_of(3))
    part = folder / "part-00000.parquet"
    inside, outside = folder / "other.parquet", tmp_path / "other.parquet"
    part.rename(inside)
    part.symlink_to(inside)
    assert len(list(Recording.open(folder))) == 3
    inside.rename(outside)
    part.unlink()
    part.symlink_to(outside)
    with pytest.raises(ConfigError, match=r"part-00000\.parquet: damaged part: a link that leads out"):
        list(Recording.open(folder))
    moved = tmp_path / "linked"
    part.unlink()
    outside.rename(part)
    moved.symlink_to(folder)
    assert len(list(Recording.open(moved))) == 3, "the folder itself may be a link"


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "replace"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: str) -> None:
    recording = write(tmp_path / "r", rows_of(60, shape=(3, 16, 16)), rows_per_part=50)
    part = tmp_path / "r" / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    if damage == "truncate":
        part.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        part.write_bytes(content)
    elif damage == "remove":
        part.unlink()
    else:
        part.write_bytes((tmp_path / "r" / "part-00000.parquet").read_bytes())
    got = []
    with pytest.raises(ConfigError, match=r"part-00001\.parquet: damaged part"):
        for row in recording:
            got.append(row.id)
    assert got[:50] == [f"id-{i}" for i in range(50)]


def save(path: Path, **arrays: Array) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type,unused-ignore]
    return path


def test_import_npz(tmp_path: Path) -> None:
    inputs = np.arange(12 * 3 * 2 * 2, dtype=np.uint8).reshape(12, 3, 2, 2)
    labels = np.arange(12) % 5
    source = save(tmp_path / "a.npz", inputs=inputs, labels=labels, domain=np.array(["fog", "snow"] * 6))
    seen: list[tuple[int, int]] = []
    count = import_npz(
        source, tmp_path / "r", model="net", rate_per_s=4.0, progress=lambda *done: seen.append(done)
    )
    recording = Recording.open(tmp_path / "r")
    rows = list(recording)
    assert count == len(recording) == 12 and seen == [(12, 12)]
    assert recording.index.classes == ("0", "1", "2", "3", "4")
    assert [row.id for row in rows] == [f"{i:02d}" for i in range(12)]
    assert [row.time_s for row in rows] == [i / 4 for i in range(12)]
    assert [row.label for row in rows] == labels.tolist()
    assert [row.domain for row in rows[:2]] == ["fog", "snow"]
    assert all(same(row.x, x) for row, x in zip(rows, inputs, strict=True))


def test_import_npz_of_inputs_alone(tmp_path: Path) -> None:
    source = save(tmp_path / "a.npz", inputs=np.ones((2, 1, 2, 2), np.float32))
    assert import_npz(source, tmp_path / "r", model="net") == 2
    recording = Recording.open(tmp_path / "r")
    assert [(row.label, row.domain, row.key) for row in recording] == [(None, None, "0"), (None, None, "1")]
    assert recording.index.classes == ()


def test_import_npz_with_numbered_domains(tmp_path: Path) -> None:
    source = save(tmp_path / "a.npz", inputs=np.ones((2, 4), np.float32), domain=np.array([3, 5]))
    import_npz(source, tmp_path / "r", model="net", classes=["a", "b"])
    assert [row.domain for row in Recording.open(tmp_path / "r")] == ["3", "5"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input": np.ones((2, 4))}, r"no array 'inputs' .*did you mean input\?"),
        ({"inputs": np.ones((2, 4)), "labels": np.zeros(3, int)}, "'inputs' has 2 rows, 'labels' has 3"),
        ({"inputs": np.ones((2, 4)), "domain": np.array("fog")}, "'inputs' has 2 rows, 'domain' has no"),
        (
            {"inputs": np.ones((2, 4)), "labels": np.array([0.5, 1.0])},
            "'labels' is float64; expected integers",
        ),
    ],
)
def test_import_npz_refuses(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    source = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        import_npz(source, tmp_path / "r", model="net")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken", None])
def test_import_npz_of_something_else(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.npz"):
        import_npz(path, tmp_path / "r", model="net")
