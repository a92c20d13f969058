"""Why a version is not promoted by itself: a list, and whom it waits for, as values."""

import pytest

from lethe.config.params import Registration
from lethe.registration.gate import Gate, closed_gate

GATES = [
    Gate(),
    Gate(("auc 0.5 is below min_auc 0.55",)),
    Gate((), ("kim",)),
    Gate(("one; with a semicolon", 'and "quotes"'), ("kim", "lou")),
    Gate(("waits for approval by nobody we know",)),
]


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_read_back_from_its_tag_is_the_same(gate: Gate) -> None:
    assert Gate.from_tag(gate.to_tag()) == gate
    assert (gate.to_tag() == "open") is gate.open


@pytest.mark.parametrize(
    ("tag", "gate"),
    [
        ("open", Gate()),
        ("registration.promote is manual", Gate(("registration.promote is manual",))),
        ("waits for approval by kim or lou", Gate((), ("kim", "lou"))),
        (
            "waits for approval by kim; auc 0.5000 is below min_auc 0.55",
            Gate(("auc 0.5000 is below min_auc 0.55",), ("kim",)),
        ),
    ],
)
def test_the_tag_of_a_version_before_this_form_is_read(tag: str, gate: Gate) -> None:
    assert Gate.from_tag(tag) == gate


@pytest.mark.parametrize("tag", ["", "{}", "[]", "null", '{"reasons": []}', "OPEN", '"open"'])
def test_a_tag_that_nobody_wrote_opens_nothing(tag: str) -> None:
    gate = Gate.from_tag(tag)
    assert not gate.open
    assert gate.reasons, "and no approval is enough"


def test_an_approver_is_waited_for_beside_what_else_stands_in_the_way() -> None:
    declared = Registration(name="m", promote="approval", approvers=("kim",), min_auc=0.55)
    gate = closed_gate({"auc": {"value": 0.5, "private": True}}, declared, experiment=False)
    assert gate == Gate(("auc 0.5000 is below min_auc 0.55",), ("kim",))
    assert gate.sentences == ["waits for approval by kim", "auc 0.5000 is below min_auc 0.55"]
