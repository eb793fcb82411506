"""The stages on a bundle that has its sources: convert, build, verify, score, mend, measure, choose; no torch.

Each does only what is not yet done: what it finds in the manifest with the same key, or proven on this machine, it
keeps.
"""

from torchlift.stages.bench import BenchOptions, bench_component, contenders_of, open_session, workloads
from torchlift.stages.build import build_and_verify, build_variant, verify_all
from torchlift.stages.choose import choose
from torchlift.stages.convert import ConvertOptions, convert_component
from torchlift.stages.culprits import BisectReport, bisect_bundle
from torchlift.stages.jobs import (
    bench_and_choose,
    bench_bundle,
    build_bundle,
    make_variants,
    materials_of,
    no_peers,
    verify_bundle,
)
from torchlift.stages.judging import gate_without_data
from torchlift.stages.layers import layers_of
from torchlift.stages.options import DataOptions, JobOptions
from torchlift.stages.plan import RANKS, BuildOptions, Materials, plan
from torchlift.stages.samples import CalibrationData, train_split
from torchlift.stages.scored import report_bundle, score_bundle, score_predictions

__all__ = [
    "RANKS",
    "BenchOptions",
    "BisectReport",
    "BuildOptions",
    "CalibrationData",
    "ConvertOptions",
    "DataOptions",
    "JobOptions",
    "Materials",
    "bench_and_choose",
    "bench_bundle",
    "bench_component",
    "bisect_bundle",
    "build_and_verify",
    "build_bundle",
    "build_variant",
    "choose",
    "contenders_of",
    "convert_component",
    "gate_without_data",
    "layers_of",
    "make_variants",
    "materials_of",
    "no_peers",
    "open_session",
    "plan",
    "report_bundle",
    "score_bundle",
    "score_predictions",
    "train_split",
    "verify_all",
    "verify_bundle",
    "workloads",
]
