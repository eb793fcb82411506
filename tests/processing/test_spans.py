"""The best span over all windows: as BERT's run_squad chooses it, written out below in plain loops."""

import numpy as np
import pytest
from question_models import trained

from torchlift.declare.answers import Span
from torchlift.declare.inputs import QuestionInput
from torchlift.processing.questions import QuestionTokenizer
from torchlift.processing.spans import SpanSearch

TEXT = "the river runs by the mill and Ada wrote of it in 1815 . " * 6
QUESTION = "who wrote ?"


def windows_of(texts=(TEXT,), length=32, overlap=12):
    tokenizer = QuestionTokenizer(
        trained("wordpiece").encode(), QuestionInput("tokenizer.json", length=length, overlap=overlap, question=8)
    )
    return tokenizer.windows(
        [tokenizer.question(QUESTION, "q")] * len(texts), [tokenizer.passage(text, "c") for text in texts]
    )


def found(windows, start, end, declared, parts=None):
    search = SpanSearch(declared, windows)
    for rows in parts or [np.arange(windows.rows)]:
        search.add(rows, start[rows], end[rows])
    return search.found()


def reference(windows, start, end, declared, pair=0):
    """(score, first and last character) of the best span of a question, and the least score of none, as the reference
    finds them.
    """
    rows = [r for r in range(windows.rows) if windows.pair[r] == pair]
    candidates, none = [], np.inf
    for row in rows:
        length, first = int(windows.lengths[row]), int(windows.first(np.array([row]))[0])
        begin, stop = int(windows.start[row]), int(windows.stop[row])
        none = min(none, start[row, 0] + end[row, 0])

        def most(token, row=row):
            best, best_row = None, None
            for other in rows:
                left, right = token - windows.start[other], windows.stop[other] - 1 - token
                if left < 0 or right < 0:
                    continue
                score = min(left, right) + 0.01 * (windows.stop[other] - windows.start[other])
                if best is None or score > best:
                    best, best_row = score, other
            return best_row == row

        def highest(scores, length=length):
            return sorted(range(length), key=lambda i: -scores[i])[: declared.best]

        for s in highest(start[row]):
            for e in highest(end[row]):
                inside = all(first <= position < first + stop - begin for position in (s, e))
                if not inside or e < s or e - s + 1 > declared.longest or not most(begin + s - first):
                    continue
                candidates.append((start[row, s] + end[row, e], begin + s - first, begin + e - first))
    best = max(candidates, key=lambda c: c[0])
    passage = windows.passages[pair]
    return best[0], int(passage.starts[best[1]]), int(passage.ends[best[2]]), none


@pytest.mark.parametrize("seed", range(25))
def test_the_best_span_is_the_reference_s(seed):
    rng = np.random.default_rng(seed)
    texts = [TEXT[: rng.integers(20, len(TEXT))] for _ in range(3)]
    windows = windows_of(texts, int(rng.integers(24, 40)), int(rng.integers(0, 18)))
    declared = Span("end", longest=int(rng.integers(1, 9)), best=int(rng.integers(4, 21)), no_answer=True)
    start, end = rng.standard_normal((2, windows.rows, int(windows.lengths.max())))
    answers = found(windows, start, end, declared)
    for pair in range(len(texts)):
        try:
            best, first, last, none = reference(windows, start, end, declared, pair)
        except ValueError:  # nothing fits among the highest
            continue
        assert (answers.start[pair], answers.end[pair]) == (first, last)
        assert (answers.best[pair], answers.none[pair]) == pytest.approx((best, none))
        assert bool(answers.given(declared)[pair]) == (none - best <= 0)


def test_a_span_that_is_certain_has_the_probability_1_and_rivals_share():
    windows = windows_of(["Ada wrote the program"])
    start, end = np.full((2, 1, int(windows.lengths.max())), -30.0)
    first = int(windows.first(np.array([0]))[0])
    start[0, first + 1] = end[0, first + 1] = 9
    answers = found(windows, start, end, Span("end"))
    assert windows.passages[0].text[answers.start[0] : answers.end[0]] == "wrote"
    assert answers.score[0] == pytest.approx(1)
    assert answers.none[0] == -np.inf
    assert answers.score_of_none[0] == 0
    start[0, first] = end[0, first] = 9
    rivals = found(windows, start, end, Span("end"))
    assert rivals.score[0] == pytest.approx(1 / 3)  # Ada, wrote, Ada wrote


