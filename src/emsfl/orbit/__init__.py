"""Sites, constellations, contact windows and link rates: from a config to a contact plan."""

from emsfl.orbit.build import make_plan
from emsfl.orbit.config import OrbitConfig
from emsfl.orbit.contacts import ElementsWarning, find_windows
from emsfl.orbit.plan import Contact, ContactPlan, ContactStatistics

__all__ = [
    "Contact",
    "ContactPlan",
    "ContactStatistics",
    "ElementsWarning",
    "OrbitConfig",
    "find_windows",
    "make_plan",
]
