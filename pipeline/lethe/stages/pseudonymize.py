"""pseudonymize: replaces the subject's key by a token from the vault, and drops the key.

Reads `data/consented`, writes `data/shards` (the first data that DVC may keep),
`data/subjects.roaring`, and counts for the operator. The last stage that sees a key.
"""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyroaring import BitMap

from lethe.config import private_reports
from lethe.config.keys import load_key
from lethe.config.params import Params
from lethe.config.workspace import (
    CONSENTED,
    SHARDS,
    SUBJECTS,
    report_path,
    shard_name,
    whole_directory,
)
from lethe.core.errors import NotFound, SubjectKeyInvalid
from lethe.core.files import write_json, write_whole
from lethe.core.shown import about
from lethe.data import partition
from lethe.data.shards import read_shard
from lethe.people.suppression import carry_spend
from lethe.stores.opening import open_vault
from lethe.stores.vault.vault import NO_TOKEN


def pseudonymize(records: pa.Table, *, tokens: np.ndarray, held_out: np.ndarray) -> pa.Table:
    """Records by token instead of by subject.

    Guarantees: no column of the result holds a subject's key; records of who has NO_TOKEN
        are absent; sorted by (token, rank), so the order reveals nothing of the source's.
    Shapes: records (n) with `subject`, `rank` and more; tokens uint32 (n,), held_out bool
        (n,) → `token`, `held_out`, `rank` and more, at most n.
    """
    columns = {
        "token": pa.array(tokens, type=pa.uint32()),
        "held_out": pa.array(held_out, type=pa.bool_()),
        "rank": records["rank"].cast(pa.int32()),
        **{
            name: _plain(records[name])
            for name in records.column_names
            if name not in ("subject", "rank")
        },
    }
    # A table of its own: the schema's metadata may describe the columns that went.
    named = pa.table(columns).filter(pc.not_equal(pa.array(tokens, type=pa.uint32()), NO_TOKEN))
    return named.sort_by([("token", "ascending"), ("rank", "ascending")]).combine_chunks()


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text in one type, so that equal shards are equal bytes."""
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column


def run(params: Params, *, now: dt.datetime) -> dict[str, Any]:
    """Runs the stage; the same records give the same bytes at any time.

    Guarantees: what it writes holds tokens and no key; a subject that the vault suppresses
        is in none of it; whoever comes back after an erasure is charged with what they had
        spent before, ahead of anything that they could spend now.
    Raises:
        NotFound: consent has not run.
        SubjectKeyInvalid: a record has no subject.
        KeyInvalid, VaultMismatch: the vault does not open.
    """
    names = [shard_name(shard) for shard in range(params.shards)]
    if sorted(path.name for path in params.at(CONSENTED).glob("*.parquet")) != names:
        raise NotFound(
            f"{CONSENTED} does not hold the {params.shards} declared shards. Run lethe consent."
        )
    key = load_key(params.stores, params.root)
    consented = [params.at(CONSENTED) / name for name in names]
    people = _people(consented)
    with open_vault(params, key=key) as vault:
        tokens = vault.tokens(people.tolist(), purpose=params.purpose)
        secret = vault.secret("holdout")
        used = {k: int(t) for k, t in zip(people, tokens, strict=True) if t != NO_TOKEN}
        carry_spend(params, vault, used, now=now)
    apart = partition.held_out(people.to_series(), secret=secret, share=params.training.held_out)
    records = 0
    params.at(SUBJECTS).unlink(missing_ok=True)  # never beside shards that it does not describe
    with whole_directory(params.root, SHARDS) as folder:
        for path in consented:
            records_in = read_shard(path)
            places = people.get_indexer(_subjects(records_in))
            shard = pseudonymize(records_in, tokens=tokens[places], held_out=apart[places])
            pq.write_table(shard, folder / path.name, compression="zstd")
            records += shard.num_rows
    known = tokens != NO_TOKEN
    write_whole(params.at(SUBJECTS), BitMap(np.sort(tokens[known]).tolist()).serialize())
    report: dict[str, Any] = {"shards": len(names)}
    exact: dict[str, Any] = {
        "subjects": int(known.sum()),
        "held_out": int((apart & known).sum()),
        "suppressed": int((~known).sum()),
        "records": records,
    }
    private_reports.write(params.root, "pseudonymize", exact)
    write_json(params.at(report_path("pseudonymize")), report)
    return exact | report


def _people(paths: list[Path]) -> pd.Index:
    """Every subject of the shards, once."""
    keys: list[str] = []
    for path in paths:
        keys.extend(_subjects(read_shard(path, ["subject"])).unique())
    people = pd.Index(keys, dtype="str")
    if not people.is_unique:
        raise SubjectKeyInvalid(
            f"{about(int(people.duplicated().sum()))} subjects have records in several shards. "
            "Run lethe minimize."
        )
    return people


def _subjects(records: pa.Table) -> pd.Index:
    if records["subject"].null_count:
        raise SubjectKeyInvalid(
            f"{about(records['subject'].null_count)} records have no subject. "
            "Correct the source's links."
        )
    return pd.Index(records["subject"].to_pandas(), dtype="str")
