"""The sentences: a small copy in their format is read; what pip gets must have the right hash."""

import io
import tarfile

import pytest

from emsfl.data import SentimentConfig, load_data, sentiment
from emsfl.errors import DataError

LINES = {
    "tweets": ['1\t2.73\tlucky, "so" lucky', "2\t-0.5\tmeh", "3\t-0.51\tugh"],
    "films": ["1_1\t0.5\ta film", "1_2\t0.500001\ta good\ttab"],
    "products": ["9\t0\tit works"],
    "editorials": ["1\t-3.1\tcrisis — again"],
}


@pytest.fixture
def folder(tmp_path):
    for domain, name in sentiment.FILES.items():
        text = "".join(line + "\r\n" for line in LINES[domain])
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def test_files_are_read_and_rated(folder):
    pool = sentiment.read_sentences(folder)
    assert pool.domains == ("tweets", "films", "products", "editorials")
    assert pool.domain.tolist() == [0, 0, 0, 1, 1, 2, 3]
    names = [pool.classes[label] for label in pool.labels]
    assert names == [
        "positive",
        "neutral",
        "negative",
        "neutral",
        "positive",
        "neutral",
        "negative",
    ]
    assert pool.inputs[0] == 'lucky, "so" lucky'
    assert pool.inputs[4] == "a good\ttab"
    assert pool.inputs[-1] == "crisis — again"


@pytest.mark.parametrize("line", ["no tabs", "1\tmuch\ttext"])
def test_a_line_that_reads_otherwise_is_named(folder, line):
    path = folder / sentiment.FILES["films"]
    path.write_bytes(path.read_bytes() + line.encode())
    with pytest.raises(DataError, match=r"movieReviewSnippets_GroundTruth.txt, line 3"):
        sentiment.read_sentences(folder)


def test_a_missing_file_is_an_error(folder):
    (folder / sentiment.FILES["products"]).unlink()
    with pytest.raises(DataError, match="amazon"):
        sentiment.read_sentences(folder)


def test_a_package_with_another_hash_is_refused(tmp_path, monkeypatch):
    """pip is offered a package of the right name and version, and nothing else."""
    with tarfile.open(tmp_path / "vaderSentiment-3.3.2.tar.gz", "w:gz") as archive:
        content = b"raise SystemExit('this must never run')"
        member = tarfile.TarInfo("vaderSentiment-3.3.2/setup.py")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("EMSFL_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"(?i)hash"):
        sentiment.fetch()
    assert not sentiment.is_fetched()


def test_offline_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("EMSFL_CACHE_DIR", str(tmp_path / "cache"))
    config = SentimentConfig(dataset="sentiment")
    with pytest.raises(DataError, match="Offline, copy sentiment-"):
        load_data(config, ("a",), 0, lambda _: lambda texts, labels: (labels, labels))


def test_what_is_in_the_cache_is_not_fetched_again(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("EMSFL_CACHE_DIR", str(tmp_path / "cache"))
    sentiment.folder().parent.mkdir(parents=True)
    folder_copy = sentiment.folder()
    folder_copy.mkdir()
    for name in sentiment.FILES.values():
        (folder_copy / name).write_bytes((folder / name).read_bytes())
    assert sentiment.fetch() == folder_copy
