"""The jobs: stages put together, one file a command. All but ``ship`` work on a bundle that is there, without torch."""

from torchlift.jobs.bench import bench_and_choose, bench_bundle, no_peers
from torchlift.jobs.bisect import BisectReport, PartingReport, bisect_bundle
from torchlift.jobs.build import (
    build_bundle,
    lost_variants,
    make_variants,
    materials_of,
    pairs_of,
    verify_bundle,
)
from torchlift.jobs.options import DataOptions, JobOptions, gate_without_data
from torchlift.jobs.score import report_bundle, score_bundle, score_predictions

__all__ = [
    "BisectReport",
    "DataOptions",
    "JobOptions",
    "PartingReport",
    "bench_and_choose",
    "bench_bundle",
    "bisect_bundle",
    "build_bundle",
    "gate_without_data",
    "lost_variants",
    "make_variants",
    "materials_of",
    "no_peers",
    "pairs_of",
    "report_bundle",
    "score_bundle",
    "score_predictions",
    "verify_bundle",
]
