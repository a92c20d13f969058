"""`lethe key`, `rotate-key` and `reveal`: the keys, and what they open."""

from pathlib import Path
from typing import Annotated

import typer

from lethe.cli.terminal import PARAMS, ParamsFile, now, say
from lethe.config.params import Params, load_params
from lethe.core.errors import ParamsInvalid, SourceUnavailable
from lethe.core.files import write_whole


def key(
    params_file: ParamsFile = PARAMS,
    new_identity: Annotated[
        bool,
        typer.Option(
            "--new-identity",
            help="Begin a workspace of its own, with a new ledger: everybody's spend begins anew.",
        ),
    ] = False,
) -> None:
    """Create the key files (0600): the vault's, and the one that signs receipts of erasures."""
    from lethe.config.home import IDENTITY
    from lethe.config.keys import create_key_file, read_key_file, receipt_key_file
    from lethe.rights.receipt_files import PUBLIC_KEY
    from lethe.rights.receipts import Signer
    from lethe.stores.opening import begin_anew

    params = load_params(params_file)
    path = params.at_home(Path(params.stores.key_file))
    receipts = receipt_key_file(params.stores, params.root)
    if path.exists():
        say(f"{path} exists; kept.")
    else:
        create_key_file(path)
        say(f"Created {path}. Keep a copy apart from the data: without it no token leads anywhere.")
    if not receipts.exists():
        create_key_file(receipts)
        public = receipts.with_name(PUBLIC_KEY)
        write_whole(public, Signer(read_key_file(receipts)).public_pem)
        say(f"Created {receipts}, and {public} to check receipts with: give that to anybody.")
    if new_identity:
        begin_anew(params)
        say(f"Wrote a new {IDENTITY}: nobody has been charged in this workspace. Commit it.")
    _identify(params)


def _identify(params: Params) -> None:
    """Makes the ledger and the vault, and what says whose they are, while somebody looks on."""
    from lethe.config.home import IDENTITY
    from lethe.stores.opening import open_vault

    try:
        with open_vault(params):
            pass
    except (ParamsInvalid, SourceUnavailable) as error:
        say(f"{IDENTITY}, which names the workspace, is left to the first run: {error}")


def reveal(
    token: Annotated[int | None, typer.Argument(help="The token.")] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why; it is logged before the answer is given.")
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="Instead: who has asked so far, and why.")
    ] = False,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Say which subject a token stands for; the question is logged in the vault.

    The log is a chain: an entry that was changed or removed is noticed. When a person is erased,
    their token and the reason leave it, and who asked when stays.
    """
    from lethe.stores.opening import open_vault

    if log == (token is not None) or (reason is None) != log:
        raise typer.BadParameter("Give either a TOKEN with --reason, or --log alone.")
    params = load_params(params_file)
    with open_vault(params, create=False) as vault:
        if token is not None and reason is not None:
            say(vault.reveal(token, reason=reason, who=_operator(), now=now()))
            return
        for each in vault.reveals():
            about = "erased" if each["token"] is None else f"{each['token']}  {each['reason']}"
            line = f"{each['at']}  {each['who']}  {about}"
            say("".join(letter if letter.isprintable() else "?" for letter in line))


def rotate_key(
    new_key_file: Annotated[Path, typer.Option(help="Where the new key goes (0600).")],
    params_file: ParamsFile = PARAMS,
) -> None:
    """Re-encrypt the vault under a new key; the old one opens nothing afterwards."""
    from lethe.config.keys import create_key_file, load_key, read_key_file
    from lethe.stores.opening import open_vault

    params = load_params(params_file)
    old = load_key(params.stores, params.root)
    if not new_key_file.exists():
        create_key_file(new_key_file)
    with open_vault(params, key=old, create=False) as vault:
        vault.rotate(read_key_file(new_key_file))
    say(
        f"The vault now opens with {new_key_file} only. Put it at {params.stores.key_file} (or in "
        "$LETHE_KEY) and destroy the old one."
    )


def _operator() -> str:
    """Who runs this, as the system knows it: an environment variable may say anything."""
    import os
    import pwd

    number = os.getuid()
    try:
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    except KeyError:  # a container may have no name for it
        return f"uid {number}"
