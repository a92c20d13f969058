"""Is what lies in MLflow for a version still what was registered?"""

from lethe.core.errors import RegistrationRefused
from lethe.stores.registry.package import PACKAGE, digest_of
from lethe.stores.registry.process_wide import pointed_at
from lethe.stores.registry.registry import Registry, Version, quiet


def refuse_changed(registry: Registry, version: Version) -> None:
    """Compares all files of a version with the digest that it was registered with.

    A version of an earlier Lethe has none, and passes.

    Raises:
        RegistrationRefused: they are others.
        StoreUnavailable: of the registry, or its artifacts.
    """
    known = version.tags.get(PACKAGE)
    if known is None:
        return
    with quiet(), pointed_at(registry.url):
        kept = registry.client.get_logged_model(version.logged_model)
        found = digest_of(kept.artifact_location, tracking_uri=registry.url)
    if found != known:
        raise RegistrationRefused(
            f"The files of model {version.model}/{version.version} are not those that were "
            "registered. Find out who can write to MLflow's artifacts, then train again: lethe run."
        )
