"""How many people of a manifest may no longer be used."""

import datetime as dt

import numpy as np
from pyroaring import BitMap

from lethe.config.keys import load_key
from lethe.config.params import Params, resolve_secret
from lethe.people.consents import decisions_now
from lethe.people.suppression import standing
from lethe.stores.vault.vault import Vault


def count_withdrawn(params: Params, manifest: BitMap, now: dt.datetime) -> int:
    """How many people of a manifest do not agree now, may not be used, or are in no vault."""
    allowed = standing(params, decisions_now(params, now)).allowed.tolist()
    with Vault.open(
        resolve_secret(params.stores.vault), load_key(params.stores), create=False
    ) as vault:
        tokens = vault.lookup(allowed)
        free = ~vault.suppressed(allowed, purpose=params.purpose)
    return len(manifest - BitMap(tokens[(tokens >= 0) & free].astype(np.uint32)))
