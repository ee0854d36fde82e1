"""Loading, overriding and explaining configs, on sections shaped like the real ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, Field, model_validator

from emsfl.config import ConfigModel, load_config, to_yaml, value_range
from emsfl.errors import ConfigError


class Site(ConfigModel):
    name: str
    latitude_deg: float = Field(ge=-90.0, le=90.0)
    altitude_m: float = 0.0


class Rates(ConfigModel):
    uplink_bps: float = Field(gt=0)
    downlink_bps: float = Field(gt=0)


class Preset(ConfigModel):
    preset: Literal["iridium", "starlink"]


class Vector(ConfigModel):
    kind: Literal["vector"] = "vector"
    num_experts: int = Field(16, ge=2, lt=1000)


class Tokens(ConfigModel):
    kind: Literal["tokens"] = "tokens"
    patch_size: int = Field(7, gt=0)


class Tuned(ConfigModel):
    learning_rate: float = Field(gt=0)


class Policy(Enum):
    WAITING = "longest-waiting"
    HIGHEST = "highest"


class Experiment(ConfigModel):
    name: str
    start: AwareDatetime = datetime(2026, 6, 21, tzinfo=UTC)
    hours: float = Field(72, gt=0)
    seeds: tuple[int, ...] = (0,)
    quick: bool = False
    limit: int | None = 10
    cap: Annotated[int, Field(ge=1, le=9)] | None = None
    speed: Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] = 1.0
    policy: Policy = Policy.WAITING
    elements: Path | None = None
    sites: tuple[Site, ...] = ()
    link: Rates | Preset = Preset(preset="iridium")
    model: Annotated[Vector | Tokens, Field(discriminator="kind")] = Vector()
    tuned: dict[str, Tuned] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_names(self) -> Experiment:
        if len({site.name for site in self.sites}) < len(self.sites):
            raise ValueError("two sites share a name; rename one")
        return self


Load = Callable[..., Experiment]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a config from text, through a file."""

    def read(text: str, *overrides: str) -> Experiment:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(Experiment, path, overrides)

    return read


def refused(load: Load, text: str, *overrides: str) -> str:
    """Return the message with which a config is refused; it must be one line."""
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_fill_what_the_file_leaves_out(load: Load) -> None:
    config = load("name: a\nhours: 3")
    assert (config.hours, config.seeds, config.model) == (3.0, (0,), Vector())


def test_override_beats_file_beats_default(load: Load) -> None:
    assert load("name: a").hours == 72
    assert load("name: a\nhours: 3").hours == 3
    assert load("name: a\nhours: 3", "hours=5").hours == 5
    assert load("name: a\nhours: 3", "hours=5", "hours=6").hours == 6


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("limit=0", "limit", 0),
        ("limit=null", "limit", None),
        ("quick=true", "quick", True),
        ("seeds=[3, 4]", "seeds", (3, 4)),
        ("seeds=[]", "seeds", ()),
        ("hours=1e-3", "hours", 1e-3),
        ("name=a=b", "name", "a=b"),
        ("name='12'", "name", "12"),
        ("policy=highest", "policy", Policy.HIGHEST),
        ("elements=a b.tle", "elements", Path("a b.tle")),
        ("link={uplink_bps: 1, downlink_bps: 2}", "link", Rates(uplink_bps=1, downlink_bps=2)),
        ("model.kind=tokens", "model", Tokens()),
        ("tuned.fedavg.learning_rate=0.5", "tuned", {"fedavg": Tuned(learning_rate=0.5)}),
        (" hours = 4", "hours", 4.0),
    ],
)
def test_overrides_take_any_yaml_value(
    load: Load, override: str, field: str, value: object
) -> None:
    assert getattr(load("name: a", override), field) == value


def test_override_reaches_into_lists(load: Load) -> None:
    text = "name: a\nsites:\n- {name: S, latitude_deg: 78}\n- {name: T, latitude_deg: 1}\n"
    sites = load(text, "sites.1.latitude_deg=-33.5").sites
    assert [site.latitude_deg for site in sites] == [78, -33.5]


def test_override_leaves_the_mapping_it_was_given_alone() -> None:
    source = {"name": "a", "model": {"kind": "vector"}}
    assert load_config(Experiment, source, ["model.num_experts=4"]).model == Vector(num_experts=4)
    assert source == {"name": "a", "model": {"kind": "vector"}}


def test_mapping_may_hold_python_values() -> None:
    source: dict[str, object] = {
        "name": "a",
        "elements": Path("x.tle"),
        "seeds": (1, 2),
        "policy": Policy.HIGHEST,
    }
    config = load_config(Experiment, {**source, "start": datetime(2027, 1, 1, tzinfo=UTC)})
    assert (config.elements, config.seeds, config.policy) == (Path("x.tle"), (1, 2), Policy.HIGHEST)
    assert config.start == datetime(2027, 1, 1, tzinfo=UTC)


