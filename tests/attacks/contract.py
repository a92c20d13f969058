"""What every attack must keep to; a suite for a new one is a subclass that names it."""

import json
from typing import Any, ClassVar

import pytest
import torch

from lethe.attacks.attack import Attack, Target
from lethe.attacks.statistics import FALSE_ALARMS, Check


class AttackContract:
    """Inherit, and give the fixture `kind`; the fixture `target` is a sound run."""

    _made: ClassVar[dict[type[Attack], tuple[Attack, list[Check]]]] = {}

    @pytest.fixture
    def made(self, kind: type[Attack], target: Target) -> tuple[Attack, list[Check]]:
        if kind not in self._made:  # the mechanism takes seconds to replay
            attack = kind()
            self._made[kind] = attack, attack.run(target)
        return self._made[kind]

    def test_its_checks_are_named_as_it_says(self, made: tuple[Attack, list[Check]]) -> None:
        attack, checks = made
        names = [check.name for check in checks]
        assert names, "an attack that looked at nothing has shown nothing"
        assert len(set(names)) == len(names)
        assert {name.partition(".")[0] for name in names} <= set(attack.covers)

    def test_a_sound_run_passes(self, made: tuple[Attack, list[Check]]) -> None:
        assert [check.name for check in made[1] if not check.passed] == []

    def test_false_alarms_are_rare_and_known(self, made: tuple[Attack, list[Check]]) -> None:
        rates = [check.false_alarm_rate for check in made[1]]
        assert all(rate >= 0 for rate in rates)
        assert sum(rates) <= FALSE_ALARMS

    def test_what_it_says_is_json_explained_and_not_private(
        self, made: tuple[Attack, list[Check]]
    ) -> None:
        attack, checks = made
        json.dumps([check.to_data() for check in checks], allow_nan=False)
        assert all(check.meaning for check in checks)
        if attack.measured is not None:
            json.dumps(dict(attack.measured), allow_nan=False)
            assert attack.measured["private"] is False
        if attack.curve is not None:
            assert list(attack.curve.columns) == ["fpr", "tpr"]
            assert len(attack.curve) <= 200

    def test_it_leaves_the_target_as_it_was(self, kind: type[Attack], target: Target) -> None:
        before = _state(target)
        kind().run(target)
        assert _equal(_state(target), before)


def _state(target: Target) -> list[Any]:
    return [
        {name: tensor.clone() for name, tensor in target.model.state_dict().items()},
        target.model.training,
        target.manifest.copy(),
        json.dumps(dict(target.report), sort_keys=True),
        [path.read_bytes() for path in target.paths],
        target.data.features.clone(),
    ]


def _equal(one: list[Any], other: list[Any]) -> bool:
    return (
        all(torch.equal(one[0][name], other[0][name]) for name in one[0])
        and one[1:5] == other[1:5]
        and torch.equal(one[5], other[5])
    )
