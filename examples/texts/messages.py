"""Makes messages of customers, each a praise, a complaint or a question: nothing is fetched.

The words alone do not tell: "not", and what follows "but", decide. ``messages(200, seed=1)`` gives 200 of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

LABELS = ("praise", "complaint", "question")

THINGS = (
    *("parcel", "lamp", "kettle", "chair", "phone", "coat", "camera"),
    *("teapot", "bicycle", "desk", "blanket", "radio", "clock", "suitcase"),
)
GOOD = (
    *("sturdy", "bright", "quiet", "handy", "soft", "quick"),
    *("precise", "comfortable", "reliable", "beautiful", "cheap", "elegant"),
)
BAD = (
    *("broken", "dull", "noisy", "late", "scratched", "slow"),
    *("wobbly", "useless", "dirty", "heavy", "faulty", "expensive"),
)
VERY = ("", "", "very ", "really ", "quite ", "rather ")
NOT = ("not", "never", "hardly")
OPENERS = ("", "", "Hello, ", "To be honest, ", "After two weeks ", "As I wrote before, ")
ASKING = ("Is the {thing} {word}?", "Why is the {thing} {word}?", "Can I get a {word} {thing} too?", "Who says that "
          "the {thing} is {word}?", "I wonder whether the {thing} is {word}")  # fmt: skip


def messages(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Pairs of a text and its label. The same ``seed`` gives the same ones."""
    draw = random.Random(seed)
    for _ in range(count):
        label = draw.choice(LABELS)
        if label == "question":
            text = draw.choice(ASKING).format(thing=draw.choice(THINGS), word=draw.choice(GOOD + BAD))
        else:
            text = _clause(draw, label == "praise")
            if draw.random() < 0.25:
                text = f"{_clause(draw, label != 'praise')}, but {text}"
        yield _opened(draw.choice(OPENERS), text), label


def _clause(draw: random.Random, praise: bool) -> str:
    """For example ``the kettle is not very noisy``, a praise."""
    negated = draw.random() < 0.25
    word = draw.choice(GOOD if praise != negated else BAD)
    no = f"{draw.choice(NOT)} " if negated else ""
    return f"the {draw.choice(THINGS)} {draw.choice(('is', 'was', 'seems'))} {no}{draw.choice(VERY)}{word}"


def _opened(opener: str, text: str) -> str:
    joined = opener + (text[0].lower() + text[1:] if opener else text)
    return joined[0].upper() + joined[1:] + ("" if joined.endswith("?") else ".")


def write_table(file: Path, rows: list[tuple[str, str]]) -> None:
    """Write messages as a table with the columns text and label."""
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), "utf-8")
