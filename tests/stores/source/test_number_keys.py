"""A person's number is their key by value where keys are numbers, and as it is written if not."""

import base64
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from lethe.core.errors import ParamsInvalid
from lethe.core.outcomes import Traces
from lethe.people.consents import decisions_now
from lethe.people.references import refer
from lethe.people.suppression import standing
from lethe.rights.intake import read_csv, receive
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.find_people import key_meant, keys_spelled
from lethe.stores.source.verify import verify_source, verify_sources
from tests.library import NOW, build, declare, rows
from tests.postgres import postgres_server, postgres_urls  # noqa: F401
from tests.stores.source.test_odd_files import as_type, edited

Make = Callable[..., str]
SAME = ["7", "007", "7.0", "7.00", "+7", "7.000000"]
OTHERS = [
    "70",
    "0",
    "-7",
    "7.5",
    "7e0",
    "0x7",
    "7_0",
    "7,0",
    "\u0667",
    "VII",
    "nan",
    "7 0",
    "9" * 500,
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def made(kind: str) -> str:
        url = build("postgres", tmp_path, rows(), request.getfixturevalue("postgres_urls"))
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            for table in ("readers", "loans", "answers"):
                connection.execute(f"ALTER TABLE {table} ALTER reader_id TYPE {kind}")
        return url

    return made


def found(url: str, asked: list[str]) -> dict[str, str]:
    made = keys_spelled(declare(url), asked)
    assert all(len(keys) == 1 for keys in made.values())
    return {word: keys[0] for word, keys in made.items()}


def parquet(folder: Path, kind: pa.DataType, change: Callable[..., object] = lambda v: v) -> str:
    url = build("parquet", folder, rows(), None)
    for table in ("readers", "loans", "answers"):
        edited(folder, table, "reader_id", as_type(kind, change))
    return url


def assert_by_value(url: str, key: str) -> None:
    said = found(url, [*SAME, *OTHERS])
    assert {word: said[word] for word in SAME} == dict.fromkeys(SAME, key)
    assert key not in {said[word] for word in OTHERS}


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float64()])
def test_whole_numbers_of_files_are_found_by_value(tmp_path: Path, kind: pa.DataType) -> None:
    assert_by_value(parquet(tmp_path, kind, lambda v: v), "7")


@pytest.mark.parametrize(("places", "key"), [(0, "7"), (2, "7.00"), (5, "7.00000")])
def test_decimals_of_files_are_found_by_value(tmp_path: Path, places: int, key: str) -> None:
    assert_by_value(parquet(tmp_path, pa.decimal128(20, places), Decimal), key)


def test_numbers_of_sqlite_are_found_by_value(tmp_path: Path) -> None:
    assert_by_value(build("sqlite", tmp_path, rows(), None), "7")


@pytest.mark.parametrize(
    "kind", ["bigint", "numeric", "numeric(12,2)", "numeric(12,0)", "double precision", "real"]
)
def test_numbers_of_postgresql_are_found_by_value(postgres: Make, kind: str) -> None:
    assert_by_value(postgres(kind), "7")


@pytest.mark.parametrize(("kind", "key"), [("numeric", "7.50"), ("numeric(9,3)", "7.500")])
def test_a_decimal_of_postgresql_is_found_however_it_is_spelled(
    postgres: Make, kind: str, key: str
) -> None:
    url = postgres(f"{kind} USING reader_id + 0.50")
    asked = ["7.5", "7.50", "07.500", "7.51", "7", "7.5e0"]
    assert list(found(url, asked).values()) == [key, key, key, "7.51" + key[4:], "7", "7.5e0"]


def test_texts_of_a_csv_file_are_found_as_they_are_written(tmp_path: Path) -> None:
    url = build("csv", tmp_path, rows(), None)
    asked = [word for word in (*SAME, *OTHERS) if word != "7"]
    assert found(url, [*asked, "7"]) == {word: word for word in asked} | {"7": "7"}


@pytest.mark.parametrize("kind", ["text", "varchar(20)"])
def test_texts_of_postgresql_are_found_as_they_are_written(postgres: Make, kind: str) -> None:
    url = postgres(f"{kind} USING '00' || reader_id")
    asked = ["007", "7", "7.0", "07"]
    assert found(url, asked) == {word: word for word in asked}


def test_texts_of_parquet_are_found_as_they_are_written(tmp_path: Path) -> None:
    url = parquet(tmp_path, pa.string(), lambda v: f"{v}.00")
    asked = ["7.00", "7", "7.0", "07.00"]
    assert found(url, asked) == {word: word for word in asked}


@pytest.mark.parametrize("word", ["7", "007", "7.0", "7.00"])
def test_who_asks_by_another_spelling_is_out_found_and_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(b"k" * 32).decode())
    params = declare(parquet(tmp_path, pa.decimal128(20, 2), Decimal))
    (tmp_path / "asked.csv").write_text(f"reader_id\n{word}\n")
    assert standing(params, decisions_now(params, NOW)).allowed.tolist() == ["7.00"]
    receive(params, read_csv(params, tmp_path / "asked.csv"), kind="erase", now=NOW)
    assert standing(params, decisions_now(params, NOW)).allowed.tolist() == []
    (key,) = keys_spelled(params, [word])[word]
    assert verify_source(params, Traces(key, None, ())).result == "present"
    assert erase_from_source(params, Traces(key, None, ()), now=NOW).count
    assert verify_source(params, Traces(key, None, ())).result == "absent"
    assert key_meant(params, f" {word} ") == key


def test_without_its_source_a_word_is_taken_as_it_is_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = declare(parquet(tmp_path, pa.int64(), int))
    assert key_meant(params, "007") == "7"
    assert capsys.readouterr().err == ""
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()
    assert key_meant(params, "007") == "007"
    assert "looked for exactly as it was written" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bigint", "numeric(12,2)", "numeric"])
def test_odd_words_keep_nobody_elses_look_up(postgres: Make, kind: str) -> None:
    params = declare(postgres(kind))
    odd = ["1e999999999", "9" * 200_000, "NaN", "-" + "9" * 5000, "1_0", "\u0667", "x" * 10_000]
    asked = keys_spelled(params, [*odd, "07"])
    assert asked["07"] == ["7"]
    people = [Traces(asked[word][0], None, ()) for word in (*odd, "07")]
    assert [each.result for each in verify_sources(params, people)] == [*["absent"] * 7, "present"]
    assert [erase_from_source(params, each, now=NOW).count for each in people[:-1]] == [0] * 7


@pytest.mark.parametrize("word", ["a\x00b", "\udcff", "7\ud800"])
def test_what_is_in_no_text_is_nobodys(word: str) -> None:
    with pytest.raises(ParamsInvalid, match="Nothing was recorded") as raised:
        refer(declare("sqlite:///x.db"), None, word)
    assert word not in str(raised.value)
