"""CSV files are read and erased from as `source.csv` says that they are written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params
from lethe.config.tables import Erase
from lethe.core.errors import ParamsInvalid
from lethe.data.generalize import generalize
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.library import NOW, build, declare, rows

# what source.csv says → how the loans are written in it
FORMS: list[tuple[dict[str, str], str]] = [
    ({"separator": ";", "decimal": ",", "encoding": "cp1252"}, '{0};{1};"a;ü";{2};true\r\n'),
    ({"separator": "\t", "quote": "'", "encoding": "utf-16"}, "{0}\t{1}\t'a\n\tü'\t{2}\ttrue\n"),
    ({"separator": "|", "quote": "none", "decimal": ","}, '{0}|{1}|a"ü|{2}|true\n'),
    ({"separator": ";", "escape": "\\", "decimal": ","}, '{0};{1};"a\\"ü";{2};true\n'),
]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def library(folder: Path, form: dict[str, str], line: str, numbers: list[str]) -> Params:
    """Every file in one form; the loans have a remark that the form is needed to read."""
    data = rows() | {"loans": [], "branches": []}
    url = build("csv", folder, data, None)
    (folder / "csv" / "loans.csv.gz").unlink()
    separator, encoding = form.get("separator", ","), form.get("encoding", "utf-8")
    for path in (folder / "csv").glob("*.csv"):
        path.write_text(path.read_text().replace(",", separator), encoding=encoding, newline="")
    lines = [line.format(n, 7 + n % 2, number) for n, number in enumerate(numbers)]
    names = separator.join(["loan_id", "reader_id", "remark", "days", "returned"])
    made = (names + "\n" + "".join(lines)).encode(encoding)
    (folder / "csv" / "loans.csv").write_bytes(made)
    days = {"role": "feature", "type": "real", "bounds": [0, 60], "missing": ["-9,9"], "why": "w"}
    loans: dict[str, Any] = {
        "links": {"reader_id": "readers.reader_id"},
        "erase": {"action": "delete"},
        "columns": {"loan_id": {"role": "link"}, "reader_id": {"role": "link"}, "days": days}
        | {
            "remark": {"role": "feature", "type": "category", "domain": ["a"], "why": "w"},
            "returned": {"role": "label", "type": "boolean", "why": "w"},
        },
    }
    born = {"role": "identifier", "type": "date", "why": "w"}
    return declare(
        url,
        source__csv=form,
        tables__loans=loans,
        tables__readers__columns__born=born,
        tables__branches__columns__kind={"role": "link"},
        records={"table": "loans"},
    )


@pytest.mark.parametrize(("form", "line"), FORMS, ids=["semicolon", "tab", "bar", "escape"])
def test_values_are_read_as_they_are_written(
    tmp_path: Path, form: dict[str, str], line: str
) -> None:
    comma = form.get("decimal") == ","
    numbers = ["3,5" if comma else "3.5", "4", "-9,9", "1.234" if comma else "1,234", ""]
    params = library(tmp_path, form, line, numbers)
    with Source.open(params) as source:
        source.check(params)
        (*chunks,) = source.records(params, NOW)
    remarks = {value for chunk in chunks for value in chunk.values["remark"]}
    assert remarks == {"a\n\tü" if "\t" in line else 'a"ü' if '"ü' in line else "a;ü"}
    days = [value for chunk in chunks for value in chunk.values["days"]]
    column = params.tables["loans"].columns["days"]
    made = [
        generalize(chunk.values[["days"]], {"days": column}, count_only=True) for chunk in chunks
    ]
    assert [v for each in made for v in each.frame["days"].fillna(-1)] == [3.5, 4, -1, -1, -1], days
    assert sum(each.missing["days"] for each in made) == 2
    assert sum(each.rejected.get("days", 0) for each in made) == 1, "a thousand, or a fraction?"


@pytest.mark.parametrize(("form", "line"), FORMS, ids=["semicolon", "tab", "bar", "escape"])
def test_an_erasure_leaves_the_files_in_their_form(
    tmp_path: Path, form: dict[str, str], line: str
) -> None:
    params = library(tmp_path, form, line, ["3", "4", "5"])
    ada = traces(params, "7")
    assert erase_from_source(params, ada, now=NOW).result == "erased"
    after = (tmp_path / "csv" / "loans.csv").read_bytes().decode(params.source.csv.encoding)
    assert after.partition("\n")[2] == line.format(1, 8, "4")
    assert verify_source(params, ada).result == "absent"


def test_a_value_that_is_blanked_is_written_in_the_form(tmp_path: Path) -> None:
    form, line = FORMS[0]
    params = library(tmp_path, form, line, ["3", "4"])
    law = {"action": "retain", "columns": ["days"], "basis": "Art. 17(3)(b): tax", "days": 9}
    loans = replace(params.tables["loans"], erase=Erase(**law))
    kept = replace(params, tables=params.tables | {"loans": loans})
    erase_from_source(kept, traces(kept, "7"), now=NOW)
    text = (tmp_path / "csv" / "loans.csv").read_bytes().decode("cp1252")
    assert text.splitlines()[1:] == ['0;;"a;ü";;true', '1;8;"a;ü";4;true']


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"separator": ";;"}, "separator"),
        ({"separator": "\n"}, "line's end"),
        ({"separator": '"'}, "must differ"),
        ({"quote": "''"}, "one character or none"),
        ({"encoding": "latin-99"}, "no encoding"),
        ({"encoding": "base64"}, "no encoding of text"),
        ({"decimal": ";"}, "decimal"),
        ({"seperator": ";"}, "did you mean 'separator'"),
    ],
)
def test_a_form_that_cannot_be_is_refused(form: dict[str, str], said: str) -> None:
    with pytest.raises(ParamsInvalid, match=said):
        declare("csv:x", source__csv=form)


def test_a_form_of_files_belongs_to_csv() -> None:
    with pytest.raises(ParamsInvalid, match="no csv:FOLDER"):
        declare("parquet:x", source__csv={"separator": ";"})
    declare("env:SOMEWHERE", source__csv={"separator": ";"})
