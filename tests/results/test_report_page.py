import base64
import gzip
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import plotly.offline
import pytest
from tests.results.example_run import SITES, example_result

from emsfl.errors import RunFolderError
from emsfl.results import RunFolder, render_report, write_report
from emsfl.results.labels import is_ablation, method_styles
from emsfl.results.split import Split

ALL = tuple(example_result().methods)
VOID = {"meta", "input", "line", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Collects elements and the text below each id, and checks that tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.text_by_id = {}
        self.words = []
        self._open = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag, f"</{tag}> at {self.getpos()}"

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self._open and self._open[-1][1]:
            identity = self._open[-1][1]
            self.text_by_id[identity] = self.text_by_id.get(identity, "") + data
        if not self._open or self._open[-1][0] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def html():
    return render_report(example_result())


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def charts(page):
    return json.loads(page.text_by_id["charts"])


def test_the_page_needs_no_network(html, page):
    assert not page.all("link")
    assert not [attrs for _, attrs in page.elements if "src" in attrs or "href" in attrs]
    packed = page.text_by_id["plotly"]
    own_text = html.replace(packed, "")
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", own_text)


def test_plotly_is_inlined_once_and_whole(page):
    source = gzip.decompress(base64.b64decode(page.text_by_id["plotly"])).decode()
    assert source == plotly.offline.get_plotlyjs()


def test_the_page_weighs_little_more_than_half_of_plain_plotly(html):
    assert len(html.encode()) < 0.55 * len(plotly.offline.get_plotlyjs().encode())


@pytest.mark.parametrize("name", ["time", "bytes", "domains", "contacts"])
def test_plotly_accepts_every_chart(charts, page, name):
    colours = re.sub(r'"\$[\w-]+"', '"#123456"', json.dumps(charts[name]))
    figure = go.Figure(json.loads(colours))  # raises on a property or value that plotly lacks
    assert figure.data
    assert {"class": "chart", "id": f"chart-{name}", "role": "img"}.items() <= next(
        attrs for attrs in page.all("div") if attrs.get("id") == f"chart-{name}"
    ).items()


def test_every_colour_of_the_charts_is_defined_for_light_and_dark(html, charts):
    tokens = set(re.findall(r'"\$([\w-]+)"', json.dumps(charts)))
    dark = "\n".join(re.findall(r"prefers-color-scheme: dark\) \{(.*?\})", html, re.DOTALL))
    light = html.replace(dark, "")
    for token in tokens:
        assert f"--{token}:" in light
        assert f"--{token}:" in dark


def test_each_method_has_one_look_and_ablations_are_thinner_and_broken(charts):
    styles = method_styles(ALL)
    assert len({style.light for style in styles.values()}) == len(ALL)
    assert len({style.dark for style in styles.values()}) == len(ALL)
    assert len({style.symbol for style in styles.values()}) == len(ALL)
    lines = {t["meta"]: t for t in charts["time"]["data"] if "line" in t}
    for method, trace in lines.items():
        assert trace["line"]["color"] == f"${method}"
        assert (trace["line"]["dash"] != "solid") == is_ablation(method)
    thickest_ablation = max(t["line"]["width"] for m, t in lines.items() if is_ablation(m))
    assert thickest_ablation < min(
        t["line"]["width"] for m, t in lines.items() if not is_ablation(m)
    )


def test_the_curve_and_its_band_hold_the_seeds_numbers(charts):
    result = example_result()
    band, line = (
        next(t for t in charts["time"]["data"] if t["meta"] == "fedasync" and t["mode"] == mode)
        for mode in ("none", "lines+markers")
    )
    finals = [100 * curve[-1].accuracy for curve in result.methods["fedasync"].curve]
    assert line["x"][-1] == 72
    assert line["y"][-1] == pytest.approx(sum(finals) / 3)
    num_points = len(line["x"])
    assert band["y"][num_points - 1] == pytest.approx(max(finals))
    assert band["y"][num_points] == pytest.approx(min(finals))
    assert band["x"] == line["x"] + line["x"][::-1]


def test_one_seed_has_no_band_and_no_whiskers():
    charts = json.loads(Page(render_report(example_result(seeds=(4,)))).text_by_id["charts"])
    assert all("fill" not in trace for trace in charts["time"]["data"])
    assert all("error_y" not in trace for trace in charts["domains"]["data"])


def test_every_contact_and_upload_is_drawn(charts):
    result = example_result()
    contacts, *uploads = charts["contacts"]["data"]
    assert len(contacts["x"]) == sum(len(t.contacts) for t in result.timeline.values())
    drawn = {trace["meta"]: len(trace["x"]) // 3 for trace in uploads}
    assert drawn == {
        method: sum(len(t.uploads[method]) for t in result.timeline.values()) for method in ALL
    }


def test_findings_config_provenance_and_owners_are_on_the_page(page):
    text = " ".join("".join(page.words).split())
    assert "points above FedAvg (fill)" in text
    assert "min_elevation_deg: 10" in text
    assert "0123456789abcdef" in text
    cells = [attrs["title"] for attrs in page.all("td") if "title" in attrs]
    assert len(cells) == 2 * 2 * 16  # two distinct assignments of two layers with 16 experts
    assert any(title.endswith(SITES[2]) for title in cells)
    assert any(title.endswith("nobody") for title in cells)


def test_the_split_is_drawn_device_by_device(tmp_path):
    devices = ("Svalbard 1", "Svalbard 2", "Pilbara 1")
    split = Split(
        devices=devices,
        domains=("rotated_0", "rotated_90"),
        classes=tuple("0123456789"),
        counts=np.arange(60).reshape(3, 2, 10),
    )
    np.savez(tmp_path / "split.npz", rows=np.arange(3), **vars(split))
    split = Split.load(tmp_path / "split.npz")
    page = Page(render_report(example_result(), split))
    charts = json.loads(page.text_by_id["charts"])
    for kind, axis, names in (
        ("domain", 2, ["rotated 0", "rotated 90"]),
        ("label", 1, list("0123456789")),
    ):
        chart = charts[f"split-{kind}"]
        go.Figure(json.loads(re.sub(r'"\$[\w-]+"', '"#123456"', json.dumps(chart))))
        assert [trace["name"] for trace in chart["data"]] == names
        drawn = np.array([trace["x"] for trace in chart["data"]]).T
        assert np.array_equal(drawn, split.counts.sum(axis))
        assert all(tuple(trace["y"]) == devices for trace in chart["data"])
        assert any(attrs.get("id") == f"chart-split-{kind}" for attrs in page.all("div"))
    alike = replace(split, domains=("all",), counts=split.counts.sum(1, keepdims=True))
    charts = json.loads(Page(render_report(example_result(), alike)).text_by_id["charts"])
    assert "split-domain" not in charts, "one domain is nothing to compare"


def test_a_name_cannot_break_out_of_the_page():
    nasty = "</script><script>alert(1)</script><b>&\"'"
    result = example_result(methods=("ems_fl", "fedavg"))
    timeline = {nasty: result.timeline[SITES[0]]}
    html = render_report(result.model_copy(update={"name": nasty, "timeline": timeline}))
    assert "<script>alert" not in html
    assert json.loads(Page(html).text_by_id["charts"])["contacts"]["layout"]["yaxis"][
        "ticktext"
    ] == [nasty]


@pytest.mark.parametrize(
    "methods", [("ems_fl",), ("fedavg",), ("fedasync", "some_new_method"), ("ems_fl_gate_only",)]
)
def test_any_choice_of_methods_makes_a_page(methods):
    result = example_result(methods=[m for m in methods if m in ALL])
    extra = {m: result.methods[methods[0]] for m in methods if m not in ALL}
    Page(render_report(result.model_copy(update={"methods": {**result.methods, **extra}})))


def test_a_run_with_nothing_but_methods_makes_a_page():
    empty = {"assignment": {}, "timeline": {}, "contact_statistics": []}
    Page(render_report(example_result().model_copy(update=empty)))


def test_equal_results_make_equal_pages(html):
    assert render_report(example_result()) == html


def test_the_page_lands_in_the_run(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "a: 1\n")
    with pytest.raises(RunFolderError, match=r"no result\.json yet"):
        write_report(folder)
    folder.write_result(example_result(seeds=(0,)))
    assert write_report(folder) == folder.report_path
    assert folder.report_path.read_text().startswith("<!doctype html>")
