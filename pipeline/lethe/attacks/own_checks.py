"""What a trainer says that a sound training of its kind keeps, held against what it reported."""

from lethe.attacks.attack import Attack, Target, register
from lethe.attacks.statistics import Check, at_most, holds
from lethe.training.trainer import Trained


@register
class OwnChecks(Attack):
    """`Trainer.checks` on the published training."""

    name = "training"
    covers = ("training",)

    def run(self, target: Target) -> list[Check]:
        published = Trained(model=target.files, facts=target.report)
        try:
            found = target.trainer.checks(published)
        except (KeyError, TypeError, ValueError):  # a fact is missing, or no fact of its kind
            found = None
        meaning = "the report has the facts of its kind of training"
        return [
            # A trainer without a check has nothing that could contradict it.
            holds("training.facts", bool(found), meaning=meaning),
            *(at_most(c.name, c.value, c.limit, meaning=c.meaning) for c in found or ()),
        ]
