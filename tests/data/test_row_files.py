"""Tables from local files and saved data sets; all of it works offline."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from emsfl.data.files import ALL, Columns, Table, read_table
from emsfl.errors import DataError

ROWS = [
    {"text": 'ünï, "quoted"\nline', "label": "1", "domain": "north"},
    {"text": "second", "label": "0", "domain": "south"},
    {"text": "third", "label": "1", "domain": "north"},
]


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"data.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_every_format_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    table = read_table(write(tmp_path, suffix, ROWS), Columns())
    assert table.inputs == tuple(row["text"] for row in ROWS)
    assert table.labels == ("1", "0", "1") and table.domains == ("north", "south", "north")
    plain = [{**row, "text": row["text"].replace("\n", " ")} for row in ROWS]
    from_csv = read_table(write(tmp_path, "csv", plain), Columns())
    assert from_csv.labels == table.labels and from_csv.domains == table.domains
    assert from_csv.inputs[0] == plain[0]["text"]


def test_columns_by_name_and_without_domains(tmp_path: Path) -> None:
    source = write(
        tmp_path, "jsonl", [{"review": "good", "stars": 5}, {"review": "bad", "stars": 1}]
    )
    table = read_table(source, Columns(input="review", label="stars"))
    assert table == Table(inputs=("good", "bad"), labels=("5", "1"), domains=(ALL, ALL))
    assert read_table(source, Columns(input="review")).labels is None


def test_saved_data_sets_name_their_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {"text": ["a", "b"], "label": [1, 0]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features)}).save_to_disk(
        tmp_path / "saved"
    )
    table = read_table(str(tmp_path / "saved"), Columns(), split="test")
    assert table.labels == ("good", "bad")
    with pytest.raises(DataError, match="no split 'train'; it has: test"):
        read_table(str(tmp_path / "saved"), Columns())


def test_image_folders(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    for index, label in enumerate(("cat", "dog", "cat")):
        (tmp_path / label).mkdir(exist_ok=True)
        image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / label / f"{index}.png")
    table = read_table(str(tmp_path), Columns())
    assert sorted(
        zip(table.labels or (), (x.getpixel((0, 0))[0] for x in table.inputs), strict=True)
    ) == [
        ("cat", 0),
        ("cat", 2),
        ("dog", 1),
    ]


def test_parts_of_a_table() -> None:
    table = Table(inputs=tuple(range(10)), labels=None, domains=("a", "b") * 5)
    assert table.spread(3).inputs == (0, 3, 6)
    assert table.spread(0) is table and table.spread(99) is table
    assert table.only(["b"]).inputs == (1, 3, 5, 7, 9)
    assert {name: len(part) for name, part in table.by_domain().items()} == {"a": 5, "b": 5}
    with pytest.raises(DataError, match="no sample is of domain 'c'; the domains are: a, b"):
        table.only(["c"])


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        ("csv", "", "cannot be read as csv"),
        ("csv", "text,label\n", "holds no sample"),
        ("csv", "words,label\na,1\n", "none of the columns text, sentence, image; it has: words"),
        ("jsonl", '{"text": "a"}\n{"text": null}\n', "row 1 has an empty field"),
        ("jsonl", "{", "cannot be read as jsonl"),
        ("parquet", "PAR1", "cannot be read as parquet"),
        ("xlsx", "", r"the suffix must be one of \.csv, \.jsonl, \.parquet"),
    ],
)
def test_bad_files(tmp_path: Path, suffix: str, content: str, words: str) -> None:
    path = tmp_path / f"data.{suffix}"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        read_table(str(path), Columns())


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    source = write(tmp_path, "jsonl", ROWS)
    with pytest.raises(DataError, match="no column 'site'; it has: text, label, domain"):
        read_table(source, Columns(domain="site"))


def test_a_name_that_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.load_dataset", lambda *_a, **_k: _raise())
    with pytest.raises(DataError, match="'nobody/nothing' is no file, and no data set: offline"):
        read_table("nobody/nothing", Columns())


def _raise() -> None:
    raise ConnectionError("offline\nand more")
