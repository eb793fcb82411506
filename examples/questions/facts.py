"""Paragraphs of facts about people, in English and in Chinese, with questions about them in SQuAD's JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ENGLISH = {
    "name": "Ada Alan Grace Edsger Barbara Donald Hedy Linus Mary Niklaus Radia Tony Sofia Kurt Emmy Leon".split(),
    "city": "Paris London Vienna Lisbon Cairo Kyoto Quito Oslo Boston Delhi Prague Milan".split(),
    "job": "baker pilot nurse farmer judge painter singer teacher sailor tailor miner waiter".split(),
    "colour": "red blue green white black yellow silver golden".split(),
    "thing": "boat piano horse bicycle house clock lamp violin coat kite".split(),
    "title": "Rain Storm Harvest Dawn Winter Mirrors Islands Bridges Thunder Gardens".split(),
}
CHINESE = {
    "name": "艾达 李雷 韩梅 王刚 赵敏 孙悦 周涛 吴迪 郑洁 冯巩 陈晨 楚云".split(),
    "city": "北京 上海 广州 成都 武汉 杭州 西安 大连".split(),
    "job": "医生 教师 厨师 司机 画家 律师 记者 农民".split(),
    "colour": "红色 蓝色 绿色 白色 黑色 黄色".split(),
    "thing": "小船 钢琴 自行车 房子 闹钟 台灯 风筝 大衣".split(),
    "title": "春雨 秋风 冬雪 夏夜 明月 远山 长河 落日".split(),
}


@dataclass(frozen=True)
class Fact:
    """A kind of sentence, with ``*`` around the answer, and the question that it answers."""

    sentence: str
    question: str


FACTS = {
    "en": (
        Fact("{name} lives in *{city}*.", "Where does {name} live?"),
        Fact("{name} works as a *{job}*.", "What does {name} work as?"),
        Fact("{name} was born in *{year}*.", "When was {name} born?"),
        Fact("{name} bought a *{colour} {thing}*.", "What did {name} buy?"),
        Fact("*{name}* wrote {title}.", "Who wrote {title}?"),
    ),
    "zh": (
        Fact("{name}住在*{city}*。", "{name}住在哪里？"),
        Fact("{name}的工作是*{job}*。", "{name}的工作是什么？"),
        Fact("{name}出生于*{year}*年。", "{name}哪年出生？"),
        Fact("{name}买了*{colour}{thing}*。", "{name}买了什么？"),
        Fact("*{name}*写了《{title}》。", "谁写了《{title}》？"),
    ),
}
WORDS = {"en": ENGLISH, "zh": CHINESE}


@dataclass(frozen=True)
class Asked:
    """A question about a paragraph. ``start`` is the character where the answer begins; -1 where there is none."""

    question: str
    answer: str
    start: int


@dataclass(frozen=True)
class Paragraph:
    """A text, and questions about it."""

    context: str
    asked: tuple[Asked, ...]


def paragraph(rng: random.Random, people: int = 4, facts: int = 9, unanswerable: bool = False) -> Paragraph:
    """About so many ``facts`` of some ``people``, in one language, each with its question. With ``unanswerable`` there
    are as many questions besides whose answers the text does not have.
    """
    language = rng.choice(sorted(FACTS))
    words, known = WORDS[language], FACTS[language]
    names = rng.sample(words["name"], people)
    every = [(name, fact) for name in names for fact in range(len(known))]
    titles = dict(zip(names, rng.sample(words["title"], people), strict=True))
    chosen = rng.sample(every, min(facts, len(every)))
    text, asked = "", []
    for name, number in chosen:
        filled = {key: rng.choice(values) for key, values in words.items()}
        filled |= {"name": name, "title": titles[name], "year": str(rng.randint(1800, 2020))}
        before, answer, after = known[number].sentence.format(**filled).split("*")
        text += " " if text and language == "en" else ""
        asked.append(Asked(known[number].question.format(**filled), answer, len(text) + len(before)))
        text += before + answer + after
    if unanswerable:
        absent = rng.sample([pair for pair in every if pair not in chosen], min(len(chosen), len(every) - len(chosen)))
        for name, number in absent:
            question = known[number].question.format(name=name, title=titles[name])
            asked.append(Asked(question, "", -1))
    return Paragraph(text, tuple(asked))


def write_squad(file: Path, paragraphs: Sequence[Paragraph]) -> None:
    """Write paragraphs as SQuAD does: v2.0 where a question has no answer, else v1.1."""
    second = any(asked.start < 0 for found in paragraphs for asked in found.asked)
    number, records = 0, []
    for found in paragraphs:
        questions = []
        for asked in found.asked:
            answers = [{"text": asked.answer, "answer_start": asked.start}] if asked.start >= 0 else []
            record = {"id": f"q{number}", "question": asked.question, "answers": answers}
            questions.append({**record, "is_impossible": not answers} if second else record)
            number += 1
        records.append({"context": found.context, "qas": questions})
    content = {"version": "v2.0" if second else "1.1", "data": [{"title": "people", "paragraphs": records}]}
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
