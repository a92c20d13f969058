"""Opening the ledger, the requests and the vault of this workspace, and of no other.

Each carries the workspace's identity (`lethe.config.identity`), in a table beside its own. A
store of another identity is refused, and so is a new one where there was one before: `lethe.id`
is written only once the ledger exists, and the ledger notes that a vault was made.

What is written, in this order, so that an end at any point is only continued by the next command:
the ledger, its identity, `lethe.id`, the vault, its identity, the note in the ledger.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from lethe.config import workspace
from lethe.config.home import IDENTITY
from lethe.config.identity import new_identity, read_identity, write_identity
from lethe.config.keys import load_key
from lethe.config.params import Params
from lethe.core.errors import LedgerInvalid, NotFound, SourceUnavailable, VaultMismatch
from lethe.core.notices import notice
from lethe.core.silence import give_up_when_silent
from lethe.core.waiting import CONNECT_S, PATIENCE_S, waiting
from lethe.ledger.database import open_engine
from lethe.stores.dvc.git import every_lock
from lethe.stores.requests.requests import Requests
from lethe.stores.vault.vault import Vault

if TYPE_CHECKING:
    from lethe.ledger.ledger import Ledger

LEDGER, VAULT = "ledger", "vault"
PEOPLE = "people"  # by which columns the vault knows them: their names' hash, in their order
_LOCK = 0x1E7E1D
_IDENTITIES = sa.Table(
    "workspace_identity",
    sa.MetaData(),
    sa.Column("store", sa.String(16), primary_key=True),
    sa.Column("identity", sa.String(32), nullable=False),
)
_NEW = (
    f"A copy of a workspace uses its stores: point stores.ledger and stores.vault at them (a "
    f"database that both reach), or work in the original. If they are lost, restore their newest "
    f"backup. Only for a workspace that shares nothing with the old one: `lethe key "
    f"--new-identity` writes another {IDENTITY}, and everybody's spend begins anew."
)


def open_ledger(params: Params, *, create: bool = True) -> "Ledger":
    """The workspace's ledger; the first that is opened gives the workspace its identity.

    Args:
        create: without it the ledger is looked at alone, and nothing is written.

    Raises:
        LedgerInvalid: it is another workspace's; or there is none although there was one.
        NotFound: there is none yet, and `create` is false.
        SourceUnavailable: the database does not answer.
    """
    from lethe.ledger.ledger import Ledger  # what charges needs SciPy; to look at requests, none

    _identify(params, create=create)
    return Ledger.open(params.address(params.stores.ledger), create=create)


def open_requests(params: Params) -> Requests:
    """The requests of people, which lie in the ledger's database; see `open_ledger`."""
    _identify(params, create=True)
    return Requests.open(params.address(params.stores.ledger))


def open_vault(params: Params, *, key: bytes | None = None, create: bool = True) -> Vault:
    """The workspace's vault.

    Args:
        key: the master key; by default the one that is declared.
        create: as of `open_ledger`.

    Raises:
        VaultMismatch: it is another workspace's or key's, or knows people by other columns; or
            there is none although there was one.
        KeyInvalid, LedgerInvalid, NotFound, SourceUnavailable: as they say.
    """
    key = load_key(params.stores, params.root) if key is None else key
    url, ledger = params.address(params.stores.vault), params.address(params.stores.ledger)
    identity = _identify(params, create=True) if create else read_identity(params.root)
    try:
        with Vault.open(url, key, create=False):
            pass
    except NotFound:
        if not create:
            raise
        if _carried(ledger, VAULT) or _was_made(params, workspace.SUBJECTS):
            raise VaultMismatch(f"This workspace has a vault, and it is not here. {_NEW}") from None
        with Vault.open(url, key):
            pass
    if create and identity is not None:
        _claim_vault(url, ledger, identity)
    elif identity is not None and _carried(url, VAULT) not in (None, identity):
        raise _foreign_vault()
    vault = Vault.open(url, key, create=False)
    try:
        _refuse_other_key(params, url, vault, create=create)
    except BaseException:
        vault.close()
        raise
    return vault


def _refuse_other_key(params: Params, url: str, vault: Vault, *, create: bool) -> None:
    """People are known by the columns of their key in one order: in another, `("1","2")` would be
    somebody else, who has spent and asked for what is not theirs. Nothing is noted of a key of one
    column.

    Raises:
        VaultMismatch: the vault's people were named otherwise.
    """
    keys = params.subject.keys
    noted = _carried(url, PEOPLE)
    own = None
    if len(keys) > 1:
        own = hashlib.blake2b(json.dumps(keys).encode(), digest_size=16).hexdigest()
        if noted is None and create and not vault.count():
            noted = _claim(url, PEOPLE, own)
        if noted is None and (not vault.count() or _in_memory(url)):
            return
    if noted != own:
        raise VaultMismatch(
            f"subject.key ({params.subject.called}) is not the one by which stores.vault knows its "
            "people: other columns, or in another order. The same values would be somebody else. "
            "Declare the columns and the order of before; where a column has another name now, let "
            "a view give it the old one."
        )


def begin_anew(params: Params) -> None:
    """Gives the workspace another identity, with a ledger and a vault in which nobody is.

    Raises:
        LedgerInvalid, VaultMismatch: there is somebody in what is declared.
    """
    from lethe.ledger.ledger import Ledger

    url, key = params.address(params.stores.ledger), load_key(params.stores, params.root)
    with Ledger.open(url) as ledger, Vault.open(params.address(params.stores.vault), key) as vault:
        if ledger.head()[0]:
            raise LedgerInvalid(
                f"stores.ledger has {ledger.head()[0]} entries: it is a workspace's already. "
                "Declare another place for a new one."
            )
        if vault.count():
            raise VaultMismatch("stores.vault knows people already. Declare another place for it.")
    identity = _claim(url, LEDGER, new_identity())
    write_identity(identity, params.root)
    _claim_vault(params.address(params.stores.vault), url, identity)


