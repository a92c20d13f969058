"""The tags of a version, by the names that they have today."""

from collections.abc import Mapping

RUN_ID = "run_id"  # the ledger's id of the training, one version each
EXPERIMENT = "experiment"  # "true": of an experiment of DVC, which is never offered for use
_RENAMED = {  # as versions up to 0.1.0 were registered
    "K": "records_per_person",
    "epsilon": "epsilon_pld",
    "q": "sample_rate",
    "sigma": "noise_multiplier",
}


def present_names(tags: Mapping[str, str]) -> dict[str, str]:
    """The same tags; those of a version that was registered before are renamed.

    Nothing is lost: where both names are there, both stay. Models that Lethe did not register
    have no `run_id`, and keep their names.
    """
    if RUN_ID not in tags:
        return dict(tags)
    return {
        name if (new := _RENAMED.get(name, name)) in tags else new: value
        for name, value in tags.items()
    }
