"""Does anything but weights depend on people's data: the encoding, the plan, the description?

What is public is made anew of `params.yaml` alone and compared byte by byte, so that no field,
second key, order, blank or further file can carry a number out. The model's weights are what
remains, and are held to the shape, kind and size that the declared architecture has.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyroaring import BitMap
from safetensors.torch import save

from lethe.attacks.attack import Attack, Target, register
from lethe.attacks.statistics import Check, at_most, holds
from lethe.config.tables import Column
from lethe.core.errors import LetheError
from lethe.core.files import json_bytes
from lethe.data.encoding import Encoder, Float32Array
from lethe.training.description import DESCRIPTION, WEIGHTS

_PEOPLE = 40  # whose records are encoded once more
_KINDS = {"torch.float32": "F32", "torch.int64": "I64", "torch.bool": "BOOL", "torch.uint8": "U8"}
ENCODING, PLAN = "encoding.json", "plan.json"


@register
class Independence(Attack):
    """Everything that is public, against what `params.yaml` alone makes; no false alarms."""

    name = "independence"
    covers = ("independence",)

    def run(self, target: Target) -> list[Check]:
        return [
            *_public(target),
            *_folder(target.files),
            *_weights(target),
            *_people(target),
        ]


def _public(target: Target) -> list[Check]:
    """Files whose every byte the declarations make."""
    declared, written = target.made, target.written
    record = target.record
    run_id = target.described.run_id if record is None else record.run_id
    made = {
        ENCODING: b"" if declared is None else json_bytes(declared.encoder.to_data()),
        PLAN: b"" if declared is None else json_bytes(declared.plan.to_data()),
        DESCRIPTION: b"" if declared is None else declared.description(run_id).to_bytes(),
    }
    described = {
        "encoding": target.described.encoder.to_data(),
        "plan": dict(target.described.plan),
    }
    files = {
        "encoding": _parsed(written.get(ENCODING, b"")),
        "plan": _parsed(written.get(PLAN, b"")),
    }
    return [
        holds(
            "independence.declared",
            declared is not None,
            meaning="encoding and plan can be made of params.yaml where there is no data",
        ),
        *(
            holds(
                f"independence.{name}",
                found == made[file] and declared is not None,
                meaning=f"{file} is, byte by byte, what params.yaml alone makes"
                + (" but for the run's id" if file == DESCRIPTION else ""),
            )
            for name, file, found in (
                ("encoding", ENCODING, written.get(ENCODING, b"")),
                ("plan", PLAN, written.get(PLAN, b"")),
                ("description", DESCRIPTION, target.files.get(DESCRIPTION, b"")),
            )
        ),
        holds(
            "independence.one_encoding",
            described["encoding"] == files["encoding"] and described["plan"] == files["plan"],
            meaning="the model has the encoding and the plan of the files it was trained by",
        ),
        holds(
            "independence.classes",
            declared is not None and target.described.classes == declared.encoder.classes,
            meaning="the classes are the declared ones, in the declared order",
        ),
    ]


def _folder(files: Mapping[str, bytes]) -> list[Check]:
    return [
        at_most(
            "independence.folder",
            len(files.keys() ^ {DESCRIPTION, WEIGHTS}),
            0,
            meaning="the model's folder has a description, weights and nothing else",
        )
    ]


def _weights(target: Target) -> list[Check]:
    """The file of weights, by its own bytes and against the declared architecture."""
    content = target.files.get(WEIGHTS, b"")
    state = {
        name: t.detach().cpu().contiguous().clone() for name, t in target.model.state_dict().items()
    }
    header, body = _split(content)
    expected = {name: (_KINDS.get(str(t.dtype)), list(t.shape)) for name, t in state.items()}
    found = {
        name: (each.get("dtype"), each.get("shape"))
        for name, each in header.items()
        if isinstance(each, dict)
    }
    size = sum(t.numel() * t.element_size() for t in state.values())
    return [
        holds(
            "independence.tensors",
            found == expected,
            meaning="the weights' names, shapes and kinds are the architecture's, without more",
        ),
        holds(
            "independence.size",
            len(body) == size,
            meaning="the weights take as many bytes as the architecture has, and none follow",
        ),
        holds(
            "independence.weights",
            content == save(state),
            meaning="the file of weights is, byte by byte, what these weights make",
        ),
    ]


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the rest, read by no library that would overlook something."""
    length = int.from_bytes(content[:8], "little")
    return _parsed(content[8 : 8 + length]), content[8 + length :]


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _people(target: Target) -> list[Check]:
    return [
        at_most(
            "independence.held_out",
            len(target.held_out() & _trainable(target.paths)),
            0,
            meaning="nobody is both held out and open to training",
        ),
        at_most(
            "independence.records",
            _records_apart(target),
            0,
            meaning="a record's numbers are of that record and of params.yaml alone",
        ),
    ]


def _trainable(paths: Sequence[Path]) -> BitMap:
    found = BitMap()
    for path in paths:
        frame = pd.read_parquet(path, columns=["token", "held_out"])
        mine = ~frame["held_out"].astype(bool)
        found |= BitMap(frame.loc[mine, "token"].to_numpy("uint32"))
    return found


def _records_apart(target: Target) -> int:
    """Records that, encoded alone or by hand, are not what training takes; of a few people."""
    if target.made is None or not len(target.data):
        return 0 if target.made else 1
    encoder, data = target.made.encoder, target.data
    random = np.random.default_rng()
    places = random.choice(len(data), size=min(_PEOPLE, len(data)), replace=False)
    tokens = {int(data.tokens[place]): int(place) for place in places}
    apart = 0
    for path in target.paths:
        frame = pd.read_parquet(path)
        mine = frame[frame["token"].isin(tokens.keys()) & frame[encoder.label].notna()]
        for token, rows in mine.groupby("token"):
            place = tokens[int(str(token))]
            ranked = rows.sort_values("rank", kind="stable")
            for slot in range(min(len(ranked), data.features.shape[1])):
                taken = data.features[place, slot].numpy()
                apart += not _same(taken, encoder, ranked.iloc[[slot]])
    return apart


def _same(taken: Float32Array, encoder: Encoder, row: pd.DataFrame) -> bool:
    try:
        alone = encoder.encode(row)[0]
    except LetheError:
        return False
    by_hand = np.concatenate(
        [_by_hand(column, row[name].iloc[0]) for name, column in encoder.features.items()]
    )
    # Texts are not hashed by hand: there the record alone must do.
    known = ~np.isnan(by_hand)
    return bool(
        taken.shape == alone.shape == by_hand.shape
        and np.array_equal(taken, alone)
        and np.allclose(taken[known], by_hand[known], rtol=0, atol=1e-6)
    )


def _by_hand(column: Column, value: Any) -> Float32Array:
    """One value as the documentation says; on purpose none of the encoder's own code."""
    missing = value is None or bool(pd.isna(value))
    if column.role == "text":
        return np.full(column.buckets, np.nan, dtype=np.float32)
    if column.categories is not None:
        every = (*column.categories, None)
        at = every.index(None if missing else value)
        return np.array([place == at for place in range(len(every))], dtype=np.float32)
    low, high = column.limits or (0.0, 1.0)
    scaled = 0.0 if missing else (2 * float(value) - low - high) / (high - low)
    return np.array([scaled, float(missing)], dtype=np.float32)
