"""The pipeline of a model that answers questions with a span of a text: windows in, the best span over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from torchlift.declare.answers import Span
from torchlift.declare.inputs import QuestionInput
from torchlift.errors import BundleError, InputError
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.base import Pipeline, ends_when_closed
from torchlift.pipelines.prepare import listed
from torchlift.processing.spans import FoundSpans, SpanSearch


@dataclass(frozen=True)
class SpanAnswer:
    """The answer to a question: ``text`` is ``context[start:end]``, and ``score`` its probability, from 0 to 1, among
    the spans that were looked at.

    Where the context has no answer ``text`` is empty, ``start`` and ``end`` are 0, and ``score`` is the probability
    that it has none.
    """

    text: str
    start: int
    end: int
    score: float


def answering(manifest: Manifest) -> tuple[Component, str, Span] | None:
    """The only component, which takes a question and gives a span, the name of the output where spans begin, and its
    declaration; None where the model is another.
    """
    if len(manifest.components) != 1:
        return None
    (component,) = manifest.components
    spans = [(name, answer) for name, answer in component.answers.items() if isinstance(answer, Span)]
    if len(component.inputs_of(QuestionInput)) != 1 or len(spans) != 1:
        return None
    return (component, *spans[0])


class QuestionAnswering(Pipeline):
    """A bundle that answers questions about a text."""

    def _set_up(self) -> None:
        found = answering(self.bundle.manifest)
        if found is None:
            raise BundleError(
                f"{self.bundle.path} does not say which input takes questions and which output is a span",
                remedy="Ship the model again.",
            )
        component, self._output, self.declared = found
        self.component = component.name

    @overload
    def __call__(self, question: str, context: str, *, size: int | None = None) -> SpanAnswer: ...

    @overload
    def __call__(
        self, question: Sequence[str] | str, context: Sequence[str] | str, *, size: int | None = None
    ) -> list[SpanAnswer] | SpanAnswer: ...

    def __call__(
        self, question: Sequence[str] | str, context: Sequence[str] | str, *, size: int | None = None
    ) -> list[SpanAnswer] | SpanAnswer:
        """The answer to a question about a text, or a list of those to several.

        For example ``qa("Who wrote it?", chapter)`` has ``.text``, ``.start``, ``.end`` and ``.score``, and
        ``qa(["Who wrote it?", "When?"], chapter)`` is a list of two. Of two lists each question goes with the context
        at its place; a single one goes with each of the other list.

        A text may be as long as it likes: it is cut into windows, windows of all questions that are like in length
        share a batch, and of each batch only the best spans are kept. Batches have ``size`` rows (default: the
        signature's optimum), or as many as an engine's profiles hold. What is answered does not depend on what else is
        asked. A question that is longer than was declared is cut, and that is noted. Raises InputError for an empty
        question or context, and for a question that is longer than a window.
        """
        pairs, single = _pairs(question, context)
        found = self.spans(pairs, size)
        given = found.given(self.declared)
        answers = []
        for row, (_, text) in enumerate(pairs):
            start, end = (int(found.start[row]), int(found.end[row])) if given[row] else (0, 0)
            score = found.score[row] if given[row] else found.score_of_none[row]
            answers.append(SpanAnswer(text[start:end], start, end, float(score)))
        return answers[0] if single else answers

    @ends_when_closed
    def spans(self, pairs: Sequence[tuple[str, str]], size: int | None = None) -> FoundSpans:
        """The best span of each question in its context, as numbers."""
        self.session(self.component)  # a bundle that cannot serve says so first
        preparer = self.preparer(self.component)
        windows = preparer.windows(pairs)
        if any(windows.cut):
            declared = next(iter(preparer.questions.values())).declared
            self._progress.note(
                f"{sum(windows.cut)} of {len(pairs)} questions were cut to {declared.question} tokens, the first is "
                f"question {windows.cut.index(True)}"
            )
        search = SpanSearch(self.declared, windows)
        for run, outputs in self.run_each(self.component, preparer.prepared(windows), size):
            search.add(run.rows, outputs[self._output], outputs[self.declared.end])
        return search.found()


def _pairs(question: Sequence[str] | str, context: Sequence[str] | str) -> tuple[list[tuple[str, str]], bool]:
    """Each question with its context, and whether a single one was asked."""
    single = isinstance(question, str) and isinstance(context, str)
    if single:
        return [(question, context)], True  # type: ignore[list-item]
    questions = None if isinstance(question, str) else listed(question, "questions")
    contexts = None if isinstance(context, str) else listed(context, "contexts")
    if questions is None:
        assert contexts is not None
        questions = [question] * len(contexts)
    if contexts is None:
        contexts = [context] * len(questions)
    if len(questions) != len(contexts):
        raise InputError(
            f"there are {len(questions)} questions and {len(contexts)} contexts",
            remedy="Give one context for all questions, or one for each.",
        )
    return [*zip(questions, contexts, strict=True)], False