def test_dates_keep_their_zone(load: Load) -> None:
    assert load("name: a\nstart: 2026-06-21T00:00:00Z").start == datetime(2026, 6, 21, tzinfo=UTC)
    east = load("name: a", "start=2026-06-21T12:00:00+02:00").start
    assert east == datetime(2026, 6, 21, 12, tzinfo=timezone(timedelta(hours=2)))
    assert "start = '2026-06-21T00:00:00'" in refused(load, "name: a\nstart: 2026-06-21T00:00:00")


def test_yaml_1_2_scalars(load: Load) -> None:
    assert load("name: NO").name == "NO"
    assert load("name: 12:30").name == "12:30"
    assert load("name: a\nhours: 5e1").hours == 50
    assert "limit = '010'" in refused(load, "name: a\nlimit: 010")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.yaml is empty; start from configs/demo.yaml"),
        ("# only a comment", "is empty"),
        ("{}", "is empty"),
        ("[1, 2]", "must hold keys and values, not [1, 2]"),
        ("name: [", "is not valid YAML"),
        ("name: a\nname: b", "key 'name' is given twice, again in line 2"),
        ("name: a\nmodel: {kind: vector, kind: tokens}", "key 'kind' is given twice"),
        ("name: !!python/object:os.system {}", "is not valid YAML"),
        ("a: &a [*a]\nname: a", "is not plain YAML"),
        ("hours: 3", "name is missing; add it"),
        ("name: a\nhour: 3", "unknown key 'hour'; did you mean 'hours'?"),
        ("nam: a", "unknown key 'nam'; did you mean 'name'? (and 1 more problem)"),
        (
            "name: a\nsites: [{name: S, latitude_deg: 1, altitude_km: 3}]",
            "unknown key 'sites.0.altitude_km'; did you mean 'sites.0.altitude_m'?",
        ),
        (
            "name: a\ntuned: {fedavg: {learning_rat: 1}}",
            "unknown key 'tuned.fedavg.learning_rat'; did you mean 'tuned.fedavg.learning_rate'?",
        ),
        ("name: a\nmodel: {zzz: 1, kind: tokens}", "Valid here: kind, patch_size"),
        ("name: a\nhours: -1", "hours = -1: must be greater than 0"),
        ("name: a\nhours: .inf", "hours = inf: must be a finite number"),
        ("name: a\nhours: .nan", "hours = nan: must be a finite number"),
        ("name: a\nhours: fast", "hours = 'fast': must be a valid number"),
        ("name: a\nhours: '3'", "hours = '3': must be a valid number"),
        ("name: a\nhours: true", "hours = True: must be a valid number"),
        ("name: a\nhours:", "hours = None: must be a valid number"),
        ("name: a\nseeds: [0, 1.5]", "seeds.1 = 1.5: must be a valid integer"),
        ("name: a\nquick: 1", "quick = 1: must be a valid boolean"),
        ("name: 5", "name = 5: must be a valid string"),
        ("name: a\npolicy: lowest", "policy = 'lowest': must be 'longest-waiting' or 'highest'"),
        (
            "name: a\nsites: [{name: S, latitude_deg: 95}]",
            "sites.0.latitude_deg = 95: must be from -90 to 90",
        ),
        (
            "name: a\nmodel: {num_experts: 1, kind: vector}",
            "model.num_experts = 1: must be at least 2 and less than 1000",
        ),
        (
            "name: a\nmodel: {kind: dense}",
            "model.kind = 'dense': must be one of 'vector', 'tokens'",
        ),
        ("name: a\nmodel: {num_experts: 3}", "model.kind is missing; add it"),
        ("name: a\nmodel: 3", "model = 3: must be"),
        ("name: a\ncap: 10", "cap = 10: must be from 1 to 9"),
        ("name: a\nspeed: -1", "speed = -1: must be greater than 0"),
        ("name: a\nspeed: {S: 1, T: -1}", "speed.T = -1: must be greater than 0"),
        (
            "name: a\nlink: {uplink_bps: -5, downlink_bps: 7}",
            "link.uplink_bps = -5: must be greater than 0",
        ),
        (
            "name: a\nlink: {preset: oneweb}",
            "link.preset = 'oneweb': must be 'iridium' or 'starlink'",
        ),
        (
            "name: a\nlink: {uplink_bps: 5, downlnk_bps: 7}",
            "unknown key 'link.downlnk_bps'; did you mean 'link.downlink_bps'?",
        ),
        (
            "name: a\nsites: [{name: S, latitude_deg: 1}, {name: S, latitude_deg: 2}]",
            "config: two sites share a name; rename one",
        ),
    ],
)
def test_refusals_say_what_which_value_and_what_to_do(load: Load, text: str, message: str) -> None:
    assert message in refused(load, text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hours", "must read key=value, such as orbit.hours=24"),
        ("=3", "must read key=value"),
        ("model..kind=3", "must read key=value"),
        ("seeds=[", "the value is not valid YAML"),
        ("hours.minutes=3", "'minutes' lies below a plain value"),
        ("sites.0.name=S", "'0' lies in an empty list"),
        ("seeds.5=3", "'5' must be an index from 0 to 1"),
        ("seeds.-1=3", "'-1' must be an index from 0 to 1"),
        ("seeds.²=3", "must be an index"),
        ("hours=-3", "hours = -3: must be greater than 0"),
        ("our=3", "unknown key 'our'; did you mean 'hours'?"),
    ],
)
def test_bad_overrides(load: Load, override: str, message: str) -> None:
    assert message in refused(load, "name: a\nhours: 2\nsites: []\nseeds: [1, 2]", override)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "missing.yaml", "missing.yaml does not exist; check the path"),
        (tmp_path, "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(Experiment, path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Experiment, tmp_path / "latin.yaml")


def test_a_mapping_that_is_no_config() -> None:
    with pytest.raises(ConfigError, match="a value that is not plain YAML"):
        load_config(Experiment, {"name": object()})
    with pytest.raises(ConfigError, match="config is empty"):
        load_config(Experiment, {})


def test_value_range_reads_the_bounds() -> None:
    ranges = {name: value_range(field) for name, field in Site.model_fields.items()}
    assert ranges == {"name": "", "latitude_deg": "from -90 to 90", "altitude_m": ""}
    assert value_range(Experiment.model_fields["cap"]) == "from 1 to 9"


finite = st.floats(allow_nan=False, allow_infinity=False)
experiments = st.builds(
    Experiment,
    name=st.text(),
    start=st.datetimes(timezones=st.just(UTC)),
    hours=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    seeds=st.lists(st.integers()).map(tuple),
    quick=st.booleans(),
    limit=st.none() | st.integers(),
    policy=st.sampled_from(Policy),
    elements=st.none() | st.sampled_from([Path("a.tle"), Path("b/c d.tle")]),
    sites=st.lists(
        st.builds(Site, name=st.text(), latitude_deg=st.floats(-90, 90), altitude_m=finite),
        unique_by=lambda site: site.name,
        max_size=3,
    ),
    link=st.builds(Preset, preset=st.sampled_from(["iridium", "starlink"]))
    | st.builds(Rates, uplink_bps=st.floats(1e-300, 1e300), downlink_bps=st.floats(1e-300, 1e300)),
    model=st.builds(Vector, num_experts=st.integers(2, 999))
    | st.builds(Tokens, patch_size=st.integers(min_value=1)),
    tuned=st.dictionaries(
        st.text(), st.builds(Tuned, learning_rate=st.floats(1e-300, 1e300)), max_size=3
    ),
)


@given(config=experiments)
def test_what_is_written_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, config: Experiment
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(Experiment, path) == config
    assert load_config(Experiment, config.model_dump()) == config


@given(name=st.from_regex(r"[A-Za-z0-9.:_+-]+", fullmatch=True))
def test_text_that_looks_like_something_else_survives(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(to_yaml(Experiment(name=name)), encoding="utf-8")
    assert load_config(Experiment, path).name == name


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*Experiment.model_fields, "kind", "preset", "latitude_deg"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(tree=st.dictionaries(st.sampled_from(list(Experiment.model_fields)), trees, max_size=5))
def test_nothing_but_a_one_line_config_error_comes_of_nonsense(tree: dict[str, Any]) -> None:
    try:
        load_config(Experiment, tree)
    except ConfigError as error:
        assert str(error).isprintable()


@given(
    override=st.text(max_size=20)
    | st.tuples(
        st.lists(st.sampled_from([*Experiment.model_fields, "0", "kind"]), max_size=3),
        st.text(max_size=8),
    ).map(lambda pair: ".".join(pair[0]) + "=" + pair[1])
)
def test_nothing_but_a_one_line_config_error_comes_of_an_override(override: str) -> None:
    source = {"name": "a", "sites": [{"name": "S", "latitude_deg": 1}], "seeds": [1]}
    try:
        load_config(Experiment, source, [override])
    except ConfigError as error:
        assert "\n" not in str(error)
