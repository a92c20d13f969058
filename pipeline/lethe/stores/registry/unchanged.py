"""Is what lies in MLflow for a version still what was registered?"""

from lethe.core.errors import RegistrationRefused
from lethe.stores.registry.package import PACKAGE, digest_of
from lethe.stores.registry.process_wide import pointed_at
from lethe.stores.registry.registry import Registry, Version, quiet


def refuse_changed(registry: Registry, version: Version) -> None:
    """Compares all files of a version with the digest that it was registered with.

    One without it cannot be compared. Whoever can change the files may have removed it; a version
    of an earlier Lethe had none, and is none of a training that this one made.

    Raises:
        RegistrationRefused: they are others, or nothing says which they were.
        StoreUnavailable: of the registry, or its artifacts.
    """
    known, name = version.tags.get(PACKAGE), f"{version.model}/{version.version}"
    if known is None:
        raise RegistrationRefused(
            f"Model {name} has no tag {PACKAGE}, so nothing says whether its files are those that "
            "were registered: an earlier version registered it, or somebody removed the tag. Find "
            "out who can write to MLflow, then train again: lethe run --force."
        )
    with quiet(), pointed_at(registry.url):
        kept = registry.client.get_logged_model(version.logged_model)
        found = digest_of(kept.artifact_location, tracking_uri=registry.url, version=name)
    if found != known:
        raise RegistrationRefused(
            f"The files of model {name} are not those that were registered (what Python compiled "
            "beside them counts). Find out who can write to MLflow's artifacts, then train again: "
            "lethe run."
        )
