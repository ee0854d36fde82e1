from pathlib import Path

from emsfl.results.reference import result_reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "result.md"


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == result_reference(), "write result_reference() to it"


def test_every_field_has_a_meaning():
    rows = [line for line in result_reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert all(len(row.split(" | ")[2].strip(" |")) > 5 for row in rows)
