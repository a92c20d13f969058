"""`lethe.Workspace`: one workspace from a program, wherever that was started.

Everything is resolved from the workspace's own folder (`Params.root`), so that several can be
open at once.
"""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.config import workspace as places
from lethe.config.params import OWN_COLUMNS, load_params
from lethe.core.errors import ParamsInvalid
from lethe.stores.opened import OpenStores

if TYPE_CHECKING:  # each is imported by who asks for it: MLflow alone takes seconds
    import pandas as pd

    from lethe.data.batches import PersonData
    from lethe.ledger.ledger import Reservation
    from lethe.privacy.plan import Plan
    from lethe.stores.dvc.repro import StageEvent


class Workspace(OpenStores):
    """A folder with `params.yaml`, and the stores that it declares.

    Each store is opened when it is first asked for, once, and closed by `close()` or at the end of
    `with`. Nothing depends on the working directory, and several workspaces may be open.

    >>> import lethe
    >>> with lethe.Workspace(path) as workspace:
    ...     workspace.params.purpose
    'readmission_model'

    Args:
        path: the folder.

    Raises:
        LetheError: there is no `params.yaml`, or it is not sound.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(load_params(Path(path) / "params.yaml"))

    def shards(self) -> "pd.DataFrame":
        """The training records of everybody who agreed, held-out people included.

        >>> with lethe.Workspace(path) as workspace:
        ...     frame = workspace.shards()
        >>> sorted({"token", "held_out", "rank"} & set(frame.columns))
        ['held_out', 'rank', 'token']

        Guarantees: no key and no identifier of a person is in it, only a random token; the bytes
            are those that `dvc.lock` names. It is still personal data: do not keep copies.

        Returns:
            A row a record: `token` (uint32), `rank` (0 is the latest), `held_out` (bool), and a
            column for each that is declared and taken.

        Raises:
            LetheError: the pipeline has not run up to `pseudonymize`, or a file was changed.
        """
        import pandas as pd

        from lethe.data.shards import shard_paths
        from lethe.stores.dvc.inputs import verify_inputs

        paths = shard_paths(self._params.at(places.SHARDS))
        verify_inputs(self._params.root, "validate")
        own = sorted(OWN_COLUMNS - {"subject"})
        columns = [*own, *self._params.taken_columns()]
        frames = [pd.read_parquet(each, columns=columns) for each in paths]
        return pd.concat(frames, ignore_index=True)

    def lineage(self, *, model: str | None = None, subject: str | None = None) -> dict[str, Any]:
        """What a model was made from, or which models and data sets a person is in.

        >>> with lethe.Workspace(path) as workspace:
        ...     found = workspace.lineage(model="readmission/1")
        >>> found["status"], found["unit"]
        ('ready', 'person')

        Args:
            model: `NAME/VERSION`, `NAME@ALIAS`, or `NAME` for its candidate.
            subject: a person's key in the source; who is unknown is in nothing.

        Raises:
            LetheError: there is no such version, or both or neither are given.
        """
        from lethe.people import lineage as answers
        from lethe.stores.source.find_people import key_meant

        if (model is None) == (subject is None):
            raise ParamsInvalid("Give either model or subject.")
        if model is not None:
            return answers.model_lineage(self, model)
        return answers.subject_lineage(self, key_meant(self.params, str(subject)))

    def budget(self, *, subject: str | None = None) -> dict[str, Any]:
        """What people have spent, have left, and what the next run would cost; changes nothing.

        >>> with lethe.Workspace(path) as workspace:
        ...     spent = workspace.budget()
        >>> spent["budget_epsilon"], spent["unit"]
        (4.0, 'person')

        Args:
            subject: of one person, by key in the source; else of everybody, in classes.

        Returns:
            What `lethe budget --json` prints.

        Raises:
            LetheError: the ledger is damaged, another workspace's, or was rolled back.
        """
        from lethe.registration.spending import spending
        from lethe.stores.source.find_people import key_meant

        return spending(self, key=None if subject is None else key_meant(self.params, subject))

    def run(
        self,
        *,
        force: bool = False,
        report: "Callable[[StageEvent], object] | None" = None,
    ) -> dict[str, Any]:
        """Runs what changed of the pipeline, as `lethe run` does; it may charge everybody.

        >>> with lethe.Workspace(path) as workspace:  # nothing changed: nothing is trained
        ...     workspace.run()["model"]
        'readmission'

        Args:
            force: train even where nothing changed, which is charged again.
            report: is given what becomes of each stage, as it does.

        Returns:
            The report of `register`: `model`, `version`, `aliases`, `status`, `reasons`, `run_id`.

        Raises:
            LetheError: a stage failed; with its message and `exit_code`.
        """
        from lethe.core.files import read_json
        from lethe.runs.worktree import runner_in
        from lethe.stages import behaviour

        behaviour.refuse_changed(self._params)
        runner = runner_in(self._params.root)
        runner.run(force=force, report=report or (lambda event: None))
        return read_json(self._params.at(places.report_path("register")))

    def plan(self) -> "Plan":
        """The plan of what `training.mechanism` declares; see `lethe.Plan`.

        >>> with lethe.Workspace(path) as workspace:
        ...     workspace.plan().records_per_person
        4

        Raises:
            LetheError: no noise reaches the declared epsilon.
        """
        from lethe.privacy.planning import plan_from

        return plan_from(self._params)

    def reserve(self, plan: "Plan", *, request: str) -> "Reservation":
        """Charges a plan to everybody who may train; the only way to `lethe.train` on them.

        >>> with lethe.Workspace(path) as workspace:
        ...     plan = workspace.plan()
        ...     workspace.reserve(plan, request="example").resumed
        False

        Guarantees: held-out people are left out and not charged; nothing is reserved while
            somebody in the shards has withdrawn or was erased, while the data has not passed
            validation, or on a ledger that was rolled back.

        Args:
            request: a name of your own. The same name again is the same reservation, not another
                charge; once it was trained on, it is of no more use.

        Returns:
            `run_id`; `admitted`, the tokens of who may be used; `left_out`, how many may not.

        Raises:
            LetheError: `BudgetExceeded` above all; nothing was charged then.
        """
        from lethe.data.shards import eligible_people, shard_paths
        from lethe.ledger.admission import check_subjects
        from lethe.registration.rollback import refuse_rolled_back
        from lethe.sweep.run import refuse_unsound

        now = dt.datetime.now(dt.UTC)
        release = plan.release(eligible_people(shard_paths(self._params.at(places.SHARDS))))
        check_subjects(release, minimum=self._params.subject.minimum)
        refuse_unsound(self._params, now)
        refuse_rolled_back(self._params, self.ledger, self.find_registry())
        return self.ledger.reserve(
            release, budget=self._params.budget, request=f"notebook {request}", now=now
        )

    def people(self, plan: "Plan", reservation: "Reservation") -> "PersonData":
        """The admitted people of a reservation, as tensors for `lethe.train`.

        >>> with lethe.Workspace(path) as workspace:
        ...     plan = workspace.plan()
        ...     reservation = workspace.reserve(plan, request="a look")
        ...     data = workspace.people(plan, reservation)
        >>> len(data) == len(reservation.admitted)
        True

        Returns:
            Features float32 [people, K, features], mask bool [people, K], labels [people, K] and
            tokens uint32 [people]; K is the plan's `records_per_person`.

        Raises:
            LetheError: somebody who is admitted is in no shard, or a file was changed.
        """
        from lethe.data.batches import person_data
        from lethe.data.encoding import Encoder
        from lethe.data.shards import shard_paths
        from lethe.stores.dvc.inputs import verify_inputs

        verify_inputs(self._params.root, "validate")
        return person_data(
            shard_paths(self._params.at(places.SHARDS)),
            Encoder.from_params(self._params),
            admitted=reservation.admitted,
            records_per_person=plan.records_per_person,
        )


def audit(workspace: Workspace) -> dict[str, Any]:
    """Attacks the workspace's model and its mechanism, as the stage `audit` does; writes nothing.

    >>> with lethe.Workspace(path) as workspace:
    ...     report = lethe.audit(workspace)
    >>> report["passed"], report["failed"]
    (True, [])

    Guarantees: charges nothing and draws no noise that is released. What it measures on people
        (`attack`) is not private, and not for release.

    Returns:
        `passed`; `checks`, each with `name`, `value`, `limit`, `passed` and `meaning`; `failed`,
        their names; `false_alarm_rate` of all together; `attack`, what the membership attack saw.

    Raises:
        LetheError: the pipeline has not run up to `train`, or a file was changed.
    """
    from lethe.attacks.audit import audit as attacked
    from lethe.stages.audit import load_target
    from lethe.stores.dvc.inputs import verify_inputs

    verify_inputs(workspace.params.root, "audit")
    return attacked(load_target(workspace.params, workspace.ledger)).report
