"""Who is in which model, and what a model came from: both ways through the manifests.

A model version names its manifest by md5; the manifest is a bitmap of tokens in DVC's cache;
the vault leads from a subject to a token. Nothing but these three is asked.
"""

from collections.abc import Mapping
from typing import Any

from lethe.core.errors import FileDamaged, NotFound, ParamsInvalid
from lethe.core.files import RESTORE, parse_json
from lethe.core.reading import damage
from lethe.privacy.claim import Claim
from lethe.stores.dvc.lookup import Lookup
from lethe.stores.opened import OpenStores
from lethe.stores.registry.remove import retired_version

_NOBODY = -1  # the vault's answer for who has no token
_ASKED_FOR_NOBODY = 2**32 - 1  # no person's token


def model_lineage(stores: OpenStores, model: str) -> dict[str, Any]:
    """What a model version came from, and what it cost the people in it.

    Args:
        model: `NAME/VERSION`, `NAME@ALIAS`, or `NAME` for its candidate.

    Raises:
        NotFound: there is no such version.
        ParamsInvalid: the words name no version.
    """
    name, version = parse_model(model)
    registry = stores.registry
    try:
        found = registry.find(name, version)
    except NotFound:
        if gone := retired_version(registry, name, version):
            found = gone
        else:
            raise
    tags = found.tags
    claim = _claim(tags)
    return {
        "model": found.model,
        "version": found.version,
        "status": found.status,
        "subjects": _number(tags, "subjects", int),
        "records": _number(tags, "records", int),
        "manifest_md5": tags.get("manifest_md5"),
        "data_md5": tags.get("data_md5"),
        "git_commit": None if tags.get("git_commit") == "none" else tags.get("git_commit"),
        "dvc_lock_md5": tags.get("dvc_lock_md5"),
        "epsilon_pld": claim and claim.epsilon_pld,
        "epsilon_rdp": claim and claim.epsilon_rdp,
        "delta": claim and claim.delta,
        "unit": claim and claim.unit,
        "metrics": parse_json(tags.get("metrics", "{}"), of="The version's tag metrics"),
    }


def subject_lineage(stores: OpenStores, key: str) -> dict[str, Any]:
    """The model versions and dataset versions that a subject is in.

    Who is unknown gets the same answer as who is in nothing, after the same look at every
    manifest, so neither the answer nor its time says whether the person is known.

    Raises:
        NotFound: a manifest is not in this machine's cache; the answer would be incomplete. A
            dataset's that is in no remote either went in an erasure, and is passed over.
        StoreUnavailable: a remote that may have such a manifest does not answer.
    """
    token = int(stores.vault.lookup([key])[0])
    history = Lookup(stores.params.root)  # anew: runs and erasures may have been since
    found = history.find(token if token != _NOBODY else _ASKED_FOR_NOBODY)
    models = []
    registry = stores.find_registry()
    for version in registry.versions() if registry else ():
        md5 = version.tags.get("manifest_md5")
        if md5 is None:  # not of this pipeline: a server's other models name no manifest
            continue
        # One that was rewritten in an erasure is found by the model that it is of.
        manifest = history.manifest(md5) or history.manifest_of(version.tags.get("model_md5"))
        if manifest is None:
            raise NotFound(
                f"Manifest {md5} of {version.model}/{version.version} is not in DVC's cache here. "
                "Fetch it with `dvc pull --all-commits`."
            )
        if token != _NOBODY and token in manifest:
            models.append(
                {"model": version.model, "version": version.version, "status": version.status}
            )
    if fetchable := history.fetchable(found.missing):
        raise NotFound(
            f"{len(fetchable)} manifests are not in DVC's cache here, the first is {fetchable[0]}. "
            "Fetch them with `dvc pull --all-commits`."
        )
    datasets = [
        {"data_md5": each.data_md5, "subjects_md5": each.subjects_md5, "commit": each.commit}
        for each in found.datasets
        if token != _NOBODY
    ]
    return {"models": models, "datasets": datasets}


def parse_model(words: str) -> tuple[str, str]:
    """`NAME/VERSION` → (NAME, VERSION), `NAME@ALIAS` → (NAME, @ALIAS)."""
    if "@" in words:
        name, _, alias = words.partition("@")
        version = f"@{alias}"
    else:
        name, _, version = words.partition("/")
        version = version or "@candidate"
    if not name or version == "@" or not (version.startswith("@") or version.isdigit()):
        raise ParamsInvalid(f"{words!r} names no model version. Write NAME/VERSION or NAME@ALIAS.")
    return name, version


def render_model(found: dict[str, Any]) -> str:
    """`model_lineage` for a reader."""
    lines = [f"{found['model']}/{found['version']} ({found['status']})", ""]
    counted = [found[name] for name in ("subjects", "records")]
    people, records = ("not said" if each is None else f"about {each}" for each in counted)
    lines.append(f"  people     {people}; records {records} (charged)")
    lines.append(
        f"  price      epsilon {_shown(found['epsilon_pld'])} (PLD), "
        f"{_shown(found['epsilon_rdp'])} (RDP) at delta {_shown(found['delta'])}, "
        f"per {found['unit']}"
    )
    lines.append(f"  manifest   {found['manifest_md5']}")
    lines.append(f"  data       {found['data_md5']}")
    lines.append(f"  code       {found['git_commit'] or 'no commit'}")
    lines.append(f"  dvc.lock   {found['dvc_lock_md5']}")
    for name, metric in sorted(found["metrics"].items()):
        mark = "charged" if metric["private"] else "not private"
        ends = [_shown(metric[end]) for end in ("low", "high") if end in metric]
        between = f", 95 % between {' and '.join(ends)}" if ends else ""
        lines.append(f"  {name:<22} {_shown(metric['value'])}{between} ({mark})")
    return "\n".join(lines)


def render_subject(found: dict[str, Any]) -> str:
    """`subject_lineage` for a reader."""
    if not found["models"] and not found["datasets"]:
        return "In no model and no dataset."
    lines = ["Models:"]
    lines += [f"  {m['model']}/{m['version']} ({m['status']})" for m in found["models"]]
    lines += [] if found["models"] else ["  none"]
    lines.append("Datasets:")
    lines += [f"  {d['data_md5']} (first in {d['commit']})" for d in found["datasets"]]
    lines += [] if found["datasets"] else ["  none"]
    return "\n".join(lines)


def _claim(tags: Mapping[str, str]) -> Claim | None:
    """None of a model that Lethe did not make: a server may have others."""
    return Claim.from_data(tags) if "epsilon_pld" in tags and "epsilon_rdp" in tags else None


def _number(tags: Any, name: str, kind: type) -> Any:
    with damage(lambda: FileDamaged(f"The version's tag {name} is no number. {RESTORE}")):
        return kind(tags[name]) if name in tags else None


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
