"""The results of the zoo as Markdown: counts by group, and every network that is not shipped and right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zoo_worker import Result

COLUMNS = {
    "right": "shipped, right",
    "rightly refused": "rightly refused",
    "refused": "refused",
    "wrong": "silently wrong",
    "traceback": "traceback",
    "crashed": "crashed",
}
"""What a case counts as, and the heading of its column."""

OURS = "torchlift"


def table(results: Sequence[Result]) -> str:
    """Counts by group for each tool, then each network that some tool does not ship right."""
    tools = sorted({r.tool for r in results}, key=[OURS, "plain", "eager"].index)
    by_tool = {tool: {r.case: r for r in results if r.tool == tool} for tool in tools}
    parts = [_counts(tool, by_tool[tool].values()) for tool in tools]
    if OURS in by_tool and "plain" in by_tool:
        parts.append(_behind(by_tool[OURS], by_tool["plain"]))
    parts += [_list(tool, by_tool[tool].values()) for tool in tools]
    return "\n\n".join(parts)


def kind(result: Result) -> str:
    """What a result counts as: its status, or ``rightly refused``."""
    return "rightly refused" if result.status == "refused" and result.refused else result.status


def _counts(tool: str, results: Iterable[Result]) -> str:
    results = list(results)
    groups = dict.fromkeys(r.group for r in results)
    rows = [(group, [r for r in results if r.group == group]) for group in groups]
    lines = [_row([tool, "networks", *COLUMNS.values()]), _row(["---", *["---:"] * (len(COLUMNS) + 1)])]
    for name, part in [*rows, ("**all**", results)]:
        counts = [sum(kind(r) == k for r in part) for k in COLUMNS]
        lines.append(_row([name, len(part), *(count or "" for count in counts)]))
    return "\n".join(lines)


def _behind(ours: Mapping[str, Result], plain: Mapping[str, Result]) -> str:
    both = ours.keys() & plain.keys()
    behind = sorted(n for n in both if ours[n].status != "right" and plain[n].status == "right")
    ahead = sorted(n for n in both if ours[n].status == "right" and plain[n].status != "right")
    caught = sorted(n for n in both if ours[n].status == "refused" and plain[n].status == "wrong")
    return "\n".join(
        f"- {title}: {len(names)}{': ' if names else ''}{', '.join(names)}"
        for title, names in (
            ("right by a plain export, not by torchlift", behind),
            ("right by torchlift, not by a plain export", ahead),
            ("silently wrong by a plain export, refused by torchlift", caught),
        )
    )


def _list(tool: str, results: Iterable[Result]) -> str:
    lines = [_row([tool, "group", "how it went", "reason"]), _row(["---"] * 4)]
    for r in results:
        if r.status != "right":
            reason = r.reason if not r.refused else f"{r.reason} (no right file is possible: {r.refused})"
            lines.append(_row([r.case, r.group, COLUMNS[kind(r)], reason]))
    return "\n".join(lines)


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
