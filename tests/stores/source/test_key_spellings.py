"""A part of a key is found however its value is spelled, where its type has one value for both."""

from pathlib import Path
from typing import Any

import pytest

from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.find_people import key_meant, keys_spelled
from lethe.stores.source.identifiers import traces
from tests.library import NOW
from tests.postgres import postgres_server, postgres_urls
from tests.stores.source.test_person_keys import people_in
from tests.studio import TABLES, build, declare

__all__ = ["postgres_server", "postgres_urls"]

UUID = "5f3a0f44-6f2e-4a57-9f2c-1f1f7f0c0a01"
SAID = [
    (
        "timestamp",
        "2026-01-01 10:00:00",
        ["2026-01-01 10:00:00", "2026-01-01T10:00", "20260101T10"],
    ),
    ("timestamp(3)", "2026-01-01 10:00:00.5", ["2026-01-01 10:00:00.500", "2026-01-01t10:00:00.5"]),
    ("date", "2026-01-01", ["2026-01-01", "20260101", "\uff12026-01-01"]),
    ("numeric(9,2)", "7.00", [7, "7", "7.00", "07.0", 7.00]),
    ("numeric(9,2)", "7.50", [7.5, "7.5", "7.50", "+7.500"]),
    ("integer", "7", [7, "007", "7.0"]),
    ("boolean", "true", [True, "true"]),
    ("uuid", UUID, [UUID, UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}"]),
    ("char(6)", "Ab", ["ab", "AB    ", "Ab"]),
    ("mood", "sad", ["sad", "SAD"]),
]


@pytest.mark.parametrize(("kind", "value", "words"), SAID, ids=[each[0] for each in SAID])
def test_a_value_is_one_however_it_is_written(
    kind: str, value: str, words: list[Any], postgres_urls: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    url = postgres_urls()
    others = {"boolean": "false", "uuid": UUID[:-1] + "2", "mood": "glad", "date": "2026-01-02"}
    other = others.get(kind.partition("(")[0], "2026-01-02" if "time" in kind else "8")
    before = "CREATE TYPE mood AS ENUM ('sad', 'glad')"
    people = [("Aby", value), ("Aby", other), ("Ceby", value)]
    build(url, people, studio="text", number=kind, before=before, linked=False)
    params = declare(url, members=TABLES["members"] | {"links": {}})
    everybody = people_in(params)
    whose = key_meant(params, json.dumps(["Aby", words[0]]))
    assert whose in everybody
    for word in words:
        for first in ("Aby", "aby", "ABY"):
            assert key_meant(params, json.dumps([first, word])) == whose
    assert key_meant(params, json.dumps(["Ceby", words[-1]])) != whose
    for nobody in ('("Aby","none")', '("x","7")', f'("Aby","{"9" * 400}")'):
        assert keys_spelled(params, [nobody, whose])[whose] == [whose]
        assert keys_spelled(params, [nobody])[nobody] != [whose]
    assert erase_from_source(params, traces(params, whose), now=NOW).result == "erased"
    assert set(everybody) - set(people_in(params)) == {whose}


@pytest.mark.parametrize("kind", ["real", "numeric", "text", "", "integer"])
def test_in_sqlite_whatever_its_column_is_declared_as(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column of REAL has 7.0 for 7."""
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path / 'studio.db'}"
    build(url, [("Aby", "7"), ("Ceby", "7"), ("Aby", "70")], studio="text", number=kind)
    params = declare(url)
    assert key_meant(params, '["aby", 7]') == '("Aby","7")'
    assert key_meant(params, '["ABY", "7"]') == '("Aby","7")'