def _identify(params: Params, *, create: bool) -> str | None:
    """The identity, once the ledger is known to be this workspace's; None if it has none yet."""
    url, identity = params.address(params.stores.ledger), read_identity(params.root)
    if _in_memory(url):
        return identity
    try:
        open_engine(url, create=False).dispose()
    except NotFound:
        return _begin(params, url, identity, create=create)
    carried = _carried(url, LEDGER)
    if carried is None and identity is not None:
        raise LedgerInvalid(
            f"stores.ledger has no identity, and {IDENTITY} says that this workspace's has one: "
            "it is an older copy, or another's. Restore the newest. If this is the newest that "
            f"is left, remove {IDENTITY}: the ledger is then taken as it is."
        )
    if carried is not None and identity not in (None, carried):
        raise LedgerInvalid(
            f"stores.ledger belongs to another workspace ({carried[:8]}…; this one is "
            f"{(identity or '')[:8]}…). {_NEW}"
        )
    if not create:
        return carried
    if identity is None:
        identity = carried or _adopt(params, url)
        write_identity(identity, params.root)
        notice(f"Wrote {IDENTITY}, which says whose stores these are. Commit it.")
    return identity


def _begin(params: Params, url: str, identity: str | None, *, create: bool) -> str | None:
    """The first ledger of a workspace that never had one."""
    vault = _carried(params.address(params.stores.vault), VAULT)
    known = identity or vault or _was_made(params, workspace.MODEL) or _is_registered(params)
    if known:
        raise LedgerInvalid(
            "This workspace has a ledger, and it is not here: what people spent cannot be known. "
            f"{_NEW}"
        )
    if not create:
        return None
    open_engine(url).dispose()
    identity = _claim(url, LEDGER, new_identity())
    write_identity(identity, params.root)
    notice(f"Wrote {IDENTITY}, which names this workspace. Commit it.")
    return identity


def _adopt(params: Params, url: str) -> str:
    """Gives a ledger of the version before an identity: the vault's, if that one has any."""
    vault = params.address(params.stores.vault)
    return _claim(url, LEDGER, _carried(vault, VAULT) or new_identity())


def _claim_vault(url: str, ledger: str, identity: str) -> None:
    """The vault becomes this workspace's, unless the ledger knows that its own has been made."""
    if _carried(url, VAULT) is None and _carried(ledger, VAULT) is not None:
        raise VaultMismatch(
            "stores.vault has no identity, and this workspace's has one: it is an older copy, or "
            "another's. Restore the newest."
        )
    if _claim(url, VAULT, identity) != identity:
        raise _foreign_vault()
    _claim(ledger, VAULT, identity)


def _foreign_vault() -> VaultMismatch:
    return VaultMismatch(f"stores.vault belongs to another workspace. {_NEW}")


def _was_made(params: Params, output: Path) -> bool:
    """Whether any lock here says that this was made once: then the stores were there, too."""
    here = {params.home, params.root.absolute()}
    return any(made.out(output) for root in here for made in every_lock(root))


def _is_registered(params: Params) -> bool:
    from lethe.stores.registry.registry import (  # MLflow takes seconds to import
        Registry,
        exists,
    )

    url = params.address(params.stores.registry)
    versions = Registry.open(url).versions(params.registration.name) if exists(url) else ()
    return any("ledger_head" in version.tags for version in versions)


# ------------------------------------------------------------------ the table


def _carried(url: str, store: str) -> str | None:
    """The identity that a database has for a store; None if none, or no such database."""
    file = sa.make_url(url).database or ""
    if _in_memory(url) or (url.startswith("sqlite") and not _path(file).is_file()):
        return None
    with _database(url, store) as connection:
        if not sa.inspect(connection).has_table(_IDENTITIES.name):
            return None
        query = sa.select(_IDENTITIES.c.identity).where(_IDENTITIES.c.store == store)
        found: str | None = connection.execute(query).scalar_one_or_none()
        return found


def _claim(url: str, store: str, identity: str) -> str:
    """The store's identity, which is this one unless it has one; who is first decides."""
    if _in_memory(url):
        return identity
    if (carried := _carried(url, store)) is not None:
        return carried
    values = f"VALUES ('{store}', '{identity}') ON CONFLICT DO NOTHING"
    with _database(url, store) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        connection.execute(sa.schema.CreateTable(_IDENTITIES, if_not_exists=True))
        connection.exec_driver_sql(f"INSERT INTO {_IDENTITIES.name} (store, identity) {values}")
    return _carried(url, store) or identity


@contextmanager
def _database(url: str, store: str) -> Iterator[sa.Connection]:
    """One transaction in a database that its own store has opened before."""
    parsed = sa.make_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    waits = {"timeout": PATIENCE_S} if sqlite else {"connect_timeout": CONNECT_S}
    engine = sa.create_engine(
        parsed, hide_parameters=True, poolclass=sa.NullPool, connect_args=waits
    )
    give_up_when_silent(engine, f"the database of stores.{store}")
    try:
        asked = waiting(f"the database of stores.{store}", at_most_s=PATIENCE_S)
        with asked, engine.begin() as connection:
            if not sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'")
            yield connection
    except sa.exc.DBAPIError as error:
        raise SourceUnavailable(
            f"The database of stores.{store} does not answer ({type(error.orig).__name__}). "
            "Check that it runs, and that nothing holds it."
        ) from None


def _in_memory(url: str) -> bool:
    return url.startswith("sqlite") and sa.make_url(url).database in (None, "", ":memory:")


def _path(database: str) -> Path:
    return Path(database.removeprefix("file:"))
