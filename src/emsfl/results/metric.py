"""The quantity that models are judged by: how it is named, shown and compared.

A run has one metric for all its methods. Every field of `result.json` whose name says `accuracy`
holds values of this metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emsfl.results.paired import Difference, paired_difference
from emsfl.results.schema import RunResult, Spread

_MINUS = "−"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How one quantity is read."""

    title: str
    unit: str
    """Follows a value; empty where the title says it."""
    difference_unit: str
    """Follows a difference of two values."""
    scale: float
    """Shown value over stored value."""
    num_digits: int
    """Digits after the point of a shown value."""
    higher_is_better: bool

    @property
    def axis_title(self) -> str:
        """Return the title with its unit: 'accuracy, %'."""
        return ", ".join(filter(None, [self.title, self.unit]))

    def value(self, value: float) -> str:
        """Return 0.8124 as '81.2'."""
        return f"{self.scale * value:.{self.num_digits}f}"

    def with_unit(self, text: str) -> str:
        """Return '81.2' as '81.2 %'."""
        return " ".join(filter(None, [text, self.unit]))

    def spread(self, values: Spread) -> str:
        """Return '81.2 ± 0.9', or '81.2' for one seed."""
        mean = self.value(values.mean)
        return mean if len(values.per_seed) == 1 else f"{mean} ± {self.value(values.std)}"

    def gain(self, difference: float) -> str:
        """Return a difference as '+3.4' or '−3.4'; zero without a sign."""
        text = self.value(abs(difference))
        if float(text) == 0:
            return text
        return f"+{text}" if difference > 0 else f"{_MINUS}{text}"

    def lead(self, first: Spread, second: Spread) -> Difference:
        """Return by how much `first` is better than `second`, paired by seed; positive: better."""
        pair = (first, second) if self.higher_is_better else (second, first)
        return paired_difference(pair[0].per_seed, pair[1].per_seed)

    def is_better(self, value: float, than: float) -> bool:
        """Tell whether `value` is strictly better."""
        return value > than if self.higher_is_better else value < than

    def best(self, values: Sequence[float]) -> int:
        """Return the position of the best value, the first at a tie."""
        pick = max if self.higher_is_better else min
        return list(values).index(pick(values))

    def standing(self, lead: float, rival: str) -> str:
        """Return '3.4 points above FedAvg', or for bits per byte '0.050 ... better than FedAvg'."""
        shown = self.value(abs(lead))
        if float(shown) == 0:
            return f"level with {rival}"
        words = ("above", "below") if self.higher_is_better else ("better than", "worse than")
        return f"{shown} {self.difference_unit} {words[lead < 0]} {rival}"

    def evidence(self, lead: Difference) -> str:
        """Return what the seeds say about a lead, in words."""
        num_seeds = len(lead.per_seed)
        if num_seeds == 1:
            return "one seed"
        if lead.interval is None:
            shown = " and ".join(self.gain(value) for value in lead.per_seed)
            return f"{num_seeds} seeds: {shown}"
        low, high = (self.gain(bound) for bound in lead.interval)
        text = f"95 % interval {low} to {high} over {num_seeds} seeds"
        return text if lead.settled else f"{text}, so the sign is not settled"


METRICS = {
    "accuracy": Metric(
        title="accuracy",
        unit="%",
        difference_unit="points",
        scale=100.0,
        num_digits=1,
        higher_is_better=True,
    ),
    "bits_per_byte": Metric(
        title="bits per byte",
        unit="",
        difference_unit="bits per byte",
        scale=1.0,
        num_digits=3,
        higher_is_better=False,
    ),
}


def metric_of(result: RunResult) -> Metric:
    """Return the metric of a run."""
    return METRICS[result.metric]
