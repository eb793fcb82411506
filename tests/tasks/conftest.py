"""What the tests of tasks share."""

from colours import classifier, clip, muge, progress  # noqa: F401
