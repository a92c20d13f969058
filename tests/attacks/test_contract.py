"""Every registered attack keeps the contract; one more needs no change of anything else."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lethe.attacks.attack import Attack, Target, register, unregister
from lethe.attacks.audit import attacks, audit
from lethe.attacks.own_checks import OwnChecks
from lethe.attacks.statistics import Check, at_most
from lethe.core.errors import ParamsInvalid
from lethe.stages import audit as stage
from lethe.stages import train as train_stage
from lethe.stores.opening import open_ledger
from tests import trained_run
from tests.attacks.contract import AttackContract

PARAMS = trained_run.params()


class LongestName(Attack):  # the ten lines that a new attack takes
    """Does the model have layers whose names would not fit a page?"""

    name = "longest_name"
    covers = ("names",)

    def run(self, target: Target) -> list[Check]:
        longest = max(len(name) for name in target.model.state_dict())
        self.measured = {"longest": longest, "private": False}
        return [at_most("names.length", longest, 80, meaning="layers have names of 80 letters")]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("sound"))
        trained_run.write_people(PARAMS)
        train_stage.run(PARAMS, now=trained_run.NOW)
        with open_ledger(PARAMS) as ledger:
            yield stage.load_target(PARAMS, ledger)


@pytest.fixture
def toy() -> Iterator[type[Attack]]:
    register(LongestName)
    yield LongestName
    unregister(LongestName.name)


class TestEveryAttack(AttackContract):
    @pytest.fixture(params=[*attacks(), LongestName], ids=lambda kind: kind.name)
    def kind(self, request: pytest.FixtureRequest) -> type[Attack]:
        found: type[Attack] = request.param
        return found


def test_what_existed_before_the_seam_goes_through_it() -> None:
    names = {kind.name for kind in attacks()}
    assert names == {
        *("accounting", "people", "mechanism", "membership", "training"),
        *("independence", "run", "separation"),
    }


def test_a_registered_attack_takes_part_in_every_audit(
    toy: type[Attack], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert toy in attacks()
    quick = [kind for kind in attacks() if kind.name != "mechanism"]
    report = audit(target, quick).report
    assert report["passed"] is True
    assert "names.length" in [check["name"] for check in report["checks"]]
    assert report["measured"] == {"longest_name": {"longest": 8, "private": False}}
    assert report["attack"]["attempted"] is True


def test_an_attack_that_contradicts_fails_the_audit(target: Target) -> None:
    class Contradicts(LongestName):
        def run(self, target: Target) -> list[Check]:
            return [at_most("names.length", 81, 80, meaning="too long")]

    report = audit(target, [Contradicts]).report
    assert (report["passed"], report["failed"]) == (False, ["names.length"])


def test_an_audit_that_looked_at_nothing_has_not_passed(target: Target) -> None:
    assert audit(target, []).report["passed"] is False


def test_no_two_attacks_may_speak_for_the_same(toy: type[Attack]) -> None:
    for change in ({"name": "other"}, {"covers": ("other",)}, {"covers": ("noise",)}):
        with pytest.raises(ParamsInvalid, match="another name"):
            register(type("Twin", (LongestName,), change))


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"clip_norm": 9.0}, "training.clip"),
        ({"records": 10**6}, "training.records"),
        ({"clip_norm": "wide"}, "training.facts"),
        ({"clip_norm": 0.0}, "training.facts"),
        ({"plan": None}, "training.facts"),
    ],
)
def test_a_report_that_its_own_trainer_would_not_give_is_contradicted(
    target: Target, change: dict[str, object], failed: str
) -> None:
    sound = audit(target, [OwnChecks])
    assert sound.report["passed"], sound.report["failed"]
    message = replace(target, report={**target.report, **change})
    assert audit(message, [OwnChecks]).report["failed"] == [failed]


class Jumpy(Attack):
    """Alarms more often than an audit may."""

    name = "jumpy"
    covers = ("jumpy",)

    def run(self, target: Target) -> list[Check]:
        return [Check("jumpy.often", True, 0.5, 2e-6, 2e-6, "p-value", "nothing is seen")]


def test_attacks_that_alarm_too_often_together_are_an_error(target: Target) -> None:
    with pytest.raises(ValueError, match=r"2\.0e-06; at most 1e-06 is promised"):
        audit(target, [Jumpy])
