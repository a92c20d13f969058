"""The demonstration source: a clinic whose people are invented."""

from pipeline.sample.clinic import SampleSummary, build_clinic
from pipeline.sample.diabetes import download_diabetes

__all__ = ["SampleSummary", "build_clinic", "download_diabetes"]
