"""People who are nobody: invented from the declarations, or declared public."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lethe.config.params import Params
from lethe.core.errors import (
    NotFound,
    ParamsInvalid,
    SchemaMismatch,
    ValueOutsideDomain,
)
from lethe.data.encoding import Encoder
from lethe.sweep.points import Network
from lethe.sweep.stand_in import from_files, generated
from tests import trained_run
from tests.stages.test_budget import declared


def test_invented_people_follow_the_declarations_and_no_store_is_opened(folder: Path) -> None:
    own = declared(folder)
    before = sorted(folder.rglob("*"))
    tried = generated(own, people=600, auc=0.75, base_rate=0.2, seed=3)
    assert sorted(folder.rglob("*")) == before
    assert (len(tried.people), len(np.unique(tried.held_out.tokens))) == (600, 150)
    assert not set(tried.people.tokens) & set(tried.held_out.tokens)
    assert tried.people.features.shape[1:] == (4, len(Encoder.from_params(own).names))
    assert bool(tried.people.mask[:, 0].all())  # everybody has a record
    assert 0 < int(tried.people.mask[:, 3].sum()) < 600


def test_the_same_seed_invents_the_same_people(params: Params) -> None:
    first, again, other = (
        generated(params, people=200, auc=0.7, base_rate=0.3, seed=seed) for seed in (1, 1, 2)
    )
    assert bool((first.people.features == again.people.features).all())
    assert not bool((first.people.labels == other.people.labels).all())


def test_the_planted_signal_has_the_strength_and_base_rate_asked_for(params: Params) -> None:
    shares = {}
    for auc in (0.6, 0.9):
        tried = generated(params, people=2000, auc=auc, base_rate=0.2, seed=1)
        found = Network(params.training, Encoder.from_params(params), "cpu").auc_without_privacy(
            dataclasses.replace(trained_run.plan_of(params), steps=100, expected_batch_size=200.0),
            tried,
        )
        assert found is not None
        assert abs(found - auc) < 0.04
        shares[auc] = float(tried.people.labels[tried.people.mask].mean())
    assert all(abs(share - 0.2) < 0.02 for share in shares.values())


@pytest.mark.parametrize(("auc", "base_rate"), [(0.5, 0.2), (1.0, 0.2), (0.7, 0.0), (0.7, 1.0)])
def test_impossible_signals_are_refused(params: Params, auc: float, base_rate: float) -> None:
    with pytest.raises(ParamsInvalid, match="must lie between"):
        generated(params, people=200, auc=auc, base_rate=base_rate, seed=1)


def test_labels_of_several_classes_are_invented_too(folder: Path) -> None:
    own = declared(folder)
    columns = own.tables["encounters"].columns
    label = dataclasses.replace(columns["readmitted"], positive=None)
    tables = own.tables | {
        "encounters": dataclasses.replace(
            own.tables["encounters"], columns={**columns, "readmitted": label}
        )
    }
    tried = generated(
        dataclasses.replace(own, tables=tables), people=300, auc=0.8, base_rate=0.2, seed=1
    )
    assert set(np.unique(tried.held_out.labels)) == {0, 1, 2}


def _rows() -> pd.DataFrame:
    random = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "id": np.repeat([f"p{number}" for number in range(50)], 4),
            "stay": random.integers(0, 11, size=200),
            "ward": random.choice(["north", "south", "east"], size=200),
            "returned": random.choice(["no", "yes"], size=200),
        }
    )


@pytest.mark.parametrize("name", ["public.parquet", "public.csv", "public.csv.gz"])
def test_records_of_one_person_stay_together(params: Params, name: str) -> None:
    rows = _rows()
    rows.to_parquet(name) if name.endswith("parquet") else rows.to_csv(name, index=False)
    tried = from_files(params, Path(name), seed=1)
    assert (len(tried.people), tried.people.records) == (40, 40 * 3)  # three records at most
    assert len(np.unique(tried.held_out.tokens)) == 10
    assert not set(tried.people.tokens) & set(tried.held_out.tokens)
    assert "declared public" in tried.words


def test_rows_without_a_person_are_each_one(params: Params, folder: Path) -> None:
    (folder / "public").mkdir()
    _rows().drop(columns="id").to_parquet("public/a.parquet")
    assert len(from_files(params, Path("public"), seed=1).people) == 160


def test_the_column_that_says_whose_a_row_is_can_be_named(params: Params) -> None:
    _rows().rename(columns={"id": "who"}).to_parquet("a.parquet")
    assert len(from_files(params, Path("a.parquet"), person="who", seed=1).people) == 40


def test_a_stand_in_that_lacks_columns_or_is_not_there_says_so(params: Params) -> None:
    _rows().drop(columns=["ward", "returned"]).to_parquet("a.parquet")
    with pytest.raises(SchemaMismatch, match=r"\['returned', 'ward'\]"):
        from_files(params, Path("a.parquet"), seed=1)
    with pytest.raises(NotFound, match="none"):
        from_files(params, Path("none.csv"), seed=1)
    _rows().assign(ward="west").to_parquet("b.parquet")
    with pytest.raises(ValueOutsideDomain, match="ward"):
        from_files(params, Path("b.parquet"), seed=1)
