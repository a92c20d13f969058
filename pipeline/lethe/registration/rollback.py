"""Whether the ledger still has every training that a registered model came from.

A ledger that was brought back from an older copy has forgotten spend, and would let people
be charged beyond their budget. The models remember: each version carries the ledger's length
and the hash of its last entry at registration.
"""

from typing import TYPE_CHECKING

from lethe.config.params import Params

if TYPE_CHECKING:
    from lethe.ledger.ledger import Ledger
    from lethe.stores.registry.registry import Registry


def refuse_rolled_back(
    params: Params, ledger: "Ledger", registry: "Registry | None" = None
) -> None:
    """Compares the ledger with the record of every version of `registration.name`.

    Guarantees: a ledger with fewer entries than a version's record, other entries, or without
        the version's run is refused; nothing is changed, and no registry is created. A
        rollback to a point after the newest registration leaves no trace here.

    Args:
        registry: an opened one; else that of `params.stores`, if there is one.

    Raises:
        LedgerInvalid: it was rolled back or replaced.
    """
    if registry is None:
        url = params.address(params.stores.registry)
        from lethe.stores.registry.registry import (  # MLflow takes seconds to import
            Registry,
            exists,
        )

        if not exists(url):
            return
        registry = Registry.open(url)
    tags = [version.tags for version in registry.versions(params.registration.name)]
    ledger.check_contains_all(
        (str(t.get("run_id")), int(t["ledger_rows"]), str(t["ledger_head"]))
        for t in tags
        if "ledger_rows" in t and "ledger_head" in t
    )
