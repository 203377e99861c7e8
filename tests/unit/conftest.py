"""Properties hold on the same examples everywhere, and however slow the machine is.

A run's verdict is of what is tested: no example is drawn by chance, and none fails because the
machine paused. ``--hypothesis-profile search`` looks for examples that nobody has seen yet.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **PATIENT)
settings.register_profile("search", max_examples=2_000, **PATIENT)
settings.load_profile("same")
