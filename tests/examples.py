"""The number of examples and the seed of property-based tests, from the environment."""

import os

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = int(os.environ.get("GATEWAY_TEST_EXAMPLES", "10"))
SEED = int(os.environ.get("GATEWAY_TEST_SEED", "1"))


def load_profile() -> None:
    """Makes `EXAMPLES` the default of all tests, which find the same examples in each run except in CI."""
    settings.register_profile(
        "gateway",
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="CI" not in os.environ,
        print_blob=True,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.differing_executors,
        ],
    )
    settings.load_profile("gateway")
