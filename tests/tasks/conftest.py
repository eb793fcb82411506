"""What the tests of tasks share."""

from colour_models import classifier, clip, muge, progress  # noqa: F401
