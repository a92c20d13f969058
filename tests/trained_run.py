"""A workspace with invented people in shards and a plan, as the pipeline leaves it before train."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from lethe.config import workspace
from lethe.config.params import Params, parse_params
from lethe.core.files import write_json
from lethe.data.encoding import Encoder
from lethe.privacy.plan import Plan

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE, HELD_OUT = 400, 100


def params(*, noise: str = "gaussian", adaptive: Mapping[str, float] | None = None) -> Params:
    declared = raw(noise=noise)
    declared["training"]["mechanism"]["adaptive"] = adaptive
    return parse_params(declared)


def raw(*, noise: str = "gaussian") -> dict[str, Any]:
    return {
        "purpose": "return",
        "source": {"url": "sqlite:///clinic.db"},
        "subject": {"table": "people", "key": "id", "minimum": 100},
        "records": {"table": "visits"},
        "shards": 2,
        "tables": {
            "people": {
                "erase": {"action": "delete"},
                "columns": {"id": {"role": "subject_key", "why": "joins"}},
            },
            "visits": {
                "links": {"id": "people.id"},
                "erase": {"action": "delete"},
                "columns": {
                    "id": {"role": "link"},
                    "stay": {
                        "role": "feature",
                        "type": "integer",
                        "bounds": [0, 10],
                        "why": "x",
                    },
                    "ward": {
                        "role": "feature",
                        "type": "category",
                        "domain": ["north", "south", "east"],
                        "why": "x",
                    },
                    "returned": {
                        "role": "label",
                        "type": "category",
                        "domain": ["no", "yes"],
                        "positive": ["yes"],
                        "why": "x",
                    },
                },
            },
            "answers": {
                "links": {"id": "people.id"},
                "erase": {"action": "delete"},
                "columns": {
                    "id": {"role": "link"},
                    "purpose": {"role": "consent"},
                    "answer": {"role": "consent"},
                    "at": {"role": "consent", "type": "timestamp"},
                },
            },
        },
        "consent": {
            "table": "answers",
            "subject": "id",
            "purpose": "purpose",
            "answer": "answer",
            "time": "at",
        },
        "budget": {"epsilon": 50.0, "delta": 1e-5},
        "training": {
            "held_out": 0.2,
            "mechanism": {
                "records_per_person": 3,
                "expected_subjects": 450,
                "sample_rate": 0.1,
                "steps": 20,
                "clip_norm": 0.7,
                "noise_multiplier": 1.5,
                "noise": noise,
            },
            "optimizer": {"learning_rate": 0.5},
            "model": "mlp",
            "hidden": [8],
        },
        "audit": {"subjects": 150, "replays": 3},
        "validation": {},
        "registration": {"name": "return"},
    }


def plan_of(declared: Params) -> Plan:
    mechanism = declared.training.mechanism
    assert mechanism.noise_multiplier is not None
    return Plan(
        sample_rate=mechanism.sample_rate,
        steps=mechanism.steps,
        records_per_person=mechanism.records_per_person,
        clip_norm=mechanism.clip_norm,
        noise_multiplier=mechanism.noise_multiplier,
        expected_batch_size=mechanism.expected_batch_size,
        delta=declared.budget.delta,
        noise=mechanism.noise,
    )


def write_people(declared: Params) -> None:
    """Invented people with one to five visits each, in two shards; every fifth is held out."""
    random = np.random.default_rng(5)
    counts = random.integers(1, 6, size=PEOPLE + HELD_OUT)
    tokens = np.repeat(np.arange(PEOPLE + HELD_OUT, dtype=np.uint32) * 7, counts)
    rows = len(tokens)
    frame = pd.DataFrame(
        {
            "token": tokens,
            "held_out": (tokens // 7) % 5 == 0,
            "rank": np.concatenate([np.arange(n, dtype=np.int32) for n in counts]),
            "stay": random.integers(0, 11, size=rows).astype(float),
            "ward": random.choice(["north", "south", "east"], size=rows),
            "returned": random.choice(["no", "yes"], size=rows),
        }
    )
    workspace.SHARDS.mkdir(parents=True)
    for shard in range(declared.shards):
        part = frame[frame["token"] % declared.shards == shard].reset_index(drop=True)
        part.to_parquet(workspace.SHARDS / workspace.shard_name(shard))
    write_json(workspace.PLAN, plan_of(declared).to_data())
    write_json(workspace.ENCODING, Encoder.from_params(declared).to_data())
