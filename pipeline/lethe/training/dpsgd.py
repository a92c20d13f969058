"""Person-level DP-SGD as a `Trainer`: `training.mechanism` as declared.

Whoever only plans or prices loads no torch: what fits is in `dpsgd_fit`, and loaded by who does.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lethe.config.params import Params
from lethe.data.encoding import Encoder
from lethe.privacy.plan import Plan
from lethe.privacy.planning import plan_from
from lethe.training.trainer import Bound, Reserved, Session, Shards, Trained, Trainer


class DpSgd(Trainer[Plan]):
    """See `lethe.privacy.plan.Plan` for its guarantee."""

    facts = (*("clip_norm", "device", "engine", "features", "processes", "steps"),)

    def plan(self, params: Params) -> Plan:
        return plan_from(params)

    def read_plan(self, data: Mapping[str, Any]) -> Plan:
        return Plan.from_data(data)

    def rehearse(self, params: Params, *, plan: Plan, encoder: Encoder) -> None:
        from lethe.training.rehearsal import refuse_large_draws, rehearse

        megabytes, processes = params.audit.transcript_megabytes, params.parallel.processes
        refuse_large_draws(plan, megabytes)
        rehearse(params.training, plan, encoder, root=params.root, processes=processes)

    def fit(
        self, shards: Shards, reservation: Reserved, *, plan: Plan, session: Session
    ) -> Trained:
        from lethe.training import dpsgd_fit

        return dpsgd_fit.fit(shards, reservation, plan=plan, session=session)

    def checks(self, trained: Trained) -> Sequence[Bound]:
        from lethe.training.loop import CLIP_RANGE

        facts = trained.facts
        plan = Plan.from_data(facts["plan"])
        reach = 0.0 if plan.adaptive is None else math.log(CLIP_RANGE) * (1 + 1e-9)
        return [
            Bound(
                "training.clip",
                abs(math.log(float(facts["clip_norm"]) / plan.clip_norm)),
                reach,
                "the last clip is the plan's, or where an adaptive one may be",
            ),
        ]

    def assists(self, params: Params) -> bool:
        from lethe.training import dpsgd_fit

        return dpsgd_fit.assists(params)

    @contextmanager
    def helped(self, params: Params) -> Iterator[Any]:
        from lethe.training import dpsgd_fit

        with dpsgd_fit.helped(params) as others:
            yield others
