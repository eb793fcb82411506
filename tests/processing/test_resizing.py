"""imresize: its properties, and numbers worked out by hand."""

import numpy as np
import pytest

from torchlift.processing.resizing import imresize


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_flat_picture_stays_flat(factor):
    assert (imresize(np.full((24, 36, 3), 77, np.uint8), 24 // factor, 36 // factor) == 77).all()


def test_the_same_size_changes_nothing():
    assert (imresize(noise(9, 11), 9, 11) == noise(9, 11)).all()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_mirrored_pictures_give_mirrored_results(factor):
    pixels = noise(24, 36)
    small = imresize(pixels, 24 // factor, 36 // factor)
    turned = imresize(pixels[::-1, ::-1], 24 // factor, 36 // factor)[::-1, ::-1]
    assert np.abs(small.astype(int) - turned).max() <= 1  # a half is rounded up


def test_a_ramp_stays_a_ramp_inside():
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 12, axis=0).repeat(3, axis=2)
    small = imresize(ramp, 12, 60)[6, 4:-4, 0].astype(float)
    assert np.abs(small - (4 * np.arange(4, 56) + 1)).max() <= 1


def test_halving_an_impulse_gives_the_widened_kernel():
    """By two, taps lie at 0.25, 0.75, 1.25, 1.75 of the kernel (a = -0.5), half as high."""
    line = np.zeros((1, 32, 1), np.uint8)
    line[0, 16] = 255
    small = imresize(line, 1, 16)[0, :, 0]
    near = [(1.5 * x - 2.5) * x * x + 1 for x in (0.25, 0.75)]
    expected = np.floor(255 * np.array(near) / 2 + 0.5)
    assert small[8] == expected[0]
    assert small[7] == expected[1]
    assert small[6] == 0  # the kernel is negative there
    assert small.sum() == expected.sum()


def test_edges_are_mirrored():
    """A bright first column counts twice at the edge, as its mirror image does."""
    pixels = np.zeros((8, 16, 1), np.uint8)
    pixels[:, 0] = 200
    mirrored = np.concatenate([pixels[:, ::-1], pixels, pixels[:, ::-1]], axis=1)
    assert (imresize(pixels, 8, 8) == imresize(mirrored, 8, 24)[:, 8:16]).all()


def test_against_pillow_within_its_rounding():
    """Pillow's bicubic has the same kernel, rounds after each side, and does not mirror edges."""
    image = pytest.importorskip("PIL.Image")
    smooth = imresize(noise(6, 6), 60, 90)
    theirs = np.asarray(image.fromarray(smooth).resize((30, 20), image.Resampling.BICUBIC)).astype(int)
    assert np.abs(imresize(smooth, 20, 30).astype(int) - theirs)[3:-3, 3:-3].max() <= 2
