"""Tables of texts and of images become federated data; nothing is downloaded."""

import csv

import numpy as np
import pytest

from emsfl.data import TableConfig, load_data
from emsfl.errors import ConfigError


def config(source, **fields):
    return TableConfig(
        dataset="table",
        source=str(source),
        **{"num_public": 4, "num_validation": 4, "num_test": 8, **fields},
    )


@pytest.fixture
def texts(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "stars", "shop"])
        for number in range(40):
            writer.writerow([f"text {number}", ["low", "high"][number % 3 == 0], "ab"[number % 2]])
    return path


def lengths(public):
    """Encode a text by its length; a stand-in for a tokenizer that is trained on public texts."""
    assert len(public) == 4

    def encode(chosen, labels):
        return np.array([[len(text), 0] for text in chosen], dtype=np.int64), labels

    return encode


def test_a_table_of_texts(texts):
    columns = {"label_column": "stars", "domain_column": "shop"}
    data = load_data(config(texts, **columns), ("x", "y"), 0, lengths)
    assert data.num_classes == 2
    assert data.holdings.classes == ("high", "low")
    assert data.domain_of == {"x": "a", "y": "b"}
    assert set(data.test) == {"a", "b"}
    assert {shard.inputs[0, 0] for shards in data.shards.values() for shard in shards} <= {6, 7}
    with pytest.raises(ConfigError, match="num_test"):
        load_data(config(texts, num_test=100, **columns), ("x", "y"), 0, lengths)


def test_a_folder_of_images(tmp_path):
    pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    rows = ["file_name,label,domain"]
    for number in range(24):
        name = f"{number}.png"
        image.new("RGB", (10, 6), (number * 10,) * 3).save(tmp_path / name)
        rows.append(f"{name},{'dark' if number < 12 else 'light'},{'ab'[number % 2]}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    data = load_data(config(tmp_path, image_px=8), ("x", "y"), 0)
    shard = data.shards["x"][0]
    assert shard.inputs.shape[1:] == (8, 8)
    assert shard.inputs.dtype == np.float32
    assert (np.isclose(shard.inputs.max((1, 2)), shard.inputs.min((1, 2)))).all()
    dark = shard.inputs[:, 0, 0] < 0.46
    assert np.array_equal(dark, shard.labels == 0)
