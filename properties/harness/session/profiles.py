"""The profiles of Hypothesis that a run chooses from, and its seed."""

import random
from typing import Any, Dict, Optional

import pytest
from hypothesis import HealthCheck, Phase, settings

COMMON: Dict[str, Any] = {
    "deadline": None,  # first calls import a lot: a deadline makes healthy runs flaky
    "derandomize": False,  # Hypothesis's own default where CI is set: the same examples every night
    "print_blob": True,
    "report_multiple_bugs": False,  # one smallest example says more than several
    "suppress_health_check": [HealthCheck.too_slow],  # shared machines pause
}
PROFILES = ("quick", "default", "ci", "nightly")
ENUMERATED_DEPTH = {"quick": 3, "nightly": 6}  # all others: 4


def register() -> None:
    """Make the profiles known to Hypothesis."""
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    settings.register_profile("quick", max_examples=10, phases=phases, **COMMON)
    settings.register_profile("default", max_examples=60, **COMMON)
    ci = {**COMMON, "derandomize": True, "database": None}
    settings.register_profile("ci", max_examples=60, **ci)
    settings.register_profile("nightly", max_examples=2000, **COMMON)


def chosen(config: pytest.Config) -> str:
    """The profile that ``--hypothesis-profile`` names; raises UsageError for an unknown one."""
    profile = config.getoption("--hypothesis-profile", None) or "default"
    if profile not in PROFILES:
        raise pytest.UsageError(
            f"--hypothesis-profile {profile}: unknown; use one of {', '.join(PROFILES)}"
        )
    return str(profile)


def load(profile: str, database: Any, forced: bool) -> None:
    """Let Hypothesis use a profile, with a database of examples.

    forced: also where the profile is derandomized, and has none.
    """
    if forced or not settings.get_profile(profile).derandomize:
        kept = settings(settings.get_profile(profile), derandomize=False, database=database)
        settings.register_profile(profile, kept)
    settings.load_profile(profile)


def seed(config: pytest.Config, profile: str) -> str:
    """The run's seed: given, shared by the controller, fixed by the profile, or fresh."""
    given = config.getoption("--hypothesis-seed", None)
    if given is not None:
        return str(given)
    shared: Optional[Dict[str, Any]] = getattr(config, "workerinput", None)
    if shared is not None:
        return str(shared["frostproof_seed"])
    if settings.get_profile(profile).derandomize:
        return "0"
    return str(random.SystemRandom().randrange(2**32))
