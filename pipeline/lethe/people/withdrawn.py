"""How many people of a manifest may no longer be used."""

import datetime as dt

import numpy as np
from pyroaring import BitMap

from lethe.config.params import Params
from lethe.people.consents import decisions_now
from lethe.people.suppression import standing
from lethe.stores.opening import open_vault


def count_withdrawn(params: Params, manifest: BitMap, now: dt.datetime) -> int:
    """How many people of a manifest do not agree now, may not be used, or are in no vault."""
    allowed = standing(params, decisions_now(params, now)).allowed.tolist()
    with open_vault(params, create=False) as vault:
        tokens = vault.lookup(allowed)
        free = ~vault.suppressed(allowed, purpose=params.purpose)
    return len(manifest - BitMap(tokens[(tokens >= 0) & free].astype(np.uint32)))
