"""While the registry is away shards go, models stay, and what must go later is remembered."""

from pathlib import Path

from pyroaring import BitMap

from lethe.core.errors import StoreUnavailable
from lethe.core.outcomes import Traces
from lethe.stores.dvc.content import held_of
from lethe.stores.dvc.purge import JOURNAL
from lethe.stores.dvc.store import DvcStore
from lethe.stores.store import Person
from tests.past_pipeline import ADA, forget_source, out, past, past_template, results

__all__ = ["past", "past_template"]


class Registry:
    """Says which models are in use, unless it is away."""

    away = True
    serving: frozenset[str] = frozenset()

    def model_hashes(self, versions: object) -> set[str]:
        if self.away:
            raise StoreUnavailable("The model registry does not answer.")
        return set(self.serving)

    def ended_hashes(self, versions: object) -> set[str]:
        return set()

    def manifest_became(self, versions: object, *, model: str, manifest: str) -> None: ...


def test_shards_go_while_the_registry_is_away_and_models_once_it_is_back(past: Path) -> None:
    forget_source(past)
    registry = Registry()
    model = out(past, Path("model"))
    store = DvcStore(past, registry, known=BitMap, skip=lambda: [])
    ada = Person(Traces("", ADA), serving=("wards/1",))
    (done,) = store.forget([ada])
    assert results(done)["models"] == "unreachable"
    assert out(past, Path("model")) == model and any((past / "model").iterdir())
    cached = [path.read_bytes() for path in (past / ".dvc/cache").rglob("*") if path.is_file()]
    assert not any(held_of(content, BitMap([ADA])) for content in cached), "no shard, no manifest"
    withheld = (past / JOURNAL).read_text()
    assert model in withheld
    (again,) = store.forget([Person(Traces("", ADA), serving=None)])
    assert results(again)["models"] == "unreachable", "still nobody can say"
    registry.away = False
    registry.serving = frozenset({model})
    (done,) = store.forget([ada])
    assert {each.result for each in done} <= {"erased", "absent"}
    assert not (past / JOURNAL).exists()
    assert out(past, Path("model")) == model, "it is in use"
    kept = {path.name for path in (past / ".dvc/cache/files/md5" / model[:2]).iterdir()}
    assert f"{model[2:]}" in kept


def test_a_model_that_nobody_uses_goes_once_the_registry_says_so(past: Path) -> None:
    forget_source(past)
    registry = Registry()
    model = out(past, Path("model"))
    store = DvcStore(past, registry, known=BitMap, skip=lambda: [])
    list(store.forget([Person(Traces("", ADA), serving=("wards/1",))]))
    registry.away = False
    (done,) = store.forget([Person(Traces("", ADA))])
    assert {each.result for each in done} <= {"erased", "absent"}
    assert not (past / ".dvc/cache/files/md5" / model[:2] / model[2:]).exists()
    assert out(past, Path("model")) != model
