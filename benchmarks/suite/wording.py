"""How the page says a lead."""

from emsfl.results.metric import Metric
from emsfl.results.paired import Difference


def brief_lead(metric: Metric, lead: Difference) -> str:
    """Return mean and interval; the mean in brackets where its sign is not settled."""
    if lead.interval is None:
        return metric.gain(lead.mean)
    low, high = (metric.gain(bound) for bound in lead.interval)
    mean = metric.gain(lead.mean) if lead.settled else f"({metric.gain(lead.mean)})"
    return f"{mean}, {low} to {high}"
