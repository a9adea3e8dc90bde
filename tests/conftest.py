"""Hypothesis without its deadline of 200 ms: a first call may compile or import, and machines are shared."""

from hypothesis import settings

settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")
