"""Published estimators of inductive bias, rebuilt faithfully, flaws included, to compare against.

``boopathy2023`` is the closed-form upper bound; ``boopathy2024`` the sampling estimator with a fitted tail.
"""

from genjax.volume.published import boopathy2023, boopathy2024

__all__ = ["boopathy2023", "boopathy2024"]
