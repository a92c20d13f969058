"""What `DpSgd` trains with: declared numbers in, weights and a description out.

The mechanism is `lethe.training.loop`; this reads what is declared for it and packs what
comes out. With `parallel.processes`, or under `torchrun`, it runs over several processes: the
first is the stage's own, the others compute and never see ledger, keys or noise.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pyroaring import BitMap
from safetensors.torch import save

from lethe.config import workspace
from lethe.config.params import Params
from lethe.config.training import Training
from lethe.core.errors import TrainingRefused
from lethe.core.files import read_json
from lethe.data.batches import PersonData, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import shard_paths
from lethe.privacy.plan import Plan
from lethe.training import loop, parallel
from lethe.training.begins import BegunAgain
from lethe.training.description import DESCRIPTION, WEIGHTS, Architecture, Description
from lethe.training.evaluate import predict
from lethe.training.loop import Task, TrainedModel, train
from lethe.training.models import build_model, loss_for, refuse_unrepeatable
from lethe.training.processes import leading, resolve_device
from lethe.training.trainer import Reserved, Session, Shards, Trained
from lethe.training.transcript import Recorder
from lethe.training.wire import Place, device_of, joined

_TRAINING: TypeAdapter[Training] = TypeAdapter(Training)


def fit(shards: Shards, reservation: Reserved, *, plan: Plan, session: Session) -> Trained:
    """See `Trainer.fit`."""
    _refuse_ended(reservation, session)
    others: parallel.Leader | None = session.helpers
    declared, encoder = shards.declared, shards.encoder
    if others:
        settings = _TRAINING.dump_python(declared, mode="json")
        words = {"run_id": reservation.run_id, "training": settings}
        others.begin(words, reservation.admitted)
    with others.together() if others else nullcontext():
        task = task_of(declared, plan, encoder, shards.people, root=session.root)
    if others:
        others.agree(task)
    trained = train(
        task,
        reservation,
        declared.optimizer,
        loop.Execution(
            device=others.device if others else resolve_device(declared.device),
            checkpoint=session.checkpoint,
            progress=session.progress,
            others=others,
            transcript=_recorder(plan, reservation, session),
        ),
    )
    _ended[reservation.run_id] = _places(session)
    described = _described(declared, plan, encoder, reservation.run_id)
    return Trained(
        model={WEIGHTS: _weights(trained), DESCRIPTION: described},
        facts=_facts(plan, shards, trained, processes=others.size if others else 1),
        predicted=predict(trained.model, shards.held_out.features),
    )


_ended: dict[str, tuple[Path, Path | None]] = {}  # runs that this process has trained to their end


def _places(session: Session) -> tuple[Path, Path | None]:
    return session.checkpoint, session.transcript


def _refuse_ended(reservation: Reserved, session: Session) -> None:
    """From its own checkpoint a run is what it was; from another place it would be another one."""
    if _ended.get(reservation.run_id, _places(session)) != _places(session):
        raise BegunAgain(
            f"Run {reservation.run_id} was trained to its end by this process already. Its spend "
            "is settled and nothing was released; the same request again is another charge."
        )


def _recorder(plan: Plan, reservation: Reserved, session: Session) -> Recorder | None:
    if session.transcript is None:
        return None
    return Recorder(
        session.transcript,
        run_id=reservation.run_id,
        plan=plan.digest,
        limit=session.transcript_bytes,
    )


def assists(params: Params) -> bool:
    """Whether this process was started to help another one's training, which is over now."""
    if not Place.here().rank:
        return False
    assist(params.training.device, params.root)
    return True


@contextmanager
def helped(params: Params) -> Iterator[parallel.Leader | None]:
    """The further processes of this training, if it has any."""
    with leading(Place.here(), params) as others:
        yield others


def assist(declared_device: str, root: Path) -> None:
    """One of the further processes of a training, until its leader lets it go.

    Args:
        root: of the workspace, which is the leader's.

    Raises:
        ProcessLost: the leader is gone.
        TrainingRefused: nobody has started this process for that.
    """
    place = Place.here()
    if not place.rank:
        raise TrainingRefused(
            "No leader started this helper process. Run lethe train; it starts the others."
        )
    device = device_of(declared_device, place)

    def make_task(words: Mapping[str, Any], admitted: BitMap) -> Task:
        training = _TRAINING.validate_python(words["training"])
        plan = Plan.from_data(read_json(root / workspace.PLAN))
        encoder = Encoder.from_data(read_json(root / workspace.ENCODING))
        people = person_data(
            shard_paths(root / workspace.SHARDS),
            encoder,
            admitted=admitted,
            records_per_person=plan.records_per_person,
        )
        return task_of(training, plan, encoder, people, root=root)

    with joined(place, device) as wire:
        parallel.assist(wire, make_task, device=device)


def task_of(
    training: Training, plan: Plan, encoder: Encoder, people: PersonData, *, root: Path
) -> Task:
    """What is trained, as each process makes it of what was declared and read.

    Args:
        root: where a module of the user's own lies.
    """
    shape, seed = _architecture(training, encoder), plan.initial_seed
    model = build_model(shape, root=root, seed=seed)
    refuse_unrepeatable(model, shape, root=root, seed=seed)
    return Task(
        plan=plan,
        data=people,
        model=model,
        loss_fn=loss_for(encoder.outputs),
        engine=training.engine,
        classes=encoder.outputs,
        physical_batch=training.physical_batch,
    )


def _architecture(training: Training, encoder: Encoder) -> Architecture:
    return Architecture.of(training, features=len(encoder.names), outputs=encoder.outputs)


def _weights(trained: TrainedModel) -> bytes:
    state = trained.model.state_dict()
    return save({name: t.detach().cpu().contiguous().clone() for name, t in state.items()})


def _described(training: Training, plan: Plan, encoder: Encoder, run_id: str) -> bytes:
    architecture = _architecture(training, encoder)
    return Description(architecture, encoder.classes, encoder, plan.to_data(), run_id).to_bytes()


def _facts(plan: Plan, shards: Shards, trained: TrainedModel, *, processes: int) -> dict[str, Any]:
    return {
        "clip_norm": trained.clips[-1] if trained.clips else plan.clip_norm,
        "device": trained.device,
        "engine": trained.engine,
        "features": len(shards.encoder.names),
        "processes": processes,
        "steps": trained.steps,
    }
