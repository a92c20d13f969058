"""What the tests of requests share: a desk that takes them, over stores in memory."""

import datetime as dt
from collections.abc import Iterator

import pytest

from lethe.config.params import Params
from lethe.people.references import Reference
from lethe.rights.deadlines import due
from lethe.rights.erasure import ASKED, ErasureCase, ErasureSummary
from lethe.rights.erasure_steps import STEPS, take
from lethe.rights.receipts import Signer, facts_of
from lethe.stores.requests.requests import Request, Requests
from tests.fake_stores import FakeWorkspace
from tests.library import declare

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
SEED = b"s" * 32


class Desk:
    """Requests in a database of their own, stores in memory, and a clock that stands still."""

    def __init__(self, url: str = "sqlite://", *, in_steps: bool = False) -> None:
        self.url = url
        self.in_steps = in_steps
        self.places = FakeWorkspace()
        self.params: Params = declare("sqlite:///x.db")
        self.now = NOW
        self.reports: list[str] = []
        self.count = 0
        self.requests = Requests.open(self.url)

    def ask(self, value: str, *, column: str | None = None, kind: str = "erase") -> str:
        self.count += 1
        content = Reference(column, value).to_bytes()
        request_id = f"request-{self.count:02d}"
        return self.requests.receive(
            request_id,
            kind=kind,
            purpose=self.params.purpose if ASKED[kind].keeps_records else None,
            reference=kind.encode() + content,
            encrypted=self.places.encrypt(content, about=request_id),
            received_at=self.now,
            due_at=due(self.now),
        ).request_id

    def run(self) -> ErasureSummary:
        """All at once, or step by step, as `in_steps` says."""
        if not self.in_steps:
            return self.case().run()
        whole = ErasureSummary()
        for name in STEPS:
            summary = self.step(name)
            whole.closed |= summary.closed
            whole.joined |= summary.joined
            whole.waiting |= summary.waiting
        whole.problems = {r.request_id: r.problem for r in self.requests.all() if r.problem}
        return whole

    def step(self, name: str) -> ErasureSummary:
        return take(self.case(), name)

    def case(self) -> ErasureCase:
        return ErasureCase(
            self.params,
            self.places,
            self.requests,
            Signer(SEED),
            clock=lambda: self.now,
            report=self.reports.append,
        )

    def request(self, request_id: str) -> Request:
        return self.requests.find(request_id)

    def receipt(self, request_id: str) -> dict:
        (text,) = [r.text for r in self.requests.receipts() if r.request_id == request_id]
        return facts_of(text)

    def results(self, request_id: str) -> dict[str, str]:
        return {each["store"]: each["result"] for each in self.receipt(request_id)["stores"]}


@pytest.fixture
def at_once() -> Iterator[Desk]:
    """For what only a run of all steps does."""
    made = Desk()
    with made.requests:
        yield made


@pytest.fixture(params=[False, True], ids=["at once", "in steps"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    made = Desk(in_steps=request.param)
    with made.requests:
        yield made
