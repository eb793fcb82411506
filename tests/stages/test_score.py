"""What variants score against the reference, what of it is kept, and where it holds."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from colour_models import sessions
from staged import DATA, component_of

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.datasets import ReadOptions
from torchlift.errors import InputError
from torchlift.evidence import Gate, Measure, Score
from torchlift.jobs import score_bundle
from torchlift.jobs.peers import reference
from torchlift.jobs.source import Source
from torchlift.machine import RunOn
from torchlift.prove.verify import provenance
from torchlift.stages import build_variant, verify_all
from torchlift.stages.score import Scorer, record_together, score_component, score_here, score_variant
from torchlift.tasks import Metric, open_task
from torchlift.tasks.base import ANSWER

FP32 = "model/onnxruntime/fp32"
GRAPH = "source"


class Wrong(Session):
    """Takes every picture of colour 0 for one of colour 1, and knows all others."""

    def __init__(self, session):
        super().__init__(session.signature, "wrong")
        self.session = session

    def _run(self, feeds):
        logits = self.session.run(feeds)["logits"]
        logits[:, 1] = np.maximum(logits[:, 1], logits[:, 0] + 1)
        return {"logits": logits}

    def _prepare(self, feeds):
        raise NotImplementedError


@pytest.fixture(scope="module")
def proven_colours(exported, tmp_path_factory):
    bundle = Bundle.open(shutil.copytree(exported("build"), tmp_path_factory.mktemp("scored") / "bundle"))
    build_variant(bundle, component_of(bundle), "onnxruntime")
    verify_all(bundle, bundle.manifest.variants)
    return bundle


@pytest.fixture
def bundle(proven_colours, tmp_path):
    """The classifier with a proven variant in FP32."""
    return Bundle.open(shutil.copytree(proven_colours.path, tmp_path / "bundle"))


@pytest.fixture
def pytorch(exported):
    """Opens PyTorch itself."""
    source = Source("module", f"{exported('build').parent / 'colours.py'}:build")
    return lambda component: reference(source, RunOn(1), component)


def task_of(bundle, pictures, **read):
    return open_task(bundle, pictures, ReadOptions(**{"split": "val", **read}))


def scored(bundle, pictures, references=None, **read):
    """A scorer that scored all that is proven."""
    scorer = Scorer(bundle, task_of(bundle, pictures, **read), references)
    score_component(scorer, component_of(bundle))
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    return scorer


def test_where_pytorch_is_at_hand_drops_are_against_it(bundle, pictures, pytorch):
    scored(bundle, pictures, pytorch)
    scoring = bundle.manifest.scoring
    assert (scoring.task, scoring.primary, scoring.reference) == ("classification", "top1", "pytorch")
    assert scoring.data.samples == {"images": 96, "classes": 8}
    found = scoring.scores[FP32]
    assert scoring.metrics["top1"].value > 95
    assert found.metrics == scoring.metrics
    assert (found.drops["top1"].low, found.drops["top1"].value, found.drops["top1"].high) == (0, 0, 0)


def test_without_pytorch_the_fp32_graph_is_the_reference(bundle, pictures):
    scored(bundle, pictures)
    assert bundle.manifest.scoring.reference == GRAPH


def test_what_pytorch_answered_is_kept_for_where_it_is_not(bundle, pictures, pytorch):
    scored(bundle, pictures, lambda component: Wrong(pytorch(component)))
    before = bundle.manifest.scoring
    assert before.metrics["top1"].value < 90
    assert before.scores[FP32].drops["top1"].value < -5, "it is better than this reference"
    later = Scorer(Bundle.open(bundle.path), task_of(bundle, pictures))
    assert later.reference == "pytorch"
    assert later.begin() == before
    again = score_variant(later, bundle.manifest.variant(FP32), again=True)
    assert again.drops == before.scores[FP32].drops


@pytest.mark.parametrize("read", [{"split": "train"}, {"limit": 16}], ids=["another split", "fewer"])
def test_what_pytorch_answered_on_other_data_is_not_taken(bundle, pictures, pytorch, read):
    scored(bundle, pictures, lambda component: Wrong(pytorch(component)))
    old = bundle.manifest.scoring
    scored(bundle, pictures, **read)
    new = bundle.manifest.scoring
    assert new.reference == GRAPH
    assert new.data.fingerprint != old.data.fingerprint
    assert new.metrics["top1"].value > 95
    assert new.scores[FP32].drops["top1"].value == 0
    assert new.together is None


def test_the_same_pictures_elsewhere_are_the_same_data(bundle, pictures, pytorch, tmp_path):
    scored(bundle, pictures, lambda component: Wrong(pytorch(component)))
    copy = shutil.copytree(pictures, tmp_path / "moved")
    assert Scorer(bundle, task_of(bundle, copy)).reference == "pytorch"
    (copy / "val" / "colour0" / "0.png").write_bytes((copy / "val" / "colour1" / "0.png").read_bytes())
    assert Scorer(bundle, task_of(bundle, copy)).reference == GRAPH


def test_pytorch_at_hand_is_asked_though_answers_are_kept(bundle, pictures, pytorch):
    scored(bundle, pictures)
    scored(bundle, pictures, lambda component: Wrong(pytorch(component)))
    assert bundle.manifest.scoring.reference == "pytorch"
    assert bundle.manifest.scoring.metrics["top1"].value < 90


def test_what_was_scored_here_is_not_scored_again_unless_asked(bundle, pictures, monkeypatch):
    scorer = scored(bundle, pictures)
    before = bundle.manifest.scoring
    asked = []
    answers_of = Scorer.answers_of
    monkeypatch.setattr(
        Scorer, "answers_of", lambda self, variant: asked.append(variant.name) or answers_of(self, variant)
    )
    score_component(scorer, component_of(bundle))
    assert (asked, bundle.manifest.scoring) == ([], before)
    score_component(scorer, component_of(bundle), again=True)
    assert asked == [FP32]


def test_only_what_is_proven_is_scored(bundle, pictures):
    bundle.commit(bundle.manifest.with_variant(replace(bundle.manifest.variant(FP32), verification=None)))
    scorer = Scorer(bundle, task_of(bundle, pictures))
    score_component(scorer, component_of(bundle))
    assert bundle.manifest.scoring is None


def test_a_score_does_not_hold_for_a_variant_that_was_built_anew(bundle, pictures):
    scored(bundle, pictures)
    variant = bundle.manifest.variant(FP32)
    assert score_here(bundle, variant) == bundle.manifest.scoring.scores[FP32]
    files = dict(bundle.manifest.files)
    path = variant.files[0]
    files[path] = replace(files[path], sha256="of another build")
    assert score_here(Bundle(bundle.path, replace(bundle.manifest, files=files)), variant) is None
    assert score_here(bundle, replace(variant, failure="no such operator")) is None


def test_at_another_confidence_all_is_scored_again_and_the_old_score_is_not_believed(bundle, pictures, pytorch):
    scored(bundle, pictures, pytorch)
    before, variant = bundle.manifest.scoring, bundle.manifest.variant(FP32)
    record_together(Scorer(bundle, task_of(bundle, pictures)), {"model": variant})
    bundle.commit(replace(bundle.manifest, gate=Gate({"top1": 2.0}, confidence=80.0)))
    assert score_here(bundle, variant) is None
    scorer = Scorer(bundle, task_of(bundle, pictures))
    begun = scorer.begin()
    assert (begun.scores, begun.together, begun.answers) == ({}, None, before.answers)
    assert {x.confidence for x in begun.metrics.values()} == {80.0}
    assert begun.metrics["top1"].value == before.metrics["top1"].value
    found = score_variant(scorer, variant)
    assert found.at(80.0)
    assert score_here(bundle, variant) == found
    assert Bundle.open(bundle.path).manifest.scoring.scores == {FP32: found}


def test_a_scoring_says_the_unit_of_its_metrics_and_which_values_are_better(bundle, pictures, pytorch):
    scored(bundle, pictures, pytorch)
    scoring = bundle.manifest.scoring
    assert scoring.measures == dict.fromkeys(scoring.metrics, Measure("points", "higher"))


class Noisy:
    """A task of a metric in dB of which lower is better, and of one that is no mean."""

    name = "depth"
    primary = "noise"
    components = ("model",)
    measures = (Metric("noise", unit="dB", better="lower"), Metric("largest", unit="dB", better="lower", whole=np.max))
    data = DATA

    def outcomes(self, answers):
        noise = answers["model"][ANSWER][:, 0].astype(np.float64)
        return {"noise": noise, "largest": noise}

    def likeness(self, answers, reference):
        return {}

    def by_class(self, answers):
        return {}


def test_a_drop_of_a_metric_of_which_lower_is_better_is_by_how_much_it_rises(bundle, monkeypatch):
    monkeypatch.setattr(Scorer, "answers", lambda *_: {ANSWER: np.zeros((3, 1), np.float32)})
    scorer = Scorer(bundle, Noisy())
    worse = {ANSWER: np.array([[0.5], [1.0], [1.5]], np.float32)}
    assert scorer.drop("model", worse, "noise").value == 1.0
    assert scorer.drop("model", worse, "largest").value == 1.5
    assert scorer.scoring().measures["noise"] == Measure("dB", "lower")
    drop = scorer.drop("model", worse, "noise")
    lossy = Score(provenance(bundle, bundle.manifest.variant(FP32)), {}, {"noise": drop})
    breach = Gate({"noise": 0.9}).breach(lossy, scorer.scoring().measures)
    assert (breach.bound, breach.measure) == (1.0, Measure("dB", "lower"))
    assert Gate({"noise": 1.0}).breach(lossy, scorer.scoring().measures) is None
    assert Gate({"noise": 1.0}, confidence=95.0).breach(lossy, scorer.scoring().measures).bound == drop.high


def test_the_chosen_are_scored_together(bundle, pictures):
    scorer = scored(bundle, pictures)
    variant = bundle.manifest.variant(FP32)
    together = record_together(scorer, {"model": variant})
    assert Bundle.open(bundle.path).manifest.scoring.together == together
    assert together.metrics == bundle.manifest.scoring.scores[FP32].metrics
    assert {*together.provenance.files} == {
        *variant.files,
        component_of(bundle).goldens,
        component_of(bundle).goldens.replace("goldens.", "stress."),
    }


def test_a_component_alone_is_scored_with_the_reference_for_the_others(clip_without_graphs, muge):
    task = open_task(clip_without_graphs, muge)
    scorer = Scorer(clip_without_graphs, task, lambda component: sessions()[component])
    assert scorer.reference == "pytorch"
    blind = sessions(image=lambda pixels: np.ones((len(pixels), 3)))["image"]
    answers = scorer.answers("image", blind)
    assert scorer.drop("image", answers, task.primary).value > 50
    good = scorer.answers("text", sessions()["text"])
    assert scorer.drop("text", good, task.primary).value == 0
    assert scorer.distance("text", good) == pytest.approx(0, abs=1e-6)
    assert scorer.distance("image", answers) > 0.1


def test_a_bundle_is_scored_where_it_was_not_measured(bundle, pictures, job):
    manifest = score_bundle(bundle.path, job(gate=Gate({"top1": 2.0})))
    assert manifest.scoring.scores.keys() == {FP32}
    assert manifest.choices == {}
    assert manifest.gate == Gate({"top1": 2.0})


def test_scoring_needs_data(bundle, job):
    with pytest.raises(InputError, match="no data to score on") as caught:
        score_bundle(bundle.path, job(data=False))
    assert "`data=`" in caught.value.remedy


def test_answers_are_written_for_tasks_that_have_files_of_their_own(bundle, pictures, job, tmp_path):
    with pytest.raises(InputError, match="classification has no files of its own"):
        score_bundle(bundle.path, job(), write=tmp_path / "out")
    assert not (tmp_path / "out").exists()
