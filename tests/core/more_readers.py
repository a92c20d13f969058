"""Readers of stored files beside those of `test_reading`, which runs all of them."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyroaring import BitMap

from lethe.config.home import IDENTITY
from lethe.config.identity import read_identity
from lethe.config.keys import _decode
from lethe.config.params import Params
from lethe.core.files import json_bytes, parse_json
from lethe.rights.receipts import read_public_key
from lethe.runs.pods.refs import Refs
from lethe.runs.publication import _number as version_of
from lethe.stages.behaviour import FILE as BEHAVIOUR
from lethe.stages.behaviour import _written
from lethe.stores.dvc.content import Unreadable, everybody_in, held_of, texts, without
from lethe.stores.dvc.git import INDEX, LOCK, _locks_of, _read_index
from lethe.stores.dvc.repro import History
from lethe.stores.dvc.worktree import _DVC_TEMPORARY, _running, updated_lock
from lethe.stores.source.compact import MARKS, Marks
from lethe.training.checkpoint import _MAGIC, Checkpoint
from tests.training.test_optimizer import DECLARED, PLAN, STEPS, Updater, model

Read = Callable[[bytes, Path], object]
OPTIMIZER = DECLARED[0]


def on_file(read: Callable[[Path], object], name: str) -> Read:
    def reader(content: bytes, folder: Path) -> object:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return read(folder / name)

    return reader


def in_workspace(read: Callable[[Path], object], name: Path) -> Read:
    """Of a reader that is given the folder in which the file lies at its own place."""
    return lambda content, folder: on_file(lambda _: read(folder), str(name))(content, folder)


class _Noted(Refs):
    """A pods' run of whose commit git gives this message."""

    def __init__(self, message: bytes) -> None:
        self._message = message

    def _ask(self, *words: str, **_: Any) -> bytes:
        return self._message if words[0] == "log" else b"0" * 40


def checkpoint(path: Path) -> object:
    network = model()
    return Checkpoint(path, PLAN, "r").resume(network, Updater(network, OPTIMIZER, STEPS))


@cache
def saved() -> bytes:
    network = model()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "c"
        Checkpoint(path, PLAN, "r").save(
            1, network, Updater(network, OPTIMIZER, STEPS), clip_norm=1.0
        )
        return path.read_bytes()


def inside_checkpoint(content: bytes, folder: Path) -> object:
    """Its digest is of whatever it holds."""
    whole = _MAGIC + hashlib.sha256(content).digest() + content
    return on_file(checkpoint, "c")(whole, folder)


def words_of_checkpoint(content: bytes, folder: Path) -> object:
    sound = saved()[len(_MAGIC) + 32 :]
    tensors = sound[8 + int.from_bytes(sound[:8], "little") :]
    return inside_checkpoint(len(content).to_bytes(8, "little") + content + tensors, folder)


def sound_words() -> bytes:
    sound = saved()[len(_MAGIC) + 32 :]
    return sound[8 : 8 + int.from_bytes(sound[:8], "little")]


def marks(root: Path) -> object:
    read = Marks(root)
    return read.place, read.tables, read.done("x")


def index(root: Path) -> object:
    read = _read_index(root)
    return [made.outs for lock in _locks_of(read) for made in lock.stages] if read else True


def lock_of_pipeline(root: Path) -> object:
    read = History(root)
    return read.out_md5(Path("model")), read.used_md5("train", Path("data/plan.json"))


def object_in_cache(content: bytes, folder: Path) -> object:
    try:
        list(texts(content))
        held_of(content, BitMap(range(100)))
        return everybody_in(content), without(content, BitMap([1]))
    except Unreadable:
        return True  # an erasure reports it and stays open


def public_key() -> bytes:
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"token": [1, 2], "words": ["a", "b"]}), sink)
    return bytes(sink.getvalue().to_pybytes())


LOCKED = (
    b"schema: '2.0'\nstages:\n  train:\n    cmd: lethe train\n    deps:\n"
    b"    - path: data/plan.json\n      md5: ab\n    outs:\n"
    b"    - path: model\n      md5: 0123\n"
)
_SALT = "00" * 16
_OUTCOME = {"store": "source", "result": "erased", "count": 1, "places": [], "reason": None}
_MARKED = {
    "salt": _SALT,
    "tables": ["a"],
    "outcomes": {hashlib.scrypt(b"x", salt=bytes(16), n=2**12, r=8, p=1, dklen=16).hex(): _OUTCOME},
    "place": {"database": "d", "schemas": ["s"], "user": "u"},
}

MORE: dict[str, tuple[Read, bytes]] = {
    "pod run": (
        lambda content, folder: _Noted(content)._read("r"),
        json.dumps({"below": "", "files": ["dvc.lock"], "state": "idle"}).encode(),
    ),
    "checkpoint": (on_file(checkpoint, "c"), saved()),
    "inside a checkpoint": (inside_checkpoint, saved()[len(_MAGIC) + 32 :]),
    "words of a checkpoint": (words_of_checkpoint, sound_words()),
    "behaviour": (
        in_workspace(
            lambda root: _written(cast(Params, type("_", (), {"at": root.__truediv__}))), BEHAVIOUR
        ),
        b'{"train": "0123"}',
    ),
    "marks of the source": (in_workspace(marks, MARKS), json_bytes(_MARKED)),
    "index of locks": (
        in_workspace(index, INDEX),
        b'{"format": 1, "state": "s", "blobs": {"b": [["train", {"model": "0"}, {}]]}, '
        b'"order": [["b", "c"]]}',
    ),
    "running stages of DVC": (
        in_workspace(lambda root: _running(root) or True, _DVC_TEMPORARY / "rwlock"),
        b'{"write": {"a": {"pid": 1}}, "read": {"b": [{"pid": 2}]}}',
    ),
    "identity": (in_workspace(read_identity, Path(IDENTITY)), b"0123456789abcdef" * 2),
    "key": (
        lambda content, folder: _decode(content.decode("ascii", errors="replace"), "it"),
        b"A" * 43,
    ),
    "public key": (on_file(read_public_key, "key.pem"), public_key()),
    "lock of the pipeline": (in_workspace(lock_of_pipeline, LOCK), LOCKED),
    "lock to update": (
        lambda content, folder: updated_lock(
            content.decode("utf-8", errors="replace"), {}, gone={"0123"}, models={"ab"}
        ),
        LOCKED,
    ),
    "object in a cache": (object_in_cache, parquet()),
    "manifest in a cache": (object_in_cache, BitMap(range(9)).serialize()),
    "version of a report": (
        lambda content, folder: version_of(parse_json(content, of="it")) or True,
        b'{"model": "m", "version": "3"}',
    ),
}
