"""Versions that were registered before a tag had its present name are read like any other."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import sqlalchemy as sa

from lethe.people.lineage import model_lineage, render_model
from lethe.registration import approval
from lethe.stores.registry.registry import Registry, Version
from lethe.stores.registry.remove import retire, retired_version
from lethe.stores.registry.tags import RUN_ID, present_names
from lethe.stores.registry.tombstones import find_tombstone
from tests.asked import ask
from tests.stages.test_register import NOW, Audited, audited, here, prepared

__all__ = ["audited", "here", "prepared"]

OLDER = {  # today's name: as versions up to 0.1.0 have it
    "epsilon_pld": "epsilon",
    "noise_multiplier": "sigma",
    "records_per_person": "K",
    "sample_rate": "q",
}


def _stored(registry: Registry) -> dict[str, str]:
    return dict(registry.client.get_model_version("readmission", "1").tags)


@pytest.fixture
def older(audited: Audited) -> tuple[Audited, Version]:
    """A version that waits for approval, with the tags that 0.1.0 gave it; and as it was before."""
    registration = replace(audited.params.registration, promote="approval", approvers=("kim",))
    audited.params = replace(audited.params, registration=registration)
    audited.run()
    registry = Registry.open(audited.params.stores.registry)
    present = registry.find("readmission", "1")
    for new, old in OLDER.items():
        registry.client.set_model_version_tag("readmission", "1", old, present.tags[new])
        registry.client.delete_model_version_tag("readmission", "1", new)
    assert OLDER.keys().isdisjoint(_stored(registry)), "or this tests nothing"
    return audited, present


def test_an_older_version_has_todays_tags_when_it_is_read(older: tuple[Audited, Version]) -> None:
    audited, present = older
    registry = Registry.open(audited.params.stores.registry)
    assert registry.find("readmission", "1") == present
    assert registry.versions() == [present]
    assert registry.of_run("readmission", present.tags[RUN_ID]) == present


def test_lineage_of_an_older_version_says_its_price(older: tuple[Audited, Version]) -> None:
    found = ask(model_lineage, older[0].params, "readmission/1")
    assert (found["epsilon_pld"], found["epsilon_rdp"]) == (0.9, 1.04)
    assert "epsilon 0.9 (PLD), 1.04 (RDP) at delta 1e-05, per person" in render_model(found)


def test_an_older_version_is_approved_by_its_price(older: tuple[Audited, Version]) -> None:
    audited, _ = older
    waits = approval.waiting(audited.params)
    assert waits is not None
    assert "epsilon 0.9 (PLD), 1.04 (RDP)" in waits.facts
    said = approval.approve(audited.params, "readmission/1", by="kim", reason="", now=NOW)
    assert said == "readmission/1 is champion now, approved by kim."


def test_an_older_version_is_retired_with_all_its_tags(older: tuple[Audited, Version]) -> None:
    audited, present = older
    registry = Registry.open(audited.params.stores.registry)
    retire(registry, "readmission", 1, replaced_by=None, reason="no budget", now=NOW)
    assert registry.versions() == []
    gone = retired_version(registry, "readmission", "1")
    assert gone is not None
    assert {name: gone.tags[name] for name in OLDER} == {n: present.tags[n] for n in OLDER}
    assert not set(OLDER.values()) & set(gone.tags)
    assert ask(model_lineage, audited.params, "readmission/1")["epsilon_pld"] == 0.9
    engine = sa.create_engine(audited.params.stores.registry)
    with engine.connect() as connection:
        left = connection.exec_driver_sql("SELECT key FROM model_version_tags").all()
    assert left == []


def test_a_tombstone_of_before_is_of_a_retired_version(older: tuple[Audited, Version]) -> None:
    audited, _ = older
    registry = Registry.open(audited.params.stores.registry)
    retire(registry, "readmission", 1, replaced_by=None, reason="no budget", now=NOW)
    record = find_tombstone(registry, "readmission", 1)
    assert record is not None
    written: dict[str, Any] = json.loads(json.dumps(asdict(record)))
    facts = {OLDER.get(name, name): value for name, value in written["facts"].items()}
    before = json.dumps({**written, "status": "withdrawn", "facts": facts})
    registry.client.set_registered_model_tag("readmission", "retired.1", before)
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert (tombstone.status, tombstone.reason, tombstone.facts) == (
        "retired",
        "no budget",
        written["facts"],
    )
    assert ask(model_lineage, audited.params, "readmission/1")["status"] == "retired"


def test_no_tag_is_lost_where_both_names_are_there() -> None:
    tags = {RUN_ID: "run-1", "epsilon": "0.9", "epsilon_pld": "0.8", "q": "0.1"}
    assert present_names(tags) == {
        RUN_ID: "run-1",
        "epsilon": "0.9",
        "epsilon_pld": "0.8",
        "sample_rate": "0.1",
    }


def test_a_model_that_lethe_did_not_register_keeps_its_tags() -> None:
    assert present_names({"K": "5", "q": "cluster"}) == {"K": "5", "q": "cluster"}