def test_no_answer_is_counted_and_the_threshold_decides():
    windows = windows_of(["Ada wrote the program"])
    start, end = np.full((2, 1, int(windows.lengths.max())), -30.0)
    first = int(windows.first(np.array([0]))[0])
    start[0, first] = end[0, first] = 1.0
    start[0, 0] = end[0, 0] = 2.0
    for threshold, given in ((0.0, False), (1.9, False), (2.0, True), (3.0, True)):
        declared = Span("end", no_answer=True, threshold=threshold)
        answers = found(windows, start, end, declared)
        assert answers.none[0] - answers.best[0] == pytest.approx(2.0)
        assert bool(answers.given(declared)[0]) is given
    assert answers.score_of_none[0] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert answers.score_of_none[0] + answers.score[0] == pytest.approx(1)


def test_having_none_needs_every_window_to_say_so():
    windows = windows_of()
    start, end = np.zeros((2, windows.rows, int(windows.lengths.max())))
    start[:, 0] = end[:, 0] = 5.0
    start[2, 0] = end[2, 0] = -5.0
    declared = Span("end", no_answer=True)
    assert found(windows, start, end, declared).none[0] == pytest.approx(-10.0)


def test_padding_the_order_and_the_parts_do_not_matter():
    windows = windows_of([TEXT, TEXT[:60], "Ada"])
    rng = np.random.default_rng(0)
    length = int(windows.lengths.max())
    start, end = rng.standard_normal((2, windows.rows, length))
    declared = Span("end", no_answer=True)
    whole = found(windows, start, end, declared)
    order = rng.permutation(windows.rows)
    parted = found(windows, start, end, declared, [order[:3], order[3:4], order[4:]])
    padded = [np.concatenate([a, np.full((windows.rows, 7), 99.0)], 1) for a in (start, end)]
    for other in (parted, found(windows, *padded, declared)):
        assert other.start.tolist() == whole.start.tolist()
        assert other.end.tolist() == whole.end.tolist()
        np.testing.assert_allclose(other.score, whole.score)
        np.testing.assert_allclose(other.none, whole.none)


def test_where_nothing_fits_among_the_highest_all_spans_are_looked_at():
    windows = windows_of(["Ada wrote the program"])
    length, first = int(windows.lengths.max()), int(windows.first(np.array([0]))[0])
    start = end = -np.arange(length, dtype=float)[None]  # highest in the question
    answers = found(windows, start, end, Span("end", best=2))
    assert windows.passages[0].text[answers.start[0] : answers.end[0]] == "Ada"
    assert first > 2
    assert answers.score[0] == pytest.approx(1)


def test_scores_that_are_no_numbers_are_no_answer():
    windows = windows_of([TEXT, "Ada"])
    start, end = np.full((2, windows.rows, int(windows.lengths.max())), np.nan)
    declared = Span("end", no_answer=True)
    answers = found(windows, start, end, declared)
    assert answers.start.tolist() == [-1, -1]
    assert answers.score.tolist() == [0, 0]
    assert not answers.given(declared).any()
    start[0], end[0] = 0.0, 0.0
    start[0, -4] = np.inf
    assert found(windows, start, end, declared).start[0] >= 0


def test_white_space_around_a_span_is_left_out():
    tokenizer = QuestionTokenizer(trained("unigram").encode(), QuestionInput("t", length=64, question=8))
    text = "Ada  wrote the program"
    windows = tokenizer.windows([tokenizer.question("who", "q")], [tokenizer.passage(text, "c")])
    first = int(windows.first(np.array([0]))[0])
    passage = windows.passages[0]
    wanted = next(i for i, place in enumerate(passage.ends) if place >= text.index("wrote") + 1)
    start, end = np.zeros((2, 1, int(windows.lengths.max())))
    start[0, first + wanted] = end[0, first + wanted] = 9
    answers = found(windows, start, end, Span("end"))
    assert answers.start[0] == text.index("wrote")
