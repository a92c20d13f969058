import hashlib
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from lethe.core.errors import SubjectKeyInvalid
from lethe.data.partition import canonical_keys, held_out, shard_of

SECRET = b"s" * 32
PEOPLE = pd.Series([f"person {n}" for n in range(4000)], dtype="str")


@pytest.mark.parametrize(
    "seven",
    [
        pd.Series([7, 8]),
        pd.Series([7.0, 8.0]),
        pd.Series(["7", "8"]),
        pd.Series([7, "8"], dtype=object),
        pd.Series([Decimal("7"), Decimal("8.00")], dtype=object),
        pd.Series([7, 8], dtype="Int64"),
        pd.Series([np.int32(7), np.float64(8)], dtype=object),
    ],
)
def test_a_key_is_spelled_the_same_whatever_driver_gave_it(seven: pd.Series) -> None:
    assert canonical_keys(seven).tolist() == ["7", "8"]
    assert str(canonical_keys(seven).dtype) == "str"


def test_text_keys_stay_as_they_are() -> None:
    assert canonical_keys(pd.Series(["007", "7", " 7"])).tolist() == ["007", "7", " 7"]


def test_a_null_key_stays_null_and_its_index_too() -> None:
    made = canonical_keys(pd.Series([7.0, None], index=[3, 5]))
    assert made.isna().tolist() == [False, True] and made.index.tolist() == [3, 5]


def test_a_float_that_may_be_two_persons_is_refused() -> None:
    with pytest.raises(SubjectKeyInvalid, match="1 subject keys"):
        canonical_keys(pd.Series([2.0**53 + 2, 7.0]))


def test_the_shard_is_the_keyed_hash_of_the_key_alone() -> None:
    """Expected value by hashlib's BLAKE2b, spelled out."""
    digest = hashlib.blake2b(b"7", key=SECRET, digest_size=8, person=b"shard").digest()
    expected = int.from_bytes(digest, "big") % 16
    assert shard_of(pd.Series(["7"]), secret=SECRET, shards=16).tolist() == [expected]
    among = shard_of(pd.Series(["1", "7", "2", "7"]), secret=SECRET, shards=16)
    assert among[1] == among[3] == expected
    assert among.dtype == np.int64


def test_another_secret_is_another_partition() -> None:
    one = shard_of(PEOPLE, secret=SECRET, shards=16)
    other = shard_of(PEOPLE, secret=b"t" * 32, shards=16)
    assert 0.02 < (one == other).mean() < 0.11  # 1/16 by chance


def test_shards_are_about_equal() -> None:
    counts = np.bincount(shard_of(PEOPLE, secret=SECRET, shards=8), minlength=8)
    assert counts.min() > 400 and counts.max() < 600


def test_the_held_out_share_is_met_and_grows_by_people_joining_it() -> None:
    few = held_out(PEOPLE, secret=SECRET, share=0.2)
    more = held_out(PEOPLE, secret=SECRET, share=0.3)
    assert few.dtype == bool and 0.17 < few.mean() < 0.23
    assert (few <= more).all()


def test_being_held_out_is_another_hash_than_the_shards() -> None:
    """So that it says nothing about the shard, even under one secret."""
    found = held_out(PEOPLE, secret=SECRET, share=0.5)
    digests = (
        hashlib.blake2b(key.encode(), key=SECRET, digest_size=8, person=b"holdout").digest()
        for key in PEOPLE
    )
    assert found.tolist() == [int.from_bytes(digest, "big") < 2**63 for digest in digests]


def test_a_null_key_has_no_shard() -> None:
    with pytest.raises(SubjectKeyInvalid):
        shard_of(pd.Series(["7", None], dtype="str"), secret=SECRET, shards=2)
