"""What a run found, in words: every sentence is computed from the numbers, good or bad."""

from __future__ import annotations

from dataclasses import dataclass

from emsfl.results.labels import EMS_FL, FEDAVG_FORMS, is_ablation
from emsfl.results.metric import Metric, metric_of
from emsfl.results.paired import MIN_SEEDS_FOR_INTERVAL, Difference
from emsfl.results.schema import Assignment, MethodResult, RunResult
from emsfl.results.tables import best_fedavg_of, time_ratio
from emsfl.results.wording import (
    BYTES_PER_MB,
    SECONDS_PER_HOUR,
    amount,
    count,
    hours,
    listing,
    percent,
)

_EXTREME = {True: "highest", False: "lowest"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence or two under a catchword."""

    topic: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number to see at a glance."""

    value: str
    unit: str
    caption: str


def key_findings(result: RunResult) -> list[Finding]:
    """Return the findings in the order of their weight."""
    if EMS_FL not in result.methods:
        return [*_ranking(result), *_refused(result)]
    return [
        *_quality(result),
        *_speed(result),
        *_traffic(result),
        *_work(result),
        *_submodels(result),
        *_parts(result),
        *_specialisation(result),
        *_refused(result),
    ]


def headline_figures(result: RunResult) -> list[Figure]:
    """Return up to four numbers that sum the run up; EMS-FL's where it ran."""
    name = EMS_FL if EMS_FL in result.methods else _best(result)
    method = result.methods[name]
    metric = metric_of(result)
    figures = [
        Figure(
            value=metric.value(method.final_accuracy.mean),
            unit=metric.unit or metric.title,
            caption=f"{method.label}, merged model at the end",
        )
    ]
    form = best_fedavg_of(result)
    if form is None or name in FEDAVG_FORMS:
        return figures
    fedavg = result.methods[form]
    figures.append(
        Figure(
            value=metric.gain(metric.lead(method.final_accuracy, fedavg.final_accuracy).mean),
            unit=metric.difference_unit,
            caption=f"against {_named(result, form)}"
            + ("" if metric.higher_is_better else " (+: better)"),
        )
    )
    ratio = time_ratio(result, name)
    if ratio is not None:
        figures.append(
            Figure(
                value=f"{ratio:.2f}",
                unit="×",
                caption=f"the time of {fedavg.label} to its own final {metric.title}",
            )
        )
    else:
        times = method.time_to_target_s.per_seed
        reached = f"{sum(time is not None for time in times)} of {len(times)}"
        caption = f"seeds reached the final {metric.title} of {fedavg.label}"
        figures.append(Figure(value=reached, unit="", caption=caption))
    own, theirs = method.upload_bytes_per_contact.mean, fedavg.upload_bytes_per_contact.mean
    if own and theirs:
        figures.append(
            Figure(
                value=f"{own / theirs:.2f}",
                unit="×",
                caption=f"the bytes of {fedavg.label} per upload: "
                f"{amount(own / BYTES_PER_MB)} against {amount(theirs / BYTES_PER_MB)} MB",
            )
        )
    return figures


def _best(result: RunResult) -> str:
    """Return the method that ends best, ablations aside unless there is nothing else."""
    whole = [name for name in result.methods if not is_ablation(name)]
    names = whole or list(result.methods)
    finals = [result.methods[name].final_accuracy.mean for name in names]
    return names[metric_of(result).best(finals)]


def _against(metric: Metric, lead: Difference, rival: str) -> str:
    return f"{metric.standing(lead.mean, rival)} ({metric.evidence(lead)})"


def _quality(result: RunResult) -> list[Finding]:
    metric = metric_of(result)
    ems = result.methods[EMS_FL]
    pretrained = sum(result.initial_accuracy) / len(result.seeds)
    text = (
        f"The pre-trained model has {metric.with_unit(metric.value(pretrained))}; EMS-FL's merged "
        f"model starts at {metric.with_unit(metric.value(_mean_curve(ems)[0]))} and ends at "
        f"{metric.with_unit(metric.spread(ems.final_accuracy))}"
    )
    form = best_fedavg_of(result)
    rivals = [
        name
        for name in result.methods
        if name == form
        or not (name == EMS_FL or is_ablation(name) or (form and name in FEDAVG_FORMS))
    ]
    rivals.sort(key=lambda name: name != form)
    compared = [
        _against(
            metric,
            metric.lead(ems.final_accuracy, result.methods[name].final_accuracy),
            _named(result, name),
        )
        for name in rivals
    ]
    text += f": {'; '.join(compared)}." if compared else "."
    findings = [Finding(topic=metric.title.capitalize(), text=text + _caution(result))]
    best = _best(result)
    if best != EMS_FL:
        others = result.methods[best]
        findings.append(
            Finding(
                topic="Best method",
                text=f"{others.label} ends {_EXTREME[metric.higher_is_better]} here, at "
                f"{metric.with_unit(metric.spread(others.final_accuracy))}, not EMS-FL.",
            )
        )
    return findings


def _named(result: RunResult, name: str) -> str:
    """Return the label, and for the best of several forms of FedAvg that it is the best."""
    label = result.methods[name].label
    several = sum(form in result.methods for form in FEDAVG_FORMS) > 1
    chosen = several and name == best_fedavg_of(result)
    return f"{label}, the best form of FedAvg" if chosen else label


def _speed(result: RunResult) -> list[Finding]:
    form = best_fedavg_of(result)
    if form is None:
        return []
    ems, fedavg = result.methods[EMS_FL], result.methods[form]
    metric = metric_of(result)
    goal = f"the final {metric.title} of {fedavg.label}"
    ratio = time_ratio(result, EMS_FL)
    own, theirs = ems.time_to_target_s, fedavg.time_to_target_s
    if own.mean is not None and theirs.mean is not None and ratio is not None:
        end_s = ems.curve[0][-1].time_s
        text = (
            f"EMS-FL reaches {goal} after {hours(own.mean)} h; {fedavg.label} itself first "
            f"touches it after {hours(theirs.mean)} h of {hours(end_s)} h, so EMS-FL takes "
            f"{ratio:.2f} of its time."
        )
    elif own.mean is not None:
        text = f"EMS-FL reaches {goal} after {hours(own.mean)} h."
    else:
        num_reached = sum(time is not None for time in own.per_seed)
        text = f"EMS-FL never reaches {goal}."
        if num_reached:
            text = (
                f"EMS-FL reaches {goal} with {num_reached} of {len(own.per_seed)} seeds, "
                "so no mean time is given."
            )
    behind_h = _behind_until_h(ems, fedavg, metric)
    if behind_h is not None:
        text += f" On the mean curve it last lies behind {fedavg.label} at {behind_h:.1f} h."
    return [Finding(topic="Time", text=text)]


def _traffic(result: RunResult) -> list[Finding]:
    form = best_fedavg_of(result)
    ems = result.methods[EMS_FL]
    own = ems.upload_bytes_per_contact.mean
    text = f"One upload of EMS-FL is {amount(own / BYTES_PER_MB)} MB"
    theirs = result.methods[form].upload_bytes_per_contact.mean if form else 0.0
    if form is None or not theirs:
        return [Finding(topic="Traffic", text=f"{text}.")]
    fedavg = result.methods[form]
    text += f", {own / theirs:.2f} times the {amount(theirs / BYTES_PER_MB)} MB of {fedavg.label}"
    whole = ems.uploaded_bytes.mean / fedavg.uploaded_bytes.mean
    text += f"; over the whole run EMS-FL uploads {whole:.2f} times as much"
    num_own, num_theirs = ems.num_updates.mean, fedavg.num_updates.mean
    text += f", in {count(num_own)} updates against {count(num_theirs)}"
    return [Finding(topic="Traffic", text=f"{text}.")]


def _work(result: RunResult) -> list[Finding]:
    form = best_fedavg_of(result)
    if form is None:
        return []
    ems, fedavg = result.methods[EMS_FL], result.methods[form]
    parts = [
        f"{ours / theirs:.2f} times the {what}"
        for what, ours, theirs in (
            ("device compute", ems.device_flops.mean, fedavg.device_flops.mean),
            ("energy", ems.energy_J.mean, fedavg.energy_J.mean),
            (
                "parameters trained at once on a device",
                float(ems.peak_trainable_parameters),
                float(fedavg.peak_trainable_parameters),
            ),
        )
        if theirs
    ]
    if not parts:
        return []
    return [Finding(topic="Work", text=f"Against {fedavg.label}, EMS-FL takes {listing(parts)}.")]


def _submodels(result: RunResult) -> list[Finding]:
    own = result.methods[EMS_FL].submodel_accuracy
    if not own:
        return []
    metric = metric_of(result)
    mean = sum(values.mean for values in own.values()) / len(own)
    pick = min if metric.higher_is_better else max
    worst = pick(own, key=lambda cluster: own[cluster].mean)
    return [
        Finding(
            topic="Sub-models",
            text="On its own domain a cluster's sub-model reaches "
            f"{metric.with_unit(metric.value(mean))} on average; "
            f"the weakest is {worst} with {metric.with_unit(metric.value(own[worst].mean))}.",
        )
    ]


def _parts(result: RunResult) -> list[Finding]:
    """Say what each ablation costs: what EMS-FL's parts are worth."""
    metric = metric_of(result)
    ems = result.methods[EMS_FL]
    ablations = {
        method.label: metric.lead(method.final_accuracy, ems.final_accuracy)
        for name, method in result.methods.items()
        if is_ablation(name)
    }
    if not ablations:
        return []
    ends = [f"{label} {_offset(metric, lead)}" for label, lead in ablations.items()]
    text = f"Against the whole method, {listing(ends)}."
    unsettled = [label for label, lead in ablations.items() if not lead.settled]
    if unsettled and len(result.seeds) >= MIN_SEEDS_FOR_INTERVAL:
        text += f" The seeds do not settle the sign for {listing(unsettled)}."
    return [Finding(topic="Ablations", text=text + _caution(result))]


def _offset(metric: Metric, lead: Difference) -> str:
    shown = metric.value(abs(lead.mean))
    if float(shown) == 0:
        return "ends level"
    words = ("higher", "lower") if metric.higher_is_better else ("better", "worse")
    return f"ends {shown} {metric.difference_unit} {words[lead.mean < 0]}"


def _caution(result: RunResult) -> str:
    """Return a sentence to add where there are too few seeds for an interval, else nothing."""
    num_seeds = len(result.seeds)
    if num_seeds >= MIN_SEEDS_FOR_INTERVAL:
        return ""
    return f" {'One seed' if num_seeds == 1 else f'{num_seeds} seeds'} cannot rule out chance."


def _mean_curve(method: MethodResult) -> list[float]:
    """Return the metric at every time of the grid, meant over the seeds."""
    return [
        sum(point.accuracy for point in points) / len(points)
        for points in zip(*method.curve, strict=True)
    ]


def _behind_until_h(first: MethodResult, second: MethodResult, metric: Metric) -> float | None:
    """Return the last hour of the grid at which `first` has the worse mean; None if never.

    None also where it is the worse at the end, which is said elsewhere.
    """
    own, other = _mean_curve(first), _mean_curve(second)
    behind = [at for at in range(len(own)) if metric.is_better(other[at], than=own[at])]
    if not behind or behind[-1] == len(own) - 1:
        return None
    return first.curve[0][behind[-1]].time_s / SECONDS_PER_HOUR


def _specialisation(result: RunResult) -> list[Finding]:
    assignment = result.assignment.get(EMS_FL)
    if assignment is None or not assignment.mass_kept:
        return []
    kept = [value for layers in assignment.mass_kept.values() for value in layers]
    return [
        Finding(
            topic="Specialisation",
            text=f"On average a cluster's own experts had {percent(sum(kept) / len(kept))} % of "
            f"its routing weight before tuning (lowest {percent(min(kept))} %, highest "
            f"{percent(max(kept))} %); experts drawn at random would have "
            f"{percent(chance_mass(assignment))} % on average.",
        )
    ]


def chance_mass(assignment: Assignment) -> float:
    """Return the mass kept to expect of random assignment: an owner's mean share of experts."""
    num_experts = sum(len(layer) for layer in assignment.owner)
    num_owned = sum(owner is not None for layer in assignment.owner for owner in layer)
    return num_owned / (num_experts * len(assignment.mass_kept))


def _refused(result: RunResult) -> list[Finding]:
    refused = [
        f"{method.label} {count(method.num_refused.mean)}"
        for method in result.methods.values()
        if method.num_refused.mean
    ]
    if not refused:
        return []
    text = f"The server refused updates (mean per seed): {listing(refused)}."
    return [Finding(topic="Refused updates", text=text)]


def _ranking(result: RunResult) -> list[Finding]:
    metric = metric_of(result)
    order = sorted(
        result.methods.values(),
        key=lambda method: method.final_accuracy.mean,
        reverse=metric.higher_is_better,
    )
    ranked = [
        f"{method.label} {metric.with_unit(metric.spread(method.final_accuracy))}"
        for method in order
    ]
    text = (
        f"EMS-FL is not part of this run. From the {_EXTREME[metric.higher_is_better]} final "
        f"{metric.title}: {', '.join(ranked)}."
    )
    return [Finding(topic=metric.title.capitalize(), text=text)]
