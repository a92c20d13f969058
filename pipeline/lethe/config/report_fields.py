"""What the reports that decide something may have in them: a closed list of fields.

Reports are committed, and go to whoever may read the repository. A field that nobody declared is
how a number of a person would leave in one, so whoever reads a report refuses it by its name.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lethe.core.errors import FileDamaged
from lethe.core.files import RESTORE

_ANY = "*"  # one name that is data: of a measure, a rate, an attack
_ITEM = "[]"
_CLAIM = "adjacency delta epsilon_pld epsilon_rdp noise sampling unit"
_FIELDS = {
    # `plan` is the plan's own, which the gate compares as a whole.
    "train": f"{_CLAIM} experiment figures figures.delta figures.epsilon_pld figures.epsilon_rdp "
    "figures.noise_multiplier figures.run_id manifest_md5 metrics.*.high metrics.*.low "
    "metrics.*.private metrics.*.value plan.* plan.*.* plan.*.[] run_id",
    "audit": "attack.attempted attack.kind attack.why checks.[].false_alarm_rate checks.[].kind "
    "checks.[].meaning checks.[].name checks.[].passed failed.[] false_alarm_rate measured.run.* "
    "model_md5 not_looked_at.[] passed private run_id",
    "validate": "expectations.[].column expectations.[].name expectations.[].success passed",
}


def unknown_fields(report: Mapping[str, Any], of: str, *, also: Collection[str] = ()) -> list[str]:
    """Names of fields of a stage's report that it may not have, in order.

    Args:
        of: the stage: `train`, `audit` or `validate`.
        also: further fields, dotted; of a training those that its trainer declares.
    """
    allowed = [tuple(each.split(".")) for each in (*_FIELDS[of].split(), *also)]
    found = (path for path in _paths(report) if not any(_is(path, each) for each in allowed))
    return sorted({".".join(str(name)[:40] for name in path if name) for path in found})


def closed(report: Mapping[str, Any], of: str, *, also: Collection[str] = ()) -> Mapping[str, Any]:
    """A stage's report that has no unknown field; see `unknown_fields`.

    Raises:
        FileDamaged: names those that it has.
    """
    if unknown := unknown_fields(report, of, also=also):
        raise FileDamaged(
            f"reports/{of}.json has fields that no report of Lethe has ({', '.join(unknown[:3])}). "
            f"Find out who wrote them. {RESTORE}"
        )
    return report


def _is(path: tuple[str | None, ...], allowed: tuple[str, ...]) -> bool:
    """Whether a path is an allowed one; an empty list or object has none of what could be in it."""
    empty = path[-1:] == (None,)
    names = path[:-1] if empty else path
    alike = all(
        there == name or (name == _ANY and there != _ITEM)
        for there, name in zip(names, allowed, strict=False)
    )
    return alike and (len(names) < len(allowed) if empty else len(names) == len(allowed))


def _paths(value: Any) -> Iterator[tuple[str | None, ...]]:
    """Of everything that stands somewhere the names that lead to it; of what is empty, and None."""
    if isinstance(value, dict | list) and not value:
        yield (None,)
    elif isinstance(value, dict):
        for name, each in value.items():
            for path in _paths(each):
                yield (str(name), *path)
    elif isinstance(value, list):
        for each in value:
            for path in _paths(each):
                yield (_ITEM, *path)
    else:
        yield ()
