"""Questions about texts: exact match and F1 of the answers, as SQuAD's evaluation scripts compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from torchlift.backends import Session
from torchlift.datasets import SquadData
from torchlift.datasets.squad import read_answers, write_answers
from torchlift.manifest import Manifest
from torchlift.pipelines.question_answering import answering
from torchlift.pipelines.run import Batching, Loader, run_each
from torchlift.processing.spans import FoundSpans, SpanSearch
from torchlift.progress import Progress, Stage
from torchlift.tasks.base import Answers, Metric, Misfit, Task
from torchlift.tasks.samples import Asked, facts, usable_questions

PREDICTIONS, NONE_ODDS = "predictions.json", "null_odds.json"
"""What files are called as the scripts read them: the answer by id, and how much likelier it is that there is none."""

NAMED = 5
"""How many questions without a prediction are named."""


class SquadTask(Task):
    """em: the share of questions whose answer is a right one, but for case, punctuation and articles. f1: the mean over
    the questions of the F1 of the words of the answer and of the right one that is most like it.

    Where contexts may have no answer, ``has_ans_em`` and ``has_ans_f1`` are of the questions that have one, and
    ``no_ans_em`` of those that have none: of them the empty answer alone is right. The answers are a span for each
    question, and the logits of it.
    """

    name: ClassVar[str] = "squad"
    primary = "f1"
    reads: ClassVar[type] = SquadData
    has_files: ClassVar[bool] = True

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models that take questions and answer with a span."""
        if answering(manifest):
            return None
        return Misfit(
            "questions about texts, and the model does not answer them with a span",
            "Declare QuestionInput for its ids and Span for where answers begin.",
        )

    @classmethod
    def open(cls, asked: Asked, data: SquadData, progress: Progress) -> SquadTask:
        """Raises DataError where no question can be asked."""
        return cls(asked, data)

    def __init__(self, asked: Asked, data: SquadData) -> None:
        found = answering(asked.manifest)
        assert found is not None
        component, self._output, self._declared = found
        preparer = asked.preparers[component.name]
        self._questions = usable_questions(preparer, data)
        self._windows = preparer.windows([(question.question, question.context) for question in self._questions])
        self.components, self.samples = (component.name,), {component.name: preparer.prepared(self._windows)}
        normal = normal_of_v2 if data.unanswerable else None
        self._right = [_right(question.answers, normal) for question in self._questions]
        has = np.array([bool(question.answers) for question in self._questions])
        self._subsets = {"": np.ones(len(has), bool)}
        if data.unanswerable:
            self._subsets |= {"has_ans_": has, "no_ans_": ~has}
        self._unanswerable = data.unanswerable
        counts = {"questions": len(self._questions), "windows": self._windows.rows}
        identity = [[q.id, q.question, q.context, *q.answers] for q in self._questions]
        candidates = {
            Metric(name): (int(self._subsets[_subset(name)].sum()), "questions")
            for name in ("f1", "em", *(("has_ans_f1", "has_ans_em", "no_ans_em") if data.unanswerable else ()))
        }
        super().__init__(facts(data.name, self.name, counts, identity, data.skips), candidates)

    def ask(self, component: str, session: Session, loader: Loader, stage: Stage | None = None) -> Answers:
        """The best spans, which are found run by run, so that no scores are kept.

        ``span``, int64 [questions, 2], are the characters of the best span of each question; ``logits``, float64
        [questions, 3], those of it, of no answer, and of all together.
        """
        search = SpanSearch(self._declared, self._windows)
        batching = Batching(session, session.signature)
        for run, outputs in run_each(session, self.samples[component], batching, loader, stage):
            search.add(run.rows, outputs[self._output], outputs[self._declared.end])
        return _kept(search.found())

    def texts(self, answers: Answers) -> list[str | None]:
        """The answer to each question, empty where there is none; None where the model gives no number."""
        found = _found(answers)
        given, known = found.given(self._declared), found.start >= 0
        return [
            question.context[start:end] if give else "" if know else None
            for question, start, end, give, know in zip(
                self._questions, found.start, found.end, given, known, strict=True
            )
        ]

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        return self._scored(self.texts(answers[self.components[0]]))

    def predicted(self, file: Path, progress: Progress) -> dict[str, np.ndarray]:
        """A question without a prediction counts 0, and the first of them are named."""
        predictions = read_answers(file, [question.id for question in self._questions])
        missing = [question.id for question in self._questions if question.id not in predictions]
        if missing:
            named = f"{', '.join(missing[:NAMED])}{', ...' * (len(missing) > NAMED)}"
            progress.note(f"{file.name} lacks {len(missing):,} questions, which count 0: {named}")
        return self._scored([predictions.get(question.id) for question in self._questions])

    def save(self, folder: Path, answers: Mapping[str, Answers]) -> list[Path]:
        """Write the answer to each question as the evaluation scripts read it, and where contexts may have none, the
        odds of that too. Returns the files. Raises StorageError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        found, files = answers[self.components[0]], [folder / PREDICTIONS]
        ids = [question.id for question in self._questions]
        write_answers(files[0], {i: text or "" for i, text in zip(ids, self.texts(found), strict=True)})
        if self._unanswerable:
            files.append(folder / NONE_ODDS)
            best, none, _ = found["logits"].T
            margins = np.where(np.isfinite(best) & np.isfinite(none), none - np.where(np.isfinite(best), best, 0), 0.0)
            write_answers(files[-1], dict(zip(ids, margins.tolist(), strict=True)))
        return files

    def distance(self, answers: Answers, reference: Answers) -> float:
        """The share of questions with another span, and how far the logits are off as a share of their size."""
        ours, theirs = (np.nan_to_num(found["logits"], neginf=0.0) for found in (answers, reference))
        moved = float(np.mean((answers["span"] != reference["span"]).any(axis=1)))
        return moved + float(np.abs(ours - theirs).mean() / max(float(np.abs(theirs).mean()), 1e-9))

    def _scored(self, texts: Sequence[str | None]) -> dict[str, np.ndarray]:
        """Metric -> how well each of its questions is answered, 0..1. None is a miss."""
        exact, f1 = np.zeros(len(texts)), np.zeros(len(texts))
        for row, (text, right) in enumerate(zip(texts, self._right, strict=True)):
            if text is not None:
                exact[row] = max(exact_match(text, answer) for answer in right)
                f1[row] = max(word_f1(text, answer, both_empty=self._unanswerable) for answer in right)
        values = {"em": exact, "f1": f1}
        return {name: values[name.rpartition("_")[2]][self._subsets[_subset(name)]] for name in self.metrics}


def normalized_answer(text: str) -> str:
    """A text in lower case without punctuation, without a, an and the, and with single spaces."""
    bare = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def normal_of_v2(text: str) -> bool:
    """Whether a right answer counts by the script of v2.0: one of which nothing is left does not."""
    return bool(normalized_answer(text))


def exact_match(text: str, right: str) -> float:
    """1 where both are the same once normalised, else 0."""
    return float(normalized_answer(text) == normalized_answer(right))


def word_f1(text: str, right: str, *, both_empty: bool) -> float:
    """The harmonic mean of the share of the answer's words that are right, and of the right words that it has.

    Of texts without words it is 0; with ``both_empty``, as by the script of v2.0, 1 where both are so.
    """
    ours, theirs = normalized_answer(text).split(), normalized_answer(right).split()
    if both_empty and not (ours and theirs):
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if not same:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _right(answers: Sequence[str], counts: Callable[[str], bool] | None) -> tuple[str, ...]:
    """The right answers that count; the empty one where there is none."""
    kept = tuple(answer for answer in answers if counts is None or counts(answer))
    return kept or ("",)


def _subset(metric: str) -> str:
    """The questions that a metric is of: ``has_ans_`` of ``has_ans_f1``."""
    return metric.removesuffix("em").removesuffix("f1")


def _kept(found: FoundSpans) -> dict[str, np.ndarray]:
    return {
        "span": np.stack([found.start, found.end], 1),
        "logits": np.stack([found.best, found.none, found.total], 1),
    }


def _found(answers: Answers) -> FoundSpans:
    """What :func:`_kept` was given."""
    (start, end), (best, none, total) = answers["span"].T, answers["logits"].T
    return FoundSpans(start, end, best, none, total)
