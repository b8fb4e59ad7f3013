"""Hypothesis for the core: the same examples every time, unless somebody asks for more.

`HYPOTHESIS_PROFILE=deep pytest tests/unit/core` searches longer, and elsewhere each time.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite(
    "tests.unit.core.stories", "tests.unit.core.server_stories", "tests.unit.core.fake_internet"
)
settings.register_profile(
    "steady",
    derandomize=True,
    deadline=None,  # two cores shared with others: a slow example is not a defect
    max_examples=100,
    stateful_step_count=40,
    suppress_health_check=(HealthCheck.too_slow,),
)
settings.register_profile(
    "deep", settings.get_profile("steady"), derandomize=False, max_examples=1000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
