"""A run that is cut anywhere, by a kill or by an older version, ends as one that was not."""

import pytest

from lethe.core.errors import Busy, LetheError
from lethe.core.outcomes import Traces
from lethe.people.references import reference_from_bytes
from lethe.stores.requests.requests import CLOSED, Requests
from tests.fake_stores import FakeWorkspace, Killed
from tests.rights.desk import Desk, desk

__all__ = ["desk"]

DEEDS = ("suppress", "remember", "source", "forget", "purge", "retrain", "retire")


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_every_deed_the_next_run_ends_the_same(
    desk: Desk, deed: str, moment: str
) -> None:
    asked = [desk.ask("ada"), desk.ask("cleo"), desk.ask("nobody")]

    def die(at: str) -> None:
        if at == deed:
            raise Killed

    setattr(desk.places, moment, die)
    with pytest.raises(Killed):
        desk.run()
    setattr(desk.places, moment, lambda at: None)
    desk.run()
    assert _ending(desk, asked) == _undisturbed()


@pytest.mark.parametrize("number", range(1, 34))
def test_killed_after_every_mark_the_next_run_ends_the_same(
    desk: Desk, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [desk.ask("ada"), desk.ask("cleo"), desk.ask("nobody")]
    seen = 0
    writes = {name: getattr(Requests, name) for name in ("mark", "resolve", "close")}

    def dying(name: str):  # type: ignore[no-untyped-def]
        def write(self, *args, **options):  # type: ignore[no-untyped-def]
            nonlocal seen
            done = writes[name](self, *args, **options)
            seen += 1
            if seen == number:
                raise Killed
            return done

        return write

    for name in writes:
        monkeypatch.setattr(Requests, name, dying(name))
    with pytest.raises(Killed):
        desk.run()
    monkeypatch.undo()
    desk.run()
    assert _ending(desk, asked) == _undisturbed()


def _ending(desk: Desk, asked: list[str]) -> dict:
    """Everything that is the same however often a run was ended."""
    places = desk.places
    return {
        "stores": (places.source, places.vault, places.data, places.trained, places.in_use),
        "remembered": places.remembered,
        "trainings": places.trainings,
        "receipts": [
            {
                k: v
                for k, v in desk.receipt(each).items()
                if k not in ("steps", "stores", "previous")
            }
            for each in asked
        ],
        "states": [desk.request(each).state for each in asked],
        "results": [
            sorted((s["store"], s["result"]) for s in desk.receipt(each)["stores"])
            for each in asked
        ],
    }


def _undisturbed() -> dict:
    other = Desk()
    with other.requests:
        asked = [other.ask("ada"), other.ask("cleo"), other.ask("nobody")]
        other.run()
        return _ending(other, asked)


def test_an_error_that_nobody_foresaw_is_not_swallowed(desk: Desk) -> None:
    desk.ask("ada")
    desk.places.before = lambda deed: (_ for _ in ()).throw(ValueError("a fault"))
    with pytest.raises(ValueError, match="a fault"):
        desk.run()
    assert issubclass(Busy, LetheError)


AS_BEFORE = {"absent": "nothing found", "present": "not attempted", "kept": "not attempted"}


def _as_the_version_before(content: dict) -> dict:
    """A mark with three results of a store, and prose that said which of them was on purpose."""
    stores = [dict(each) for each in content.get("stores", ()) if each["store"] != "requests"]
    for each in stores:
        if each["result"] == "kept":
            each["reason"] = "stays: only its use for this purpose ends"
        each["result"] = AS_BEFORE.get(each["result"], each["result"])
    return {**content, "stores": stores} if "stores" in content else content


@pytest.mark.parametrize("number", range(1, 34))
@pytest.mark.parametrize("kind", ["erase", "withdraw"])
def test_an_open_request_of_the_version_before_is_gone_on_with(
    desk: Desk, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [desk.ask("ada", kind=kind), desk.ask("cleo"), desk.ask("nobody")]
    seen = 0
    mark, resolve = Requests.mark, Requests.resolve
    in_models = FakeWorkspace().models_of  # which were looked for with the person

    def counted() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            raise Killed

    def old_mark(self, request_id, step, content, *, now):  # type: ignore[no-untyped-def]
        mark(self, request_id, step, _as_the_version_before(content), now=now)
        counted()

    def old_resolve(self, request_id, *, encrypted, entry, found, now):  # type: ignore[no-untyped-def]
        person = reference_from_bytes(desk.places.decrypt(encrypted, about=request_id))
        assert isinstance(person, Traces)
        ((models, live),) = in_models([person])
        found = {**_as_the_version_before(found), "models": models, "live": live}
        resolve(self, request_id, encrypted=encrypted, entry=entry, found=found, now=now)
        counted()

    monkeypatch.setattr(Requests, "mark", old_mark)
    monkeypatch.setattr(Requests, "resolve", old_resolve)
    try:
        desk.run()
    except Killed:
        monkeypatch.undo()
        for each in asked:
            desk.requests.unmark(each, "overwritten", "models")
        desk.run()
    assert [desk.request(each).state for each in asked] == [CLOSED] * 3
    assert desk.places.trainings == 1
    expected = "kept" if kind == "withdraw" else "erased"
    assert desk.results(asked[0])["source"] == expected
    assert desk.results(asked[1]) == {
        **dict.fromkeys(("source", "vault", "cache", "registry"), "erased")
    }
    assert set(desk.results(asked[2]).values()) == {"absent"}
