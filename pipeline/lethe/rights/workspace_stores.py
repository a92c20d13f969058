"""The real places of one workspace: source, vault, ledger, DVC, registry and the road."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import Params, resolve_secret
from lethe.core.errors import (
    AuditContradiction,
    BudgetExceeded,
    NobodyConsents,
    TooFewSubjects,
    TrainingRefused,
)
from lethe.core.files import read_json
from lethe.core.outcomes import Outcome, Traces
from lethe.ledger.ledger import Ledger
from lethe.people.references import Reference
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.planning import plan_from
from lethe.rights.stores import LEAVES, Cost, Sought, Training
from lethe.runs.stages import StageFailed, run_stages
from lethe.stores.dvc.repro import History
from lethe.stores.opening import open_ledger
from lethe.stores.registry.registry import RUN_ID, Registry, Version
from lethe.stores.source.find_people import subjects_by
from lethe.stores.source.mentions import Mentioned, find_mentions
from lethe.stores.vault.database import REVEALS, SUBJECTS
from lethe.stores.vault.vault import Vault

# What trying again does not mend: without a new model the old one is withdrawn.
_FINAL = (TooFewSubjects, NobodyConsents, BudgetExceeded, AuditContradiction, TrainingRefused)
_FINAL_CODES = frozenset(error.exit_code for error in _FINAL)


class Stores:
    """The places of the workspace in `root`, with an open vault."""

    def __init__(self, params: Params, vault: Vault, root: Path) -> None:
        self._params = params
        self._vault = vault
        self._root = root
        self._registry = Registry.open(resolve_secret(params.stores.registry))

    def seal(self, content: bytes, *, about: str) -> bytes:
        return self._vault.seal(content, about=about)

    def unseal(self, sealed: bytes, *, about: str) -> bytes:
        return self._vault.unseal(sealed, about=about)

    def people(self, references: Sequence[Reference]) -> list[list[str]]:
        named: dict[str, list[str]] = {}
        for each in references:
            if each.column is not None:
                named.setdefault(each.column, []).append(each.value)
        found = {column: subjects_by(self._params, column, named[column]) for column in named}
        return [
            [each.value] if each.column is None else found[each.column][each.value]
            for each in references
        ]

    def traces_of(self, keys: Sequence[str]) -> list[Traces]:
        from lethe.stores.source.identifiers import traces_of

        tokens = self._vault.lookup(keys).tolist()
        known = [None if token < 0 else token for token in tokens]
        return traces_of(self._params, list(zip(keys, known, strict=True)))

    def entry(self, key: str, *, purpose: str | None) -> bytes:
        return self._vault.entries([key], purpose=purpose)[0]

    def models_of(self, people: Sequence[Traces]) -> list[tuple[list[str], list[str]]]:
        """By the ledger's manifests: they stay as they were when DVC's are rewritten."""
        return [
            ([name_of(v) for v in held], [name_of(v) for v in held if v.aliases])
            for held in self._held(people)
        ]

    def _held(self, people: Sequence[Traces]) -> list[list[Version]]:
        """Versions in the registry whose training charged each person."""
        tokens = BitMap([each.token for each in people if each.token is not None])
        if not tokens:
            return [[] for _ in people]
        with self._ledger() as ledger:
            charged = {run.run_id: run.eligible & tokens for run in ledger.runs()}
        versions = [(v, charged.get(str(v.tags.get(RUN_ID)))) for v in self._registry.versions()]
        return [
            [v for v, them in versions if them is not None and each.token in them]
            if each.token is not None
            else []
            for each in people
        ]

    def suppress(self, entry: bytes, *, since: dt.datetime) -> None:
        self._vault.suppress_entries({entry: since})

    def remember(self, traces: Traces, *, now: dt.datetime) -> None:
        if traces.token is not None:
            with self._ledger() as ledger:
                ledger.remember(self._vault.spend_entry(traces.key), traces.token, now=now)

    def mentioned(self, people: Sequence[Traces]) -> dict[str, Mentioned]:
        return find_mentions(self._params, people)

    def erase_source(
        self, traces: Traces, *, now: dt.datetime, mentioned: Mentioned | None
    ) -> Outcome:
        from lethe.stores.source.erase import erase_from_source

        return erase_from_source(self._params, traces, now=now, compact=False, mentioned=mentioned)

    def compact(self, *, vault: bool) -> None:
        from lethe.stores.search.postgres import write_anew
        from lethe.stores.source.compact import compact_source

        compact_source(self._params)
        if vault:
            write_anew(resolve_secret(self._params.stores.vault), [SUBJECTS.name, REVEALS.name])

    def forget(self, traces: Traces) -> Outcome:
        rows = self._vault.forget([traces.key])
        if not rows:
            return Outcome("vault", "nothing found")
        return Outcome("vault", "erased", rows, ("vault_subjects",))

    def purge(
        self, tokens: Sequence[int], *, serving: Sequence[str], retired: Sequence[str]
    ) -> list[Outcome]:
        from lethe.runs.pods.home import fence
        from lethe.stores.dvc.purge import purge_history

        in_use = {name_of(v): v for v in self._registry.versions() if name_of(v) in serving}
        walks = fence(self._root, BitMap(tokens))  # first: then their locks are known here
        outcomes = [walks] if walks else []
        outcomes += purge_history(
            self._root,
            BitMap(tokens),
            models=self._model_hashes(retired),
            serving={v.tags["model_md5"] for v in in_use.values()},
        )
        history = History(self._root)
        model, manifest = (history.out_md5(w) for w in (workspace.MODEL, workspace.MANIFEST))
        for version in in_use.values():  # what names the manifest must name the new one
            tags = version.tags
            if manifest and tags["model_md5"] == model and tags["manifest_md5"] != manifest:
                self._registry.tag(version, "manifest_md5", manifest)
        return outcomes

    def _model_hashes(self, versions: Sequence[str]) -> set[str]:
        """The hashes of retired versions' models, from what is kept of them."""
        from lethe.stores.registry.remove import tombstone

        found = set()
        for version in versions:
            model, number = _parts(version)
            stone = tombstone(self._registry, model, number)
            if stone is not None and "model_md5" in stone.facts:
                found.add(stone.facts["model_md5"])
        return found

    def cost(self, tokens: Sequence[int]) -> Cost | None:
        try:
            # Who was trained on, not who is in the data: held-out people are not charged.
            people = BitMap.deserialize((self._root / workspace.MANIFEST).read_bytes())
        except FileNotFoundError:
            return None
        people -= BitMap(tokens)
        if not people:
            return None
        plan, budget = plan_from(self._params), self._params.budget
        refused = None
        with self._ledger() as ledger:
            try:
                ledger.admissible(plan, people, budget)
            except BudgetExceeded as error:
                refused = str(error)
        return Cost(
            people=len(people),
            epsilon_rdp=epsilon_rdp([plan.event], plan.delta),
            epsilon_pld=epsilon_pld([plan.event], plan.delta),
            delta=plan.delta,
            refused=refused,
        )

    def retrain(self) -> Training:
        try:
            self.walk()
        except StageFailed as error:
            if error.exit_code in _FINAL_CODES:
                return Training(None, str(error))
            raise
        made = read_json(workspace.report_path("register"))
        return Training(f"{made['model']}/{made['version']}")

    def walk(self, *targets: str) -> None:
        """Runs the pipeline, to its end or to a stage.

        Raises:
            StageFailed, Busy: as `run_stages`.
        """
        run_stages(self._root, targets)

    def retire(
        self, version: str, *, replaced_by: str | None, reason: str | None, now: dt.datetime
    ) -> Outcome:
        from lethe.stores.registry.remove import retire, withdraw

        model, number = _parts(version)
        if replaced_by is not None and _parts(replaced_by)[0] == model:
            _, new = _parts(replaced_by)
            return retire(self._registry, model, number, replaced_by=new, now=now)
        why = reason or "somebody in it was erased; it was not in use"
        return withdraw(self._registry, model, number, reason=why, now=now)

    def look(self, people: Sequence[Sought]) -> list[list[Outcome]]:
        from lethe.runs.pods.home import fence
        from lethe.stores.dvc.verify import Sought as InHistory
        from lethe.stores.dvc.verify import verify_histories
        from lethe.stores.source.verify import verify_sources

        erased = [each.traces for each in people if each.kind == "erase"]
        in_source = iter(verify_sources(self._params, erased) if erased else [])
        hashes = {m: self._model_hashes([m]) for m in {m for each in people for m in each.models}}
        in_history = verify_histories(
            self._root,
            [
                InHistory(
                    BitMap() if each.traces.token is None else BitMap([each.traces.token]),
                    _sought(each.traces) if each.kind == "erase" else None,
                    frozenset().union(*(hashes[model] for model in each.models)),
                )
                for each in people
            ],
            known=self._vault.everybody(),
            skip=self._other_stores(),
        )
        seen = []
        tokens = BitMap(t for each in people if (t := each.traces.token) is not None)
        away = fence(self._root, tokens)  # once for all: nobody's request ends before a walk did
        in_registry = self._look_in_registry(people)
        for each, history, registry in zip(people, in_history, in_registry, strict=True):
            if each.kind == "erase":
                first = [next(in_source), self._look_in_vault(each.traces)]
            else:
                first = [Outcome(s, "not attempted", reason=LEAVES) for s in ("source", "vault")]
            first += [away] if away else []
            seen.append([*first, *history, registry])
        return seen

    def _look_in_vault(self, traces: Traces) -> Outcome:
        if int(self._vault.lookup([traces.key])[0]) < 0:
            return Outcome("vault", "nothing found")
        return Outcome("vault", "not attempted", 1, ("vault_subjects",), "the row is there")

    def _look_in_registry(self, people: Sequence[Sought]) -> list[Outcome]:
        """Versions that were trained on somebody, what is left of those that went, and traces."""
        from lethe.stores.registry.remove import tombstone
        from lethe.stores.registry.verify import Sought as InRegistry
        from lethe.stores.registry.verify import verify_registries

        models = {model for each in people for model in each.models}
        stones = {model: tombstone(self._registry, *_parts(model)) for model in models}
        looked = verify_registries(
            self._registry,
            [
                InRegistry(
                    tuple(stone for model in each.models if (stone := stones[model]) is not None),
                    each.traces if each.kind == "erase" else None,
                )
                for each in people
            ],
        )
        held = self._held([each.traces for each in people])
        return [
            _still_held([name_of(version) for version in versions]) if versions else outcome
            for versions, outcome in zip(held, looked, strict=True)
        ]

    def _other_stores(self) -> list[Path]:
        """Files that another store looks into by itself: a source in files."""
        kind, _, folder = resolve_secret(self._params.source.url).partition(":")
        return [self._root / folder] if kind in ("csv", "parquet") else []

    def _ledger(self) -> Ledger:
        return open_ledger(self._params)


def name_of(version: Version) -> str:
    return f"{version.model}/{version.version}"


def _parts(version: str) -> tuple[str, int]:
    model, _, number = version.rpartition("/")
    return model, int(number)


def _still_held(versions: Sequence[str]) -> Outcome:
    reason = f"{len(versions)} versions were trained on the person"
    return Outcome("registry", "not attempted", len(versions), tuple(versions), reason)


def _sought(traces: Traces) -> Traces:
    """What to look for in any bytes. A number is in the digits of a measurement by chance, so
    a key of digits alone is looked for where keys are: in the source and in the vault."""
    return Traces("" if traces.key.isdigit() else traces.key, traces.token, traces.identifiers)
