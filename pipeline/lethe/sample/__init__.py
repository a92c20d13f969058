"""The demonstration source: a clinic whose people are invented."""

from lethe.sample.clinic import SampleSummary, build_clinic
from lethe.sample.diabetes import download_diabetes

__all__ = ["SampleSummary", "build_clinic", "download_diabetes"]
