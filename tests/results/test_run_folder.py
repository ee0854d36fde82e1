import json

import pytest
from tests.results.example_run import example_result

from emsfl.errors import RunFolderError
from emsfl.results import SCHEMA_VERSION, RunFolder


def test_a_run_is_created_at_once_and_opened_again(tmp_path):
    folder = RunFolder.create(tmp_path / "deep" / "run", "name: demo\n")
    assert folder.config_path.read_text() == "name: demo\n"
    assert RunFolder.open(folder.path).config_text() == "name: demo\n"


def test_an_empty_folder_may_become_a_run(tmp_path):
    assert RunFolder.create(tmp_path, "a: 1\n").config_path.exists()


def test_a_run_killed_before_its_first_file_was_whole_can_be_started_again(tmp_path):
    (tmp_path / ".config.yaml.x1y2.part").write_text("name: de")
    assert RunFolder.create(tmp_path, "name: demo\n").config_text() == "name: demo\n"


def test_an_existing_run_is_not_overwritten(tmp_path):
    RunFolder.create(tmp_path / "run", "a: 1\n")
    with pytest.raises(RunFolderError, match="already holds a run; continue it with 'emsfl resume"):
        RunFolder.create(tmp_path / "run", "a: 2\n")
    assert RunFolder.open(tmp_path / "run").config_text() == "a: 1\n"


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="is not empty and holds no run"):
        RunFolder.create(tmp_path, "a: 1\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunFolderError, match="cannot be made"):
        RunFolder.create(tmp_path / "run", "a: 1\n")


def test_opening_what_is_no_run_says_so(tmp_path):
    with pytest.raises(RunFolderError, match="does not exist"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"is not a run folder \(it has no config.yaml\)"):
        RunFolder.open(tmp_path)


def test_a_result_comes_back_as_it_was_written(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "a: 1\n")
    result = example_result()
    folder.write_result(result)
    assert folder.read_result() == result
    first = folder.result_path.read_bytes()
    folder.write_result(folder.read_result())
    assert folder.result_path.read_bytes() == first


def test_an_unfinished_run_has_no_result(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "a: 1\n")
    with pytest.raises(RunFolderError, match=r"no result\.json yet; finish it with 'emsfl resume"):
        folder.read_result()


def test_a_newer_schema_is_refused_and_the_known_one_named(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "a: 1\n")
    tree = example_result().model_dump(mode="json")
    newer = SCHEMA_VERSION + 1
    folder.result_path.write_text(json.dumps({**tree, "schema_version": newer, "novelty": 1}))
    with pytest.raises(
        RunFolderError, match=f"schema_version {newer}, newer than the {SCHEMA_VERSION} that"
    ):
        folder.read_result()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "has no schema_version"),
        ("{}", "has no schema_version"),
        ('{"schema_version": true}', "has no schema_version"),
        ('{"schema_version": 1}', "does not follow schema_version 1: name: Field required"),
    ],
)
def test_a_damaged_result_is_refused_in_one_line(tmp_path, text, message):
    folder = RunFolder.create(tmp_path / "run", "a: 1\n")
    folder.result_path.write_text(text)
    with pytest.raises(RunFolderError, match=message) as caught:
        folder.read_result()
    assert "\n" not in str(caught.value)


def test_events_are_on_disk_line_by_line(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "a: 1\n")
    with folder.open_events() as log:
        log.append({"method": "ems_fl", "time_s": 0.1})
        assert folder.events_path.read_text() == '{"method":"ems_fl","time_s":0.1}\n'
        log.append({"cluster": "Tromsø"})
    assert [json.loads(line) for line in folder.events_path.read_text().splitlines()] == [
        {"method": "ems_fl", "time_s": 0.1},
        {"cluster": "Tromsø"},
    ]


def test_a_resumed_log_ends_as_an_uninterrupted_one(tmp_path):
    events = [{"seed": 0, "time_s": i / 3} for i in range(10)]
    whole = RunFolder.create(tmp_path / "whole", "a: 1\n")
    with whole.open_events() as log:
        for event in events:
            log.append(event)

    torn = RunFolder.create(tmp_path / "torn", "a: 1\n")
    with torn.open_events() as log:
        for event in events[:4]:
            log.append(event)
        checkpoint = log.offset()
        for event in events[4:7]:
            log.append(event)
    with torn.events_path.open("ab") as file:
        file.write(b'{"seed":0,"ti')  # the process was killed here
    with torn.open_events() as log:
        log.truncate(checkpoint)
        for event in events[4:]:
            log.append(event)
    assert torn.events_path.read_bytes() == whole.events_path.read_bytes()


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "a: 1\n")
    with folder.open_events() as log:
        log.append({"a": 1})
        with pytest.raises(RunFolderError, match="has 8 bytes, but its checkpoint counts on 9"):
            log.truncate(9)


def test_an_event_with_nan_is_refused_before_anything_is_written(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "a: 1\n")
    with folder.open_events() as log, pytest.raises(ValueError, match="JSON compliant"):
        log.append({"loss": float("nan")})
    assert folder.events_path.read_bytes() == b""
