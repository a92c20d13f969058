"""The same rows give the same probabilities, however they come, and errors repeat none of them."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.config.tables import Column, Generalization
from lethe.core.errors import SchemaMismatch
from lethe.data.encoding import Encoder
from lethe.data.generalize import generalize_columns
from lethe.registration import rows, serving
from lethe.registration.facts import inputs_of
from lethe.registration.predicting import Predictor
from lethe.registration.serving import LetheModel
from lethe.stores.registry.signature import Input

FEATURES = {
    "code": Column(role="feature", type="category", domain=("01", "1", "None", "NA"), why="x"),
    "group": Column(
        role="feature",
        type="category",
        generalize=Generalization(groups={"a": ("1", "2"), "b": ("3",)}),
        outside="null",
        why="x",
    ),
    "stay": Column(role="feature", type="integer", bounds=(1, 14), why="x"),
    "dose": Column(role="feature", type="real", bounds=(0, 9), missing=("NA", "?"), why="x"),
    "flag": Column(role="feature", type="boolean", why="x"),
    "word": Column(role="feature", type="category", domain=("True", "False"), why="x"),
    "note": Column(role="text", scrub="presidio", buckets=4, why="x"),
}
ENCODER = Encoder(
    features=FEATURES,
    label="back",
    label_column=Column(
        role="label", type="category", domain=("NO", "YES"), positive=("YES",), why="x"
    ),
)
GOOD = {"code": "01", "group": 1, "stay": 3, "dose": 1.5, "flag": True, "word": "True", "note": "a"}


@pytest.fixture(scope="module")
def model() -> LetheModel:
    weights = np.linspace(-1, 1, len(ENCODER.names), dtype=np.float32)[:, None]
    made = LetheModel(model="logistic", hidden=(), sha256={})
    made._predictor = Predictor(ENCODER, lambda encoded: encoded @ weights)
    return made


def _csv(records: Sequence[Mapping[str, Any]]) -> bytes:
    names = list(records[0])
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    for record in records:
        writer.writerow(["" if record[n] is None else record[n] for n in names])
    return out.getvalue().encode()


def _ways(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[bytes, str]]:
    names = list(records[0])
    columns = {name: [record[name] for record in records] for name in names}
    split = {"columns": names, "data": [[r[n] for n in names] for r in records]}
    forms: dict[str, Any] = {
        "dataframe_split": split,
        "dataframe_records": records,
        "instances": records,
        "inputs": columns,
    }
    made = {n: (json.dumps({n: v}).encode(), "application/json") for n, v in forms.items()}
    return {**made, "csv": (_csv(records), "text/csv; charset=utf-8")}


def _given(model: LetheModel, content: bytes, kind: str) -> list[dict[str, float]]:
    answer, status, _ = serving.answered(content, kind, model)
    assert status == 200, answer
    found: list[dict[str, float]] = json.loads(answer)["predictions"]
    return found


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"code": "1"},
        {"code": 1},
        {"code": 1.0},
        {"code": "None"},
        {"code": "NA"},
        {"code": None},
        {"dose": "NA"},
        {"dose": "?"},
        {"dose": None},
        {"dose": "2"},
        {"stay": "3"},
        {"stay": 3.0},
        {"stay": None},
        {"group": "2.0"},
        {"group": 3},
        {"group": "strange"},
        {"flag": False},
        {"flag": "t"},
        {"word": False},
        {"note": "was 'here', \"and\" there\nagain"},
        {"note": "née Ångström"},
        {"nobody asked": "for this", "": 7},
    ],
)
def test_rows_are_the_same_whichever_way_they_come(
    model: LetheModel, change: dict[str, Any]
) -> None:
    records = [{**GOOD, **change}, {**GOOD, **dict.fromkeys(change), "stay": 9}]
    answers = {way: _given(model, *sent) for way, sent in _ways(records).items()}
    answers["frame"] = model.probabilities(pd.DataFrame(records)).to_dict(orient="records")
    typed = model.probabilities(pd.DataFrame([records[0]]).convert_dtypes())
    first = answers["csv"]
    assert len(first) == 2
    for way, answer in answers.items():
        assert answer == first, way
    assert typed["probability"][0] == pytest.approx(first[0]["probability"], abs=1e-6)


VALUES = {
    "code": st.sampled_from(["01", "1", "None", "NA", None]),
    "group": st.sampled_from(["1", 1, "2", 3, None, "other"]),
    "stay": st.one_of(st.none(), st.integers(1, 14)),
    "dose": st.one_of(st.none(), st.sampled_from(["NA", "?"]), st.floats(0, 9)),
    "flag": st.sampled_from([True, False, None, "true", "f", "0"]),
    "word": st.sampled_from(["True", "False", True, False, None]),
    "note": st.one_of(st.none(), st.text(st.characters(exclude_categories=("Cs", "Cc")))),
}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=6))
def test_whatever_the_rows_are(model: LetheModel, records: list[dict[str, Any]]) -> None:
    answers = [_given(model, *sent) for sent in _ways(records).values()]
    assert all(answer == answers[0] for answer in answers)


def test_whole_numbers_of_a_frame_are_taken_where_the_signature_says_double_or_text(
    model: LetheModel,
) -> None:
    frame = pd.DataFrame([GOOD, GOOD]).astype({"stay": "int64", "group": "int64"})
    gaps = frame.astype({"group": "float64"})
    assert model.probabilities(frame).equals(model.probabilities(gaps))


def test_a_column_with_declared_gaps_may_be_absent_and_any_other_is_asked_for_by_name(
    model: LetheModel,
) -> None:
    without = {name: value for name, value in GOOD.items() if name != "dose"}
    null = {**GOOD, "dose": None}
    asked = [_given(model, *_ways([record])["dataframe_records"]) for record in (without, null)]
    assert asked[0] == asked[1]
    with pytest.raises(SchemaMismatch, match=r"\['stay'\]"):
        model.probabilities(pd.DataFrame([{n: v for n, v in GOOD.items() if n != "stay"}]))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("1.0", "1"),
        ("1.000", "1"),
        ("-0.0", "0"),
        (" 10.0 ", "10"),
        ("-2.0", "-2"),
        ("1", "1"),
        *((each, each) for each in ("001", "01.0", "1e0", "+1", "1.", ".0", " 1e1", "0x1", "2.0")),
        *((each, each) for each in ("1_0", "1.0.0", "1.05", "", " ", "nan", "-", "\u0661.0")),
    ],
)
def test_only_a_whole_number_that_a_frame_wrote_with_a_point_is_spelled_otherwise(
    given: str, kept: str
) -> None:
    column = Column(role="feature", type="category", domain=("0", "1", "10", "-2"), why="x")
    for frame in (pd.DataFrame({"x": [given]}), pd.DataFrame({"x": [given] * 9}, dtype=object)):
        made = rows.taken(frame, {"x": column}, [])["x"]
        assert set(made) == {kept}


def test_what_training_calls_other_is_other_here() -> None:
    g = Generalization(groups={"a": ("1",)}, others="other")
    column = Column(role="feature", type="category", generalize=g, why="x")
    raw = pd.DataFrame({"x": ["001", "1", "1e0", "1.0"]})
    made = generalize_columns(rows.taken(raw, {"x": column}, []), {"x": column}).values["x"]
    assert made.tolist() == ["other", "a", "other", "a"]


def test_blank_is_null_in_a_csv_alone_and_there_unless_it_is_declared() -> None:
    blank = Column(role="feature", type="category", domain=("a", " "), missing=("",), why="x")
    word = Column(role="feature", type="category", domain=("a", "b"), why="x")
    columns = {"blank": blank, "word": word, "when": None}
    given = {"blank": [" ", "a"], "word": [" ", ""], "when": ["", "2020-01-01"]}
    read = rows.from_csv("blank,word,when\n , ,\na,,2020-01-01\n")
    as_csv = rows.taken(read, columns, [])
    assert as_csv["blank"].tolist() == [" ", "a"]
    assert as_csv["word"].tolist() == [None, None]
    assert as_csv["when"].tolist() == [None, "2020-01-01"]
    for raw in (rows.from_values(given), rows.from_values(pd.DataFrame(given).to_dict("records"))):
        assert {n: list(v) for n, v in rows.taken(raw, columns, []).items()} == given


def test_a_record_of_several_that_lacks_a_column_is_asked_for_it(model: LetheModel) -> None:
    def without(*names: str) -> dict[str, Any]:
        return {name: value for name, value in GOOD.items() if name not in names}

    for lacking in (
        [GOOD, without("stay")],
        [without("stay"), GOOD],
        [GOOD] * 9 + [without("stay")],
    ):
        with pytest.raises(SchemaMismatch, match=r"\['stay'\]"):
            model.probabilities(lacking)
        content = json.dumps({"dataframe_records": lacking}).encode()
        assert serving.answered(content, "application/json", model)[1] == 400
    with pytest.raises(SchemaMismatch, match=r"\['stay', 'note'\]"):
        model.probabilities([without("stay"), without("note")])
    gap = model.probabilities([GOOD, without("dose")])  # which declares its gaps
    assert gap.equals(model.probabilities([GOOD, {**GOOD, "dose": None}]))


SECRET = "Quillfeather"


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (_csv([{**GOOD, "code": SECRET}]), "text/csv", "code (1)"),
        (_csv([{**GOOD, "stay": SECRET}]), "text/csv", "stay (1)"),
        (_csv([{**GOOD, "stay": "inf", "note": SECRET}]), "text/csv", "'stay' has 1 infinite"),
        (f"stay,note\n1,{SECRET},3\n".encode(), "text/csv", "Row 1"),
        (f"{SECRET},x\n1,2\n".encode(), "text/csv", "needs the columns"),
        (f'stay\n"{SECRET}'.encode(), "text/csv", "cannot be read"),
        (b"", "text/csv", "is empty"),
        (f"stay,stay\n1,{SECRET}\n".encode(), "text/csv", "['stay'] are given twice"),
        (SECRET.encode("utf-16"), "text/csv", "not UTF-8"),
        (f'{{"{SECRET}": 1}}'.encode(), "application/json", "with one of dataframe_split"),
        (f'{{"inputs": "{SECRET}"'.encode(), "application/json", "not JSON"),
        (f'{{"inputs": "{SECRET}"}}'.encode(), "application/json", "inputs must be rows"),
        (b'{"inputs": [], "instances": []}', "application/json", "with one of"),
        (
            f'{{"inputs": {{"a": [1], "b": ["{SECRET}", 2]}}}}'.encode(),
            "application/json",
            "length",
        ),
        (f'{{"dataframe_split": ["{SECRET}"]}}'.encode(), "application/json", "`columns`"),
        (
            f'{{"dataframe_split": {{"columns": ["a"], "data": [["{SECRET}", 1]]}}}}'.encode(),
            "application/json",
            "Row 1 of dataframe_split",
        ),
        (
            json.dumps({"instances": [{**GOOD, "stay": [SECRET]}]}).encode(),
            "application/json",
            "'stay' has a list",
        ),
        (
            json.dumps({"instances": [{**GOOD, "stay": 10**400}]}).encode(),
            "application/json",
            "'stay' has 1 infinite",
        ),
        (SECRET.encode(), "application/x-parquet", "takes text/csv and application/json"),
        (SECRET.encode(), "text/csv; charset=latin-1", "UTF-8"),
    ],
)
def test_an_error_names_the_column_and_never_a_value(
    model: LetheModel,
    content: bytes,
    kind: str,
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer, status, mimetype = serving.answered(content, kind, model)
    assert status in (400, 415) and mimetype == "application/json"
    assert says in json.loads(answer)["message"]
    assert SECRET not in answer + caplog.text and "Traceback" not in answer + caplog.text


def test_what_nobody_foresaw_is_no_trace_either(
    model: LetheModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(given: Any) -> Any:
        raise RuntimeError(f"the row of {SECRET}")

    monkeypatch.setattr(model, "probabilities", broken)
    answer, status, _ = serving.answered(*_ways([GOOD])["csv"], model)
    assert status == 400 and "RuntimeError" in answer
    assert SECRET not in answer + caplog.text


def test_half_letters_in_a_text_are_no_fault(model: LetheModel) -> None:
    content = json.dumps({"instances": [{**GOOD, "note": "a \ud800"}]}).encode()
    assert len(_given(model, content, "application/json")) == 1


def test_the_signature_has_the_types_of_the_declarations() -> None:
    assert inputs_of(ENCODER) == (
        Input("code"),
        Input("group"),
        Input("stay", numeric=True),
        Input("dose", required=False),  # its gaps are words, so it is text
        Input("flag"),
        Input("word"),
        Input("note"),
    )


def test_rows_come_as_objects_columns_or_one_object() -> None:
    frames = [
        rows.from_values([{"a": 1, "b": None}]),
        rows.from_values({"a": [1], "b": [None]}),
        rows.from_values({"a": 1, "b": None}),
        rows.from_values({"a": np.array([1]), "b": [None]}),
    ]
    assert all(frame.to_dict("records") == [{"a": 1, "b": None}] for frame in frames)
    assert rows.from_values([]).shape == (0, 0)


def test_other_models_of_the_process_are_left_to_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def _predict(self, data: Any, params: Any = None) -> str:
            return "mlflow's own"

    monkeypatch.setattr(serving, "PyFuncModel", Other)
    serving.entrance()
    serving.entrance()  # a second model of Lethe's changes nothing more
    assert Other()._predict(1) == "mlflow's own"
    assert serving._own_of(SimpleNamespace()) is None
