"""Whatever is asked of a ledger in whatever order, nobody is ever over the budget."""

import datetime as dt
import tempfile

import dp_accounting as dp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.core.errors import BudgetExceeded
from lethe.ledger.classes import Charge, spend_classes
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import epsilon_rdp
from lethe.privacy.plan import Plan

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
LIMIT = 2.0
TOKENS = range(8)


def plan(noise_multiplier: float) -> Plan:
    return Plan(
        sample_rate=0.1,
        steps=300,
        records_per_person=2,
        clip_norm=1.0,
        noise_multiplier=noise_multiplier,
        expected_batch_size=10.0,
        delta=1e-5,
    )


class Spending(RuleBasedStateMachine):
    """A ledger beside the simplest possible account of it: a list of events a person."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger.open(f"sqlite:///{self.folder.name}/ledger.db")
        self.account: dict[int, dict[str, dp.DpEvent]] = {token: {} for token in range(100)}
        self.reserved: list[str] = []
        self.requests = 0
        self.entries = 0
        self.returned = 0

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    @rule(
        noise=st.sampled_from([4.0, 6.6, 15.0, 60.0]),
        tokens=st.sets(st.sampled_from(TOKENS), min_size=1),
        policy=st.sampled_from(["refuse", "leave_out"]),
    )
    def reserve(self, noise: float, tokens: set[int], policy: str) -> None:
        asked = plan(noise)
        budget = Budget(epsilon=LIMIT, delta=1e-5, over_budget=policy)  # type: ignore[arg-type]
        over = {
            token
            for token in tokens
            if epsilon_rdp([*self.account[token].values(), asked.event], 1e-5) > LIMIT
        }
        self.requests += 1
        try:
            found = self.ledger.reserve(
                asked.release(BitMap(tokens)), budget=budget, request=str(self.requests), now=NOW
            )
        except BudgetExceeded:
            assert over and (policy == "refuse" or over == tokens)
            return
        assert set(found.admitted) == tokens - over
        assert not over or policy == "leave_out"
        for token in found.admitted:
            self.account[token][found.run_id] = asked.event
        self.reserved.append(found.run_id)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.reserved))
        self.reserved.remove(run_id)
        self.ledger.settle(run_id)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.reserved))
        self.reserved.remove(run_id)
        self.ledger.void(run_id, "nothing was released")
        for events in self.account.values():
            events.pop(run_id, None)

    @rule(token=st.sampled_from(TOKENS))
    def erase_and_return(self, token: int) -> None:
        self.returned += 1
        entry, new = str(self.returned).encode(), 50 + self.returned
        self.ledger.remember(entry, token)
        self.ledger.carry_over(entry, new)
        self.account[new] = dict(self.account[token])

    @invariant()
    def everybody_is_charged_exactly_what_they_were_in(self) -> None:
        for each in self.ledger.classes(BitMap(self.account), delta=1e-5):
            for token in each.members:
                assert set(each.run_ids) == set(self.account[token])

    @invariant()
    def nobody_is_over_the_budget(self) -> None:
        for each in self.ledger.classes(delta=1e-5):
            assert each.epsilon_rdp <= LIMIT + 1e-12

    @invariant()
    def entries_are_only_added(self) -> None:
        rows, _ = self.ledger.head()
        assert rows >= self.entries
        self.entries = rows


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 30)), max_size=6),
    st.sets(st.integers(0, 40)),
)
def test_classes_part_people_by_exactly_their_runs(runs: list[set[int]], tokens: set[int]) -> None:
    event = plan(30.0).event
    charges = [Charge(str(n), event, BitMap(members), 1e-5) for n, members in enumerate(runs)]
    found = spend_classes(BitMap(tokens), charges, delta=1e-5)
    assert sorted(token for each in found for token in each.members) == sorted(tokens)
    assert len({each.run_ids for each in found}) == len(found)
    for each in found:
        for token in each.members:
            assert each.run_ids == tuple(str(n) for n, run in enumerate(runs) if token in run)
