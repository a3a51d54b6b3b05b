"""Root of the test session: the testkit's fixtures serve every `tests` folder."""

pytest_plugins = ["slipway_testkit.plugin", "slipway_testkit.parallel"]
