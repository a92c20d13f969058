"""The stores of one workspace, opened, and what else carrying a right out needs of it."""

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path

from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.errors import BudgetExceeded
from lethe.core.files import read_json
from lethe.core.outcomes import Traces
from lethe.data.shards import read_people
from lethe.ledger.ledger import Ledger
from lethe.people.references import Reference, reference_from_bytes
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.rights.services import FINAL_CODES, Retraining, RetrainingCost
from lethe.runs.ended import EndedRun
from lethe.runs.pods.store import PodRunsStore
from lethe.runs.runner import Runner, StageFailed, WorkspaceRunner
from lethe.stores.dvc.store import DvcStore
from lethe.stores.opening import open_ledger
from lethe.stores.registry.registry import Registry
from lethe.stores.registry.store import RegistryStore
from lethe.stores.requests.requests import RETENTION, Request, Requests
from lethe.stores.requests.store import RequestsStore
from lethe.stores.source.find_people import keys_spelled, subjects_by
from lethe.stores.source.store import SourceStore
from lethe.stores.store import Store
from lethe.stores.vault.store import VaultStore
from lethe.stores.vault.vault import Vault
from lethe.training.trainers import trainer_of


class WorkspaceStores:
    """The stores of the workspace in `root`, with an open vault and its requests.

    Args:
        runner: where models are trained anew; in the workspace itself by default.
        elsewhere: what a run that somebody else started came to, instead.
    """

    def __init__(
        self,
        params: Params,
        vault: Vault,
        requests: Requests,
        root: Path,
        *,
        clock: Callable[[], dt.datetime],
        runner: Runner | None = None,
        elsewhere: EndedRun | None = None,
    ) -> None:
        self._params = params
        self._vault = vault
        self._root = root
        self._runner = runner or WorkspaceRunner(root)
        self._elsewhere = elsewhere
        registry = Registry.open(params.address(params.stores.registry))
        self.source = SourceStore(params, clock=clock)
        self.vault = VaultStore(vault, params.address(params.stores.vault))
        self.registry = RegistryStore(registry, self._charged, clock=clock)
        self.dvc = DvcStore(
            root,
            self.registry,
            known=vault.everybody,
            skip=self._other_stores,
            code=params.erasure.code,
        )
        self.requests = RequestsStore(requests, self._about)
        self.pods = PodRunsStore(root)
        # Whoever leads to others goes last: pods are fenced before what they sent is purged.
        self.stores: list[Store] = [
            self.source,
            self.vault,
            self.requests,
            self.pods,
            self.dvc,
            self.registry,
        ]

    def encrypt(self, content: bytes, *, about: str) -> bytes:
        return self._vault.encrypt(content, about=about)

    def decrypt(self, encrypted: bytes, *, about: str) -> bytes:
        return self._vault.decrypt(encrypted, about=about)

    def _about(self, request: Request) -> str | None:
        """Whose key a person's request leads to, once they were looked up."""
        if request.encrypted is None or request.kind == RETENTION:
            return None
        found = reference_from_bytes(self.decrypt(request.encrypted, about=request.request_id))
        return found.key if isinstance(found, Traces) else None

    def people(self, references: Sequence[Reference]) -> list[list[str]]:
        named: dict[str, list[str]] = {}
        for each in references:
            if each.column is not None:
                named.setdefault(each.column, []).append(each.value)
        found = {column: subjects_by(self._params, column, named[column]) for column in named}
        keys = keys_spelled(self._params, [r.value for r in references if r.column is None])
        return [
            keys[each.value] if each.column is None else found[each.column][each.value]
            for each in references
        ]

    def entry(self, key: str, *, purpose: str | None) -> bytes:
        return self._vault.entries([key], purpose=purpose)[0]

    def models_of(self, people: Sequence[Traces]) -> list[tuple[list[str], list[str]]]:
        return self.registry.models_of(people)

    def _charged(self) -> dict[str, BitMap]:
        with self._ledger() as ledger:
            return {run.run_id: run.eligible for run in ledger.runs()}

    def suppress(self, entry: bytes, *, since: dt.datetime) -> None:
        self._vault.suppress_entries({entry: since})

    def remember(self, traces: Traces, *, now: dt.datetime) -> None:
        if traces.token is not None:
            with self._ledger() as ledger:
                ledger.remember(self._vault.spend_entry(traces.key), traces.token, now=now)

    def cost(self, tokens: Sequence[int]) -> RetrainingCost | None:
        try:
            # Who was trained on, not who is in the data: held-out people are not charged.
            people = read_people(self._root / workspace.MANIFEST)
        except FileNotFoundError:
            return None
        people -= BitMap(tokens)
        if not people:
            return None
        budget = self._params.budget
        release = trainer_of(self._params.training).plan(self._params).release(people)
        refused = None
        with self._ledger() as ledger:
            try:
                ledger.admissible(release, budget)
            except BudgetExceeded as error:
                refused = str(error)
        return RetrainingCost(
            people=len(people),
            epsilon_rdp=epsilon_rdp([release.event], release.delta),
            epsilon_pld=epsilon_pld([release.event], release.delta),
            delta=release.delta,
            refused=refused,
        )

    def retrain(self) -> Retraining:
        self.registry.versions()  # one that is away could not take what is paid for
        try:
            (self._elsewhere or self._runner).run()
        except StageFailed as error:
            if error.exit_code in FINAL_CODES:
                return Retraining(None, str(error))
            raise
        made = read_json(self._root / workspace.report_path("register"))
        return Retraining(f"{made['model']}/{made['version']}")

    def _other_stores(self) -> list[Path]:
        """Files that another store looks into by itself: a source in files."""
        kind, _, folder = self._params.address(self._params.source.url).partition(":")
        return [self._root / folder] if kind in ("csv", "parquet") else []

    def _ledger(self) -> Ledger:
        return open_ledger(self._params)
