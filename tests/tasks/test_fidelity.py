"""PSNR, SSIM and Y: numbers worked out by hand, and scikit-image's where it is installed."""

import numpy as np
import pytest

from torchlift.tasks.fidelity import MOST_DB, luma, psnr, ssim


def pictures(height=40, width=50):
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (height, width, 3))
    other = (one + rng.integers(-20, 21, one.shape)).clip(0, 255)
    return one.astype(np.uint8), other.astype(np.uint8)


def test_psnr_of_a_known_error():
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + 1) == pytest.approx(10 * np.log10(255**2))
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black) == MOST_DB


def test_y_of_black_white_and_red():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    assert luma(colours)[0] == pytest.approx([16, 235, 81.481])


def test_ssim_is_one_of_the_same_and_less_of_others():
    one, other = pictures()
    assert ssim(one, one) == pytest.approx(1)
    assert ssim(one, other) == pytest.approx(ssim(other, one))
    assert ssim(one, 255 - one) < 0 < ssim(one, other) < 1


def test_ssim_of_flat_pictures_by_hand():
    dark, light = np.full((11, 11), 100.0), np.full((11, 11), 110.0)
    c = (0.01 * 255) ** 2
    assert ssim(dark, light) == pytest.approx((2 * 100 * 110 + c) / (100**2 + 110**2 + c))


def test_ssim_agrees_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    one, other = pictures()
    theirs, full = metrics.structural_similarity(
        one, other, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2,
        full=True,
    )  # fmt: skip
    assert ssim(one, other) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)
    assert theirs == pytest.approx(ssim(one, other), abs=1e-6)
    assert psnr(one, other) == pytest.approx(metrics.peak_signal_noise_ratio(one, other, data_range=255))
