"""Optimisation profiles: the ranges of sizes that an engine is tuned for, and which of them serves given sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from torchlift.errors import ProfileError
from torchlift.signature import BATCH, Axis, Profile, Signature

Ranges = tuple[Axis, ...]
"""One profile: a range for each axis of the signature."""


def default_profiles(signature: Signature) -> tuple[Ranges, ...]:
    """The profiles of an engine where the user names none: batch 1 alone, and the whole ranges.

    A profile that is tuned for large batches is slower for single samples, so these get one of their own. Without a
    batch axis there is one profile.
    """
    single = tuple(Axis(a.name, a.min, a.min, a.min) if a.name == BATCH else a for a in signature.axes)
    return (signature.axes,) if single == signature.axes else (single, signature.axes)


def covers(profile: Ranges, sizes: Mapping[str, int]) -> bool:
    """Whether every size is within the profile's range."""
    return all(axis.min <= sizes[axis.name] <= axis.max for axis in profile)


def best_profile(profiles: Sequence[Ranges], sizes: Mapping[str, int]) -> int | None:
    """The index of the profile that serves ``sizes`` best; None where no profile covers them.

    For example batch 60 goes to a profile with optimum 64 before one with optimum 8. The nearest optimum has the least
    sum of ``|log(size / opt)|`` over the axes. Of equals, the narrowest profile counts.
    """
    fitting = [index for index, profile in enumerate(profiles) if covers(profile, sizes)]
    return min(fitting, key=lambda index: (_distance(profiles[index], sizes), _width(profiles[index])), default=None)


def _distance(profile: Ranges, sizes: Mapping[str, int]) -> Fraction:
    """How far ``sizes`` are from a profile's optimum: the product of max(size, opt) / min(size, opt) over the axes.

    Its logarithm is the sum that :func:`best_profile` names. Fractions are exact; rounded logarithms of equal distances
    might differ.
    """
    pairs = [(sizes[axis.name], axis.opt) for axis in profile]
    return math.prod((Fraction(max(pair), min(pair)) for pair in pairs), start=Fraction(1))


def _width(profile: Ranges) -> Fraction:
    return math.prod((Fraction(axis.max, axis.min) for axis in profile), start=Fraction(1))


def as_option(ranges: Mapping[str, tuple[int, int, int]], component: str = "") -> str:
    """A profile as an option of ``torchlift build``. Without a component, it is for all that have these axes."""
    prefix = f"{component}." if component else ""
    return f"`profiles={Profile({prefix + axis: ends for axis, ends in ranges.items()})}`"


def outside(profiles: Sequence[Ranges], sizes: Mapping[str, int], component: str = "") -> ProfileError:
    """The error for sizes that no profile covers. ``component`` is the engine's, "" where it is not known."""
    asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
    held = "; ".join(", ".join(f"{axis.name} {axis.min}..{axis.max}" for axis in profile) for profile in profiles)
    wanted = [{name: (size, size, size) for name, size in sizes.items()}]
    wanted += [{axis.name: (axis.min, axis.opt, axis.max) for axis in profile} for profile in profiles]
    return ProfileError(
        f"no optimisation profile of the engine holds {asked}; it has {held}",
        remedy=f"Build it with one that does, beside those that it has: "
        f"{' '.join(as_option(ranges, component) for ranges in wanted)}.",
    )
