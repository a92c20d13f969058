"""Shards become people: the first K records by rank, the admitted alone, held-out apart."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from pyroaring import BitMap

from lethe.config.tables import Column
from lethe.core.errors import NotFound, TrainingRefused
from lethe.data.batches import held_out_records, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, shard_paths

ENCODER = Encoder(
    {"stay": Column(role="feature", type="integer", bounds=(0, 10), why="a test")},
    "back",
    Column(role="label", type="category", domain=("no", "yes"), positive=("yes",), why="a test"),
)
HEADER = ("token", "held_out", "rank", "stay", "back")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Person 7 has three records, 2 one, 9 one without a label, 4 and 5 are held out."""
    first = [
        (7, False, 2, 10.0, "no"),
        (7, False, 0, 0.0, "yes"),
        (7, False, 1, 5.0, "no"),
        (4, True, 0, 10.0, "yes"),
        (4, True, 1, 0.0, None),
    ]
    second = [(2, False, 0, 5.0, "yes"), (9, False, 0, 5.0, None), (5, True, 0, 0.0, "no")]
    for number, rows in enumerate([first, second, []]):
        frame = pd.DataFrame(rows, columns=list(HEADER)).astype(
            {"token": "uint32", "held_out": bool, "rank": "int32", "stay": float, "back": "string"}
        )
        frame.to_parquet(tmp_path / f"shard-{number:04d}.parquet")
    return shard_paths(tmp_path)


def test_everybody_who_is_not_held_out_is_eligible(paths: list[Path]) -> None:
    assert list(eligible_people(paths)) == [2, 7, 9]


def test_a_person_has_one_row_with_the_first_records_by_rank(paths: list[Path]) -> None:
    data = person_data(paths, ENCODER, admitted=BitMap([2, 7, 9]), records_per_person=2)
    assert data.tokens.tolist() == [2, 7, 9]
    assert data.mask.tolist() == [[True, False], [True, True], [False, False]]
    assert data.features[..., 0].tolist() == [[0.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]
    assert data.labels.tolist() == [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    assert data.records == 3


def test_who_is_not_admitted_is_not_in_the_data(paths: list[Path]) -> None:
    data = person_data(paths, ENCODER, admitted=BitMap([7]), records_per_person=3)
    assert data.tokens.tolist() == [7]
    assert data.mask.tolist() == [[True, True, True]]


def test_somebody_admitted_but_absent_stops_the_training(paths: list[Path]) -> None:
    with pytest.raises(TrainingRefused, match="1 people are admitted but in no shard"):
        person_data(paths, ENCODER, admitted=BitMap([7, 8]), records_per_person=3)


def test_held_out_people_come_with_all_their_labelled_records(paths: list[Path]) -> None:
    held = held_out_records(paths, ENCODER)
    assert held.tokens.tolist() == [4, 5]
    assert held.labels.tolist() == [1.0, 0.0]
    assert held.features[:, 0].tolist() == [1.0, -1.0]


def test_a_batch_takes_people_by_position(paths: list[Path]) -> None:
    data = person_data(paths, ENCODER, admitted=BitMap([2, 7]), records_per_person=2)
    features, mask, labels = data.batch(torch.tensor([1]))
    assert features[..., 0].tolist() == [[-1.0, 0.0]]
    assert (mask.tolist(), labels.tolist()) == ([[True, True]], [[1.0, 0.0]])
    assert data.batch(torch.tensor([], dtype=torch.int64))[0].shape == (0, 2, 2)


def test_without_shards_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="pseudonymize"):
        shard_paths(tmp_path)
