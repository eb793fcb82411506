"""Damages good inputs: bytes, JSON, numbers, texts. All is drawn from a ``random.Random``: a seed repeats it."""

import math

NUMBERS = (
    *(0, -1, 1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 10**9, 10**12, 10**18, 10**30, -(2**63)),
    *(0.0, -0.0, 0.5, 1.5, 1e-300, 1e10, 1e308, -1e308, math.nan, math.inf, -math.inf),
)
WORDS = (
    *("", " ", ".", "..", "/", "x" * 5000, "名字", "a/b", "../../x", "/etc/passwd", "\x1b[2J", "é", "e\u0301"),
    *("nan", "1e999", "9" * 5001, "batch", "model", "fp32", "int8", "\u202e", "\ufeff", "\U0001f600", "[PAD]", "-"),
)
VALUES = (None, True, False, [], {}, [[]], [None], {"": None}, *NUMBERS, *WORDS)


def some_bytes(draw, data):
    """``data`` with some bytes changed, cut off, repeated, put in or taken out."""
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5, 30])):
        size = len(data)
        at, length = draw.randrange(size + 1), draw.choice([1, 2, 8, 100])
        # headers and directories, where most is decided, are at the ends
        at = draw.choice([at, min(at, draw.randrange(200)), max(0, size - 1 - draw.randrange(200))])
        match draw.randrange(7):
            case 0 | 1 | 2:
                data[at : at + 1] = bytes([draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])])
            case 3:
                del data[at:]
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length]
            case 6:
                data[at : at + length] = draw.randbytes(length)
    return bytes(data)


def some_value(draw, before=None):
    """Another value: of any kind, or one near what was there."""
    if isinstance(before, bool) or before is None or draw.random() < 0.4:
        return draw.choice(VALUES)
    if isinstance(before, int):
        return draw.choice([before + 1, before - 1, -before, 2 * before, float(before), str(before), *NUMBERS])
    if isinstance(before, float):
        return draw.choice([-before, before * 1e6, before + 1, str(before), *NUMBERS])
    if isinstance(before, str):
        return draw.choice([before[:-1], before + "x", before.upper(), f"../{before}", [before], *WORDS])
    if isinstance(before, list):
        return draw.choice([before * 2, before[:-1], before[::-1], [before], dict(enumerate(map(str, before)))])
    return draw.choice([list(before), [before], {**before, "more": 1}])


def places(tree, way=()):
    """The ways to all values within lists and dicts."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*way, key)
        yield from places(value, (*way, key))


def some_tree(draw, tree, times=(1, 1, 2, 4)):
    """Change, remove, rename or exchange values of a JSON tree, in place."""
    for _ in range(draw.choice(times)):
        ways = [*places(tree)]
        if not ways:
            return
        *way, key = draw.choice(ways)
        inner = tree
        for step in way:
            inner = inner[step]
        match draw.randrange(6):
            case 0:
                del inner[key]
            case 1 if isinstance(inner, dict):
                inner[draw.choice(WORDS)] = inner.pop(key)
            case 2 if isinstance(inner, list):
                inner.append(inner[key])
            case 3:
                inner[key] = draw.choice(WORDS)
            case _:
                inner[key] = some_value(draw, inner[key])


def some_text(draw, text=""):
    """Another text: with characters of every kind, longer, empty, or no text that can be encoded."""
    kinds = (
        "",
        "猫",
        "a",
        " ",
        "\0",
        "\n",
        "\t",
        "\ud800",
        "\U0001f468\u200d\U0001f469",
        "##",
        "[MASK]",
        "\u0301",
        "！",
    )
    parts = [draw.choice([*kinds, text, chr(draw.randrange(0x110000))]) for _ in range(draw.choice([1, 2, 5, 60]))]
    return "".join(parts) * draw.choice([1, 1, 1, 200])
