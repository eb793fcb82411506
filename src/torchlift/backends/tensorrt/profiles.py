"""Which optimisation profile of an engine serves inputs of given sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from torchlift.errors import ProfileError
from torchlift.signature import BATCH, Axis, Profile, Signature

Ranges = tuple[Axis, ...]
"""One profile: a range for each axis of the signature."""


def default_profiles(signature: Signature) -> tuple[Ranges, ...]:
    """One for single samples, where there is a batch axis, and one for the whole ranges: an engine that is tuned for
    one size is slower at others.
    """
    single = tuple(Axis(a.name, a.min, a.min, a.min) if a.name == BATCH else a for a in signature.axes)
    return (signature.axes,) if single == signature.axes else (single, signature.axes)


def covers(profile: Ranges, sizes: Mapping[str, int]) -> bool:
    """Whether every size is within the profile's range."""
    return all(axis.min <= sizes[axis.name] <= axis.max for axis in profile)


def best_profile(profiles: Sequence[Ranges], sizes: Mapping[str, int]) -> int | None:
    """The index of the profile that is tuned for what is nearest to ``sizes``: the least sum of |log(size / opt)|, then
    the narrowest. None where none holds them.
    """
    fitting = [index for index, profile in enumerate(profiles) if covers(profile, sizes)]
    return min(fitting, key=lambda index: (_distance(profiles[index], sizes), _width(profiles[index])), default=None)


def _distance(profile: Ranges, sizes: Mapping[str, int]) -> Fraction:
    """The product of the ratios, whose logarithm is that sum: rounded logarithms would tell equal ones apart."""
    pairs = [(sizes[axis.name], axis.opt) for axis in profile]
    return math.prod((Fraction(max(pair), min(pair)) for pair in pairs), start=Fraction(1))


def _width(profile: Ranges) -> Fraction:
    return math.prod((Fraction(axis.max, axis.min) for axis in profile), start=Fraction(1))


def as_option(ranges: Mapping[str, tuple[int, int, int]], component: str = "") -> str:
    """A profile, by axis, as ``torchlift build`` takes it: of one component, or of all that have the axes."""
    prefix = f"{component}." if component else ""
    return f"--profile {Profile({prefix + axis: ends for axis, ends in ranges.items()})}"


def outside(profiles: Sequence[Ranges], sizes: Mapping[str, int], component: str = "") -> ProfileError:
    """What to say of sizes that no profile of an engine holds, which is of a component where that is known."""
    asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
    held = "; ".join(", ".join(f"{axis.name} {axis.min}..{axis.max}" for axis in profile) for profile in profiles)
    wanted = [{name: (size, size, size) for name, size in sizes.items()}]
    wanted += [{axis.name: (axis.min, axis.opt, axis.max) for axis in profile} for profile in profiles]
    return ProfileError(
        f"no optimisation profile of the engine holds {asked}; it has {held}",
        remedy=f"Build it with one that does, beside those that it has: "
        f"{' '.join(as_option(ranges, component) for ranges in wanted)}.",
    )
