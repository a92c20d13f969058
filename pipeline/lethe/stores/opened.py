"""The stores of one workspace, each opened once.

A function that needs more than one of them takes an `OpenStores`: so nothing is opened twice in
a process, and whoever opened them closes them.
"""

from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from lethe.config.params import Params
from lethe.core.closing import Closing
from lethe.core.errors import NotFound

if TYPE_CHECKING:  # each store is imported by who asks for it: MLflow alone takes seconds
    from lethe.ledger.ledger import Ledger
    from lethe.stores.registry.registry import Registry
    from lethe.stores.requests.requests import Requests
    from lethe.stores.source.read import Source
    from lethe.stores.vault.vault import Vault


class OpenStores(Closing):
    """The stores that a workspace declares, to be looked at: none that is not there is made.

    Each is opened when it is first asked for, once, and closed by `close()` or at the end of
    `with`.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._open = ExitStack()

    def close(self) -> None:
        """Closes every store that was opened; asked again, they are opened again."""
        self._open.close()
        for store in ("source", "vault", "requests", "ledger", "registry"):
            self.__dict__.pop(store, None)

    @property
    def params(self) -> Params:
        """What is declared, checked and frozen; `params.root` is the folder."""
        return self._params

    @cached_property
    def source(self) -> "Source":
        """The people's data, which has their keys. Read only."""
        from lethe.stores.source.read import Source

        return self._open.enter_context(Source.open(self._params))

    @cached_property
    def vault(self) -> "Vault":
        """What leads from a person's key to a token, if there is one yet; needs the master key."""
        from lethe.stores.opening import open_vault

        return self._open.enter_context(open_vault(self._params, create=False))

    @cached_property
    def requests(self) -> "Requests":
        """What people asked for, if there is a ledger, in whose database it is."""
        from lethe.stores.opening import open_requests

        self.ledger.head()  # to look makes no ledger
        return self._open.enter_context(open_requests(self._params))

    @cached_property
    def ledger(self) -> "Ledger":
        """What everybody has spent, if anybody has; the only way to spend more."""
        from lethe.stores.opening import open_ledger

        return self._open.enter_context(open_ledger(self._params, create=False))

    @cached_property
    def registry(self) -> "Registry":
        """The model versions, if there are any."""
        from lethe.stores.registry.registry import Registry, exists

        url = self._params.address(self._params.stores.registry)
        if not exists(url):
            raise NotFound("There is no registry yet: no model was registered. Run the pipeline.")
        return Registry.open(url)

    def find_registry(self) -> "Registry | None":
        """The model versions; None where no model was registered yet."""
        try:
            return self.registry
        except NotFound:
            return None
