"""The stages on a bundle that has its sources: convert, build, verify, score, repair, bench, choose; no torch.

Each does only what is not yet done. What it finds in the manifest with the same key, or proven on this machine, it
keeps.
"""

from torchlift.stages.bench import BenchOptions, bench_component, contenders_of, workloads
from torchlift.stages.build import build_and_verify, build_variant, verify_all
from torchlift.stages.choose import choose, choose_all
from torchlift.stages.convert import ConvertOptions, convert_component
from torchlift.stages.layers import layers_of
from torchlift.stages.plan import RANKS, BuildOptions, Materials, plan
from torchlift.stages.samples import train_split

__all__ = [
    "RANKS",
    "BenchOptions",
    "BuildOptions",
    "ConvertOptions",
    "Materials",
    "bench_component",
    "build_and_verify",
    "build_variant",
    "choose",
    "choose_all",
    "contenders_of",
    "convert_component",
    "layers_of",
    "plan",
    "train_split",
    "verify_all",
    "workloads",
]
