"""What the table says of the releases of TensorRT, against what their bindings have."""

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from torchlift.backends import CompileOptions, backend
from torchlift.backends.tensorrt.releases import FIRST_WITH, FLAGS, RELEASES, release_of, require_options
from torchlift.errors import BackendError, BackendUnavailableError

# Found in the bindings of 8.5.3, 8.6.1, 10.0 to 10.16 and 11.4, by name: from and before which release they are there.
EVER, NEVER = (0, 0), (99, 0)
BUILDER_FLAGS = {
    "FP16": (EVER, (11, 0)),
    "INT8": (EVER, (11, 0)),
    "VERSION_COMPATIBLE": ((8, 6), NEVER),
    "STRIP_PLAN": ((10, 0), NEVER),
}
PREVIEWS = {
    "FASTER_DYNAMIC_SHAPES_0805": ((8, 5), (10, 0)),
    "PROFILE_SHARING_0806": ((8, 6), (10, 0)),  # by NVIDIA's documentation it is always on from 10
}
SHARED_BY_ITSELF = (10, 0)
STRONGLY_TYPED = (10, 0)
EXPLICIT_BATCH_IS_A_MUST = (8, 5)
SPANS = [*((release, later.since) for release, later in pairwise(RELEASES)), (RELEASES[-1], NEVER)]


def number(version):
    major, minor = version.split(".")
    return int(major), int(minor)


def test_the_table_goes_from_the_oldest_to_the_newest():
    for older, newer in pairwise(RELEASES):
        assert older.since < newer.since
        assert older.opset <= newer.opset
        assert newer.lacks <= older.lacks
        for gained in ("typed", "shared_profiles", "integer_weights"):
            assert getattr(older, gained) <= getattr(newer, gained), gained
        assert newer.explicit_batch <= older.explicit_batch


@pytest.mark.parametrize(
    ("version", "since"),
    [
        ("8.5.3.1", (8, 5)),
        ("8.6.1", (8, 6)),
        ("9.3.0", (8, 6)),
        ("10.0.1", (10, 0)),
        ("10.0.0b6", (10, 0)),
        ("10.13.2.6", (10, 0)),
        ("10.13", (10, 0)),
        ("10.14", (10, 14)),
        ("11.4", (10, 14)),
    ],
)
def test_a_release_is_the_last_that_is_not_later(version, since):
    assert release_of(version).since == since


@pytest.mark.parametrize("version", ["8.4.3.1", "7.2.3.4", "8.0.1"])
def test_a_release_before_the_first_is_refused(version):
    with pytest.raises(BackendUnavailableError, match=f"TensorRT {version} is too old") as caught:
        release_of(version)
    assert caught.value.remedy == "Install 8.5 or later: pip install tensorrt."


def test_the_oldest_is_the_one_that_was_run():
    oldest = release_of("8.5.3.1")
    assert (oldest.opset, oldest.typed, oldest.explicit_batch, oldest.shared_profiles) == (16, False, True, False)
    assert not oldest.integer_weights


def test_what_the_graph_says_is_kept_or_permitted_by_flags_that_the_release_has():
    for release, until in SPANS:
        if release.typed:
            assert release.since >= STRONGLY_TYPED
            continue
        for flag in {flag for flags in FLAGS.values() for flag in flags}:
            first, gone = BUILDER_FLAGS[flag]
            assert first <= release.since, (flag, release.since)
            assert until <= gone, (flag, release.since)
    assert release_of("11.4").typed, "it has no such flags"


def test_networks_of_the_oldest_are_told_that_the_batch_is_explicit():
    assert release_of(".".join(map(str, EXPLICIT_BATCH_IS_A_MUST))).explicit_batch


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: f"{r.since[0]}.{r.since[1]}")
def test_previews_are_those_of_the_release(release):
    until = next(end for found, end in SPANS if found is release)
    for name in release.previews:
        first, gone = PREVIEWS[name]
        assert first <= release.since
        assert until <= gone


def test_profiles_are_shared_only_where_the_release_does_so_or_is_asked_to():
    by_itself = {release.since for release in RELEASES if release.since >= SHARED_BY_ITSELF}
    asked = {release.since for release in RELEASES if "PROFILE_SHARING_0806" in release.previews}
    assert by_itself
    assert asked
    assert {release.since for release in RELEASES if release.shared_profiles} == by_itself | asked


def test_an_option_is_lacking_up_to_the_release_that_is_first_with_it():
    assert {*FIRST_WITH} == {name for release in RELEASES for name in release.lacks}
    assert {*FIRST_WITH} <= {field.name for field in fields(CompileOptions)}
    for name, version in FIRST_WITH.items():
        assert {r.since for r in RELEASES if name in r.lacks} == {
            r.since for r in RELEASES if r.since < number(version)
        }


@pytest.mark.parametrize(("option", "flag"), [("version_compatible", "VERSION_COMPATIBLE"), ("stripped", "STRIP_PLAN")])
def test_an_option_has_a_flag_from_that_release_on(option, flag):
    assert number(FIRST_WITH[option]) == BUILDER_FLAGS[flag][0]


@pytest.mark.parametrize(
    ("version", "option", "said", "first"),
    [
        ("8.5.3.1", "stripped", "stripped", "10.0"),
        ("8.5.3.1", "version_compatible", "version-compatible", "8.6"),
        ("8.5.3.1", "hardware_compatible", "hardware-compatible", "8.6"),
        ("8.6.1", "stripped", "stripped", "10.0"),
    ],
)
def test_what_the_release_has_no_means_for_is_refused(version, option, said, first):
    with pytest.raises(BackendError, match=f"TensorRT {version} builds no {said} engines") as caught:
        require_options(CompileOptions(**{option: True}), version)
    assert caught.value.remedy == f"Leave the option out, or install {first} or later."


@pytest.mark.parametrize("version", ["8.5.3.1", "8.6.1", "10.0.1", "10.14", "11.4"])
def test_without_options_every_release_builds(version):
    require_options(CompileOptions(), version)


@pytest.mark.parametrize("version", ["10.0.1", "11.4"])
def test_the_newer_releases_have_means_for_every_option(version):
    require_options(CompileOptions(version_compatible=True, hardware_compatible=True, stripped=True), version)


def test_libraries_that_would_take_each_other_s_place_are_refused():
    one, two = Path("a/operators.so"), Path("b/operators.so")
    require_options(CompileOptions(plugins=(one, Path("a/others.so"), one)), "8.5.3.1")
    with pytest.raises(BackendError, match=f"libraries {one} and {two} share a name, and both go into one") as caught:
        require_options(CompileOptions(plugins=(one, Path("a/others.so"), two)), "8.5.3.1")
    assert caught.value.remedy == "Rename one of them."


def test_every_recipe_has_its_flags_and_no_other_has():
    assert {*FLAGS} == {*backend("tensorrt").recipes}
    for recipe, flags in FLAGS.items():
        assert {flag.lower() for flag in flags} == {*recipe.split("-")} - {"fp32"}
