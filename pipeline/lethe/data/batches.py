"""People as rows: the shards' records laid out as [persons, K, features]."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pyroaring import BitMap
from torch import Tensor

from lethe.core.errors import TrainingRefused
from lethe.data.encoding import Encoder


@dataclass(frozen=True)
class PersonData:
    """Everybody who trains, each with one place, and at most K records in it.

    >>> import lethe, numpy, torch
    >>> two = lethe.PersonData(
    ...     features=torch.zeros(2, 3, 4),
    ...     mask=torch.tensor([[True, True, False], [True, False, False]]),
    ...     labels=torch.zeros(2, 3), tokens=numpy.array([7, 9], dtype="uint32"))
    >>> len(two), two.records
    (2, 3)

    Shapes: features float32 [persons, K, features], mask bool [persons, K],
        labels [persons, K], tokens uint32 [persons], rising.
    """

    features: Tensor
    mask: Tensor
    labels: Tensor
    tokens: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def records(self) -> int:
        return int(self.mask.sum())

    def batch(
        self, positions: Tensor, device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(features, mask, labels) of the people at `positions`."""
        return (
            self.features[positions].to(device),
            self.mask[positions].to(device),
            self.labels[positions].to(device),
        )


@dataclass(frozen=True)
class RecordData:
    """Records one by one, for evaluation: features [n, features], labels [n], tokens [n]."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32] | npt.NDArray[np.int64]
    tokens: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.tokens)


def person_data(
    paths: Sequence[Path], encoder: Encoder, *, admitted: BitMap, records_per_person: int
) -> PersonData:
    """The admitted people, each with the first `records_per_person` records by rank.

    Somebody whose records all lack the label keeps an empty place: who is in a training
    set is decided by the reservation, not here.
    """
    parts = [
        person_rows(frame, encoder, people=people, records_per_person=records_per_person)
        for frame, people in _of(paths, admitted)
    ]
    absent = len(admitted) - sum(len(part) for part in parts)
    if absent:
        raise TrainingRefused(
            f"{absent} people are admitted but in no shard. Run the pipeline from pseudonymize "
            "again."
        )
    tokens = np.concatenate([part.tokens for part in parts])
    order = np.argsort(tokens)
    places = torch.from_numpy(order)
    return PersonData(
        features=torch.cat([p.features for p in parts])[places],
        mask=torch.cat([p.mask for p in parts])[places],
        labels=torch.cat([p.labels for p in parts])[places],
        tokens=tokens[order],
    )


def person_rows(
    frame: pd.DataFrame, encoder: Encoder, *, people: BitMap, records_per_person: int
) -> PersonData:
    """One shard's admitted people as rows; see `person_data`."""
    tokens = np.array(people, dtype=np.uint32)
    kept = encoder.labelled(frame).sort_values(["token", "rank"], kind="stable")
    kept = kept[kept["token"].isin(tokens)]
    slot = kept.groupby("token").cumcount().to_numpy()
    within = slot < records_per_person
    kept, slot = kept[within], slot[within]
    row = np.searchsorted(tokens, kept["token"].to_numpy(np.uint32))
    labels = encoder.labels(kept)
    shape = (len(tokens), records_per_person)
    features = np.zeros((*shape, len(encoder.names)), dtype=np.float32)
    mask = np.zeros(shape, dtype=np.bool_)
    placed = np.zeros(shape, dtype=labels.dtype)
    features[row, slot] = encoder.encode(kept)
    mask[row, slot] = True
    placed[row, slot] = labels
    return PersonData(
        torch.from_numpy(features), torch.from_numpy(mask), torch.from_numpy(placed), tokens
    )


def held_out_records(paths: Sequence[Path], encoder: Encoder) -> RecordData:
    """All labelled records of the people who are held out."""
    frames = []
    for path in paths:
        frame = pd.read_parquet(path)
        frames.append(encoder.labelled(frame[frame["held_out"].astype(bool)]))
    whole = pd.concat(frames, ignore_index=True)
    return RecordData(
        encoder.encode(whole), encoder.labels(whole), whole["token"].to_numpy(np.uint32)
    )


def _of(paths: Sequence[Path], admitted: BitMap) -> Iterator[tuple[pd.DataFrame, BitMap]]:
    for path in paths:
        frame = pd.read_parquet(path)
        yield frame, BitMap(frame["token"].to_numpy(np.uint32)) & admitted
