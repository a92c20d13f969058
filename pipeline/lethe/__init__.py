"""Lethe: a machine-learning pipeline that can forget."""

from lethe.core.version import VERSION

__version__ = VERSION
