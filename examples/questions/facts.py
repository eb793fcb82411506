"""Paragraphs of facts about people, in English and in Chinese, with questions about them in SQuAD's JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ENGLISH = {
    "name": "Ada Alan Grace Edsger Barbara Donald Hedy Linus Mary Niklaus Radia Tony Sofia Kurt Emmy Leon",
    "city": "Paris London Vienna Lisbon Cairo Kyoto Quito Oslo Boston Delhi Prague Milan",
    "job": "baker pilot nurse farmer judge painter singer teacher sailor tailor miner waiter",
    "colour": "red blue green white black yellow silver golden",
    "thing": "boat piano horse bicycle house clock lamp violin coat kite",
    "title": "Rain Storm Harvest Dawn Winter Mirrors Islands Bridges Thunder Gardens",
    "language": "French Latin Greek Arabic Hindi Welsh Finnish Turkish",
    "animal": "parrot donkey rabbit tortoise goat falcon hedgehog pony",
    "subject": "law medicine music botany history geometry chemistry optics",
}
CHINESE = {
    "name": "艾达 李雷 韩梅 王刚 赵敏 孙悦 周涛 吴迪 郑洁 冯巩 陈晨 楚云",
    "city": "北京 上海 广州 成都 武汉 杭州 西安 大连",
    "job": "医生 教师 厨师 司机 画家 律师 记者 农民",
    "colour": "红色 蓝色 绿色 白色 黑色 黄色",
    "thing": "小船 钢琴 自行车 房子 闹钟 台灯 风筝 大衣",
    "title": "春雨 秋风 冬雪 夏夜 明月 远山 长河 落日",
    "language": "法语 德语 日语 俄语 希腊语 阿拉伯语",
    "animal": "鹦鹉 兔子 乌龟 山羊 刺猬 小马",
    "subject": "法律 医学 音乐 历史 几何 化学",
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
        Fact("{name} speaks *{language}*.", "Which language does {name} speak?"),
        Fact("{name} keeps a *{animal}*.", "Which animal does {name} keep?"),
        Fact("{name} studied *{subject}* there.", "What did {name} study?"),
        Fact("{name} married *{other}* in spring.", "Whom did {name} marry?"),
    ),
    "zh": (
        Fact("{name}住在*{city}*。", "{name}住在哪里？"),
        Fact("{name}的工作是*{job}*。", "{name}的工作是什么？"),
        Fact("{name}出生于*{year}*年。", "{name}哪年出生？"),
        Fact("{name}买了*{colour}{thing}*。", "{name}买了什么？"),
        Fact("*{name}*写了《{title}》。", "谁写了《{title}》？"),
        Fact("{name}会说*{language}*。", "{name}会说什么语言？"),
        Fact("{name}养了一只*{animal}*。", "{name}养了什么动物？"),
        Fact("{name}在那里学*{subject}*。", "{name}学的是什么？"),
        Fact("{name}春天和*{other}*结婚。", "{name}和谁结婚？"),
    ),
}
ELSE = {
    "en": ("The weather was fine that day.", "Nobody knows why.", "All of them met again later."),
    "zh": ("那天天气很好。", "没有人知道原因。", "后来大家又见面了。"),
}
"""Sentences that answer nothing."""

WORDS = {
    language: {gap: words.split(" ") for gap, words in gaps.items()}
    for language, gaps in (("en", ENGLISH), ("zh", CHINESE))
}
"""Language -> gap of a sentence -> the words that may fill it."""


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


def paragraph(rng: random.Random, facts: int = 6, unanswerable: bool = False) -> Paragraph:
    """So many ``facts`` about people, in one language, each with its question, among sentences that answer nothing. No
    two facts are of one kind. With ``unanswerable`` the other kinds are asked for too, which the text does not have.
    """
    language = rng.choice(sorted(FACTS))
    words, known = WORDS[language], FACTS[language]
    kinds = rng.sample(range(len(known)), len(known))
    sentences: list[int | str] = [*kinds[:facts], *rng.sample(ELSE[language], rng.randint(0, 2))]
    rng.shuffle(sentences)
    text, asked = "", []
    for sentence in sentences:
        text += " " if text and language == "en" else ""
        if isinstance(sentence, str):
            text += sentence
            continue
        filled = _filled(rng, words)
        before, answer, after = known[sentence].sentence.format(**filled).split("*")
        asked.append(Asked(known[sentence].question.format(**filled), answer, len(text) + len(before)))
        text += before + answer + after
    if unanswerable:
        asked += [Asked(known[kind].question.format(**_filled(rng, words)), "", -1) for kind in kinds[facts:]]
    return Paragraph(text, tuple(asked))


def _filled(rng: random.Random, words: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A word for each gap; the two people are different."""
    name, other = rng.sample(words["name"], 2)
    chosen = {gap: rng.choice(values) for gap, values in words.items()}
    return {**chosen, "name": name, "other": other, "year": str(rng.randint(1800, 2020))}


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
