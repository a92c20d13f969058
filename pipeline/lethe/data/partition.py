"""Which shard a person is in, and who is held out: keyed hashes of the canonical key.

Both depend on the person's own key and a secret alone, so nobody moves when others
come or go, and nobody outside can see from a key where its person is.
"""

import hashlib
import math
from decimal import Decimal

import numpy as np
import pandas as pd

from lethe.core.errors import SubjectKeyInvalid
from lethe.core.values import EXACT, by_distinct, canonical_text

_HASH_BITS = 64


def canonical_keys(keys: pd.Series) -> pd.Series:
    """Subject keys as text, spelled the same for every source; null stays null.

    Guarantees: a key that is a whole number is its decimal digits, whether it came as an
        integer, as a float beside nulls, as a Decimal or as text.
    Shapes: keys (n,) -> (n,) of dtype `str`, same index.
    Raises:
        SubjectKeyInvalid: a float beyond 2**53, which may stand for two persons; or what is no
            number among the values of a driver, which have None where there is none.
    """
    if isinstance(keys.dtype, pd.StringDtype):
        return keys.astype("str")
    if pd.api.types.is_integer_dtype(keys.dtype):
        return keys.astype("str")
    _refuse_inexact(keys)
    spelled = by_distinct(keys, canonical_text)
    return pd.Series(spelled, index=keys.index, name=keys.name, dtype="str")


def _refuse_inexact(keys: pd.Series) -> None:
    floats = keys
    if not pd.api.types.is_float_dtype(keys.dtype):
        floats = keys[[isinstance(each, float | Decimal) for each in keys]]
        if count := sum(not math.isfinite(each) for each in floats):
            raise SubjectKeyInvalid(
                f"{count} subject keys are no numbers (NaN or infinite). Correct the source, or "
                "store the key as an integer or as text."
            )
        floats = floats[[isinstance(each, float) for each in floats]].astype("float64")
    if inexact := int((floats.abs() > EXACT).sum()):
        raise SubjectKeyInvalid(
            f"{inexact} subject keys are floats beyond 2**53, where two persons can share "
            "one number. Store the key as an integer or as text."
        )


def _keyed_hash(keys: pd.Series, *, secret: bytes, purpose: bytes) -> np.ndarray:
    """A 64-bit keyed BLAKE2b of every key; the purpose separates uses of one secret."""
    if keys.isna().any():
        raise SubjectKeyInvalid(
            f"{int(keys.isna().sum())} records have no subject key. Correct the source's links."
        )
    codes, uniques = pd.factorize(keys)
    digests = b"".join(
        hashlib.blake2b(
            key.encode(), key=secret, digest_size=_HASH_BITS // 8, person=purpose
        ).digest()
        for key in uniques
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)[codes]


def shard_of(keys: pd.Series, *, secret: bytes, shards: int) -> np.ndarray:
    """The shard of every canonical key.

    Guarantees: depends on the key, the secret and the number of shards alone; all records
        of a person are in one shard.
    Shapes: keys (n,) -> int64 (n,), each in [0, shards).
    Raises:
        SubjectKeyInvalid: a key is null.
    """
    hashed = _keyed_hash(keys, secret=secret, purpose=b"shard")
    return (hashed % np.uint64(shards)).astype(np.int64)


def held_out(keys: pd.Series, *, secret: bytes, share: float) -> np.ndarray:
    """Whether the person of every canonical key is held out of training, for evaluation.

    Guarantees: depends on the key, the secret and the share alone; whoever is held out at a
        share is held out at every larger one.
    Shapes: keys (n,) -> bool (n,).
    Raises:
        SubjectKeyInvalid: a key is null.
    """
    hashed = _keyed_hash(keys, secret=secret, purpose=b"holdout")
    return hashed.astype(np.float64) / 2.0**_HASH_BITS < share
