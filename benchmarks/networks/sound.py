"""Networks of sound, as they are written by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from zoo_case import case, f32

SOUND = f32("wave", "batch", "samples")


@case("sound", f32("wave", "batch", 1, "samples"))
class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 8, 1)
        self.gates = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=d) for d in (1, 2, 4, 8))
        self.skips, self.out = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(4)), nn.Conv1d(8, 16, 1)

    def forward(self, wave):
        x, total = self.first(wave), 0
        for gate, skip in zip(self.gates, self.skips, strict=True):
            a, b = gate(F.pad(x, (gate.dilation[0], 0))).chunk(2, 1)
            y = a.tanh() * b.sigmoid()
            total = total + skip(y)
            x = x + y
        return self.out(total.relu())


@case("sound", SOUND)
class MelSpectrogram(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.register_buffer("mel", torch.rand(33, 12))
        self.net = nn.Conv1d(12, 5, 3, padding=1)

    def forward(self, wave):
        wave = F.pad(wave[:, None], (32, 32), mode="reflect")[:, 0]
        frames = wave.unfold(1, 64, 16) * self.window
        power = torch.fft.rfft(frames).abs() ** 2
        return self.net((power @ self.mel).clamp(min=1e-5).log10().transpose(1, 2))


@case("sound", SOUND)
class SpectralMasking(nn.Module):
    """Separates sound: stft, a mask, istft."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.net = nn.Conv1d(33, 33, 3, padding=1)

    def forward(self, wave):
        spectrum = torch.stft(wave, 64, 16, window=self.window, return_complex=True)
        kept = spectrum * self.net(spectrum.abs()).sigmoid()
        return torch.istft(kept, 64, 16, window=self.window, length=wave.shape[-1])


@case("sound", SOUND)
class BandPassSinc(nn.Module):
    """Filters that are computed from two learnt frequencies each."""

    def __init__(self):
        super().__init__()
        self.low, self.width = nn.Parameter(torch.rand(6) * 0.2), nn.Parameter(torch.rand(6) * 0.2 + 0.02)

    def forward(self, wave):
        n = torch.arange(-15.0, 16.0)
        high = self.low + self.width.abs()
        kernels = 2 * high[:, None] * torch.sinc(2 * high[:, None] * n) - 2 * self.low[:, None] * torch.sinc(
            2 * self.low[:, None] * n
        )
        kernels = kernels * torch.hamming_window(31, periodic=False)
        return F.conv1d(wave[:, None], kernels[:, None], stride=4).abs().log1p()


@case("sound", f32("wave", "batch", 1, "samples"))
class ConvolutionalCodec(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv1d(1, 6, 8, stride=4, padding=2)
        self.up = nn.ConvTranspose1d(6, 1, 8, stride=4, padding=2)
        self.codebook = nn.Parameter(torch.randn(16, 6))

    def forward(self, wave):
        z = self.down(wave).transpose(1, 2)
        codes = torch.cdist(z, self.codebook[None]).argmin(-1)
        return codes, self.up(F.embedding(codes, self.codebook).transpose(1, 2))[..., : wave.shape[-1]]
