"""Which optimisation profile serves which sizes."""

from fractions import Fraction
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.backends.tensorrt.profiles import best_profile, covers, default_profiles, outside
from torchlift.errors import ProfileError
from torchlift.signature import Axis, Profile, Signature, TensorSpec

TEXT = Signature(
    (TensorSpec("text", "int64", ("batch", "sequence")),),
    (TensorSpec("y", "float32", ("batch", 8)),),
    (Axis("batch", 1, 8, 64), Axis("sequence", 4, 16, 52)),
)

ranges = st.tuples(*3 * [st.integers(1, 12)]).map(sorted)
profiles = st.lists(st.tuples(ranges, ranges), max_size=5).map(
    lambda found: [(Axis("batch", *batch), Axis("sequence", *sequence)) for batch, sequence in found]
)
sizes = st.fixed_dictionaries({"batch": st.integers(1, 13), "sequence": st.integers(1, 13)})


def ratio(profile, asked):
    """By how much the sizes differ from what the profile is tuned for."""
    return prod(Fraction(max(asked[a.name], a.opt), min(asked[a.name], a.opt)) for a in profile)


def width(profile):
    return prod(Fraction(a.max, a.min) for a in profile)


@given(profiles, sizes)
def test_the_chosen_profile_holds_the_sizes_and_none_that_does_is_nearer_or_as_near_and_narrower(given_, asked):
    holding = [p for p in given_ if all(a.min <= asked[a.name] <= a.max for a in p)]
    index = best_profile(given_, asked)
    assert [p for p in given_ if covers(p, asked)] == holding
    if index is None:
        assert not holding
        return
    chosen = given_[index]
    assert chosen in holding
    for other in holding:
        assert ratio(chosen, asked) <= ratio(other, asked)
        if ratio(chosen, asked) == ratio(other, asked):
            assert width(chosen) <= width(other)


@given(profiles, sizes)
def test_a_profile_that_does_not_hold_the_sizes_changes_nothing(given_, asked):
    holding = [p for p in given_ if covers(p, asked)]
    index, among = best_profile(given_, asked), best_profile(holding, asked)
    assert (index is None) == (among is None)
    if index is not None:
        assert given_[index] == holding[among]


@pytest.mark.parametrize(("batch", "sequence", "index"), [(1, 16, 0), (1, 4, 0), (2, 16, 1), (8, 16, 1), (64, 52, 1)])
def test_single_samples_have_a_profile_of_their_own(batch, sequence, index):
    assert best_profile(default_profiles(TEXT), {"batch": batch, "sequence": sequence}) == index


def test_nearness_is_by_ratio_and_not_by_difference():
    small, large = ((Axis("batch", 1, opt, 64),) for opt in (2, 32))
    assert [best_profile([small, large], {"batch": n}) for n in (1, 7, 8, 9, 64)] == [0, 0, 0, 1, 1]


def test_of_the_equally_near_the_narrowest_serves_and_then_the_first():
    wide, narrow = (Axis("batch", 1, 4, 64),), (Axis("batch", 2, 4, 8),)
    assert best_profile([wide, narrow], {"batch": 3}) == 1
    assert best_profile([narrow, narrow], {"batch": 3}) == 0


def test_the_defaults_are_one_for_single_samples_and_one_for_the_whole_ranges():
    single, whole = default_profiles(TEXT)
    assert single == (Axis("batch", 1, 1, 1), Axis("sequence", 4, 16, 52))
    assert whole == TEXT.axes


@pytest.mark.parametrize("axes", [(Axis("batch", 1, 1, 1),), (Axis("batch", 3, 3, 3),), (Axis("sequence", 4, 16, 52),)])
def test_the_whole_ranges_are_enough_where_the_batch_does_not_vary(axes):
    signature = Signature((TensorSpec("x", "float32", (axes[0].name, 2)),), (), axes)
    assert default_profiles(signature) == (axes,)


def test_without_axes_one_profile_holds_the_one_shape():
    found = default_profiles(Signature((TensorSpec("x", "float32", (1, 2)),), ()))
    assert found == ((),)
    assert best_profile(found, {}) == 0


def test_the_least_batch_need_not_be_one():
    signature = Signature((TensorSpec("x", "float32", ("batch", 2)),), (), (Axis("batch", 2, 4, 8),))
    assert default_profiles(signature)[0] == (Axis("batch", 2, 2, 2),)


def split_profiles(remedy):
    """The words before the profiles, and each profile."""
    said, *options = remedy.removesuffix("`.").split(" `profiles=")
    return said, *(option.removesuffix("`") for option in options)


def test_what_no_profile_holds_is_said_with_what_they_hold_and_how_to_build_one():
    single, whole = default_profiles(TEXT)
    error = outside([single, whole], {"batch": 65, "sequence": 20})
    assert isinstance(error, ProfileError)
    assert error.message == (
        "no optimisation profile of the engine holds batch 65, sequence 20; it has batch 1..1, sequence 4..52; "
        "batch 1..64, sequence 4..52"
    )
    said, *options = split_profiles(error.remedy)
    assert said == "Build it with one that does, beside those that it has:"
    assert [Profile.parse(option).ranges for option in options] == [
        {"batch": (65, 65, 65), "sequence": (20, 20, 20)},
        {"batch": (1, 1, 1), "sequence": (4, 16, 52)},
        {"batch": (1, 8, 64), "sequence": (4, 16, 52)},
    ]


def test_where_the_component_is_known_no_other_gets_its_profiles():
    single, whole = default_profiles(TEXT)
    error = outside([single, whole], {"batch": 65, "sequence": 20}, "text")
    _, *options = split_profiles(error.remedy)
    wider = Signature(TEXT.inputs, TEXT.outputs, (Axis("batch", 1, 8, 128), TEXT.axis("sequence")))
    profiles = [Profile.parse(option) for option in options]
    assert [profile.of("text", wider.axes) for profile in profiles] == [
        (Axis("batch", 65, 65, 65), Axis("sequence", 20, 20, 20)),
        single,
        whole,
    ]
    assert [profile.of("image", wider.axes) for profile in profiles] == [None] * 3
