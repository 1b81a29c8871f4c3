"""Settings for the property tests: how long an example takes says nothing on a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("keystay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("keystay")
