"""What every test shares: property tests that try the same examples on every machine, however slow it is."""

from hypothesis import settings

settings.register_profile("cai", deadline=None, derandomize=True, database=None)
settings.load_profile("cai")
