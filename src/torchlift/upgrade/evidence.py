"""The evidence of version 1 as that of version 2: phrases as fields.

For example ``min, replayed`` was the name of a golden, ``pytorch eager + CUDA graph`` that of a contender, and verdicts
were sentences. A sentence that is none of ours stays as a ``detail``.
"""

from __future__ import annotations

import re
from typing import Any

Data = dict[str, Any]
"""A JSON object."""

_GRAPHED = " + CUDA graph"

_RUN = re.compile(
    r"(?P<golden>.*?)"
    r"(, (?P<taken>\d+) of (?P<there>\d+) rows|, (?P<all>\d+) rows repeated to (?P<repeated>\d+))?"
    r"(, rows (?P<company>turned|fewer))?"
    r"(?P<replayed>, replayed)?"
    r"(?P<half> in true half precision)?"
)
_SIZES = re.compile(r"\w+ \d+(, \w+ \d+)*")
_NUMBER = r"(-?[\d.]+(?:e[-+]?\d+)?)"
_FAILURE = re.compile(
    r"(rows depend on their neighbours: )?(?P<output>.+?) at (?P<golden>.+): "
    rf"(off by {_NUMBER} of the scale \(at most {_NUMBER}\)|cosine {_NUMBER} \(at least {_NUMBER}\)"
    r"|(?P<nan>\d+) NaN, (?P<inf>\d+) infinite)"
)
_UNPROVEN = "no golden is within its optimisation profiles: nothing proves it"
_CALIBRATION = re.compile(r"(\d+) samples of (.*), (extremes|minmax|percentile|entropy|NNCF)")
_PERCENTILE = 99.99
"""The only one that the command line of version 1 offered."""

_DAMAGE = re.compile(r"(points of (?P<metric>.+) lost \+ )?1 - cosine to the reference, in (?P<where>.+)")
_TRUE_HALF = "true half precision"
_BREACH = re.compile(rf"(?P<metric>.+) drops by {_NUMBER} \[{_NUMBER}, {_NUMBER}\], at most {_NUMBER} may")
_SUM = re.compile(rf"(?P<metric>.+) may drop by {_NUMBER} \(the sum\), at most {_NUMBER} may")
_NOT_SCORED = re.compile(r"(?P<metric>\S+) was not scored")
_TOGETHER = "with the other components' choices, "
_RATIO = re.compile(rf"{_NUMBER} times the (time|time a sample|size)")
_REFUSED = "refused: "
_FIXED = {
    "as good within 2%, not more precise": "as good",
    "not asked for: kept for where no other holds the gate": "reserve",
    "not verified on this machine": "not verified",
    "not measured": "not measured",
}
_OBJECTIVES = {"the fastest": "latency", "the highest throughput": "throughput", "the smallest": "size"}
_SLOWDOWNS = {
    "temperature (software)": "software temperature",
    "temperature (hardware)": "hardware temperature",
    "hardware slow-down": "hardware",
}


def upgrade_evidence(data: Data) -> None:
    """Change the evidence in a manifest in place.

    Raises LookupError, TypeError, AttributeError or ValueError for what is no manifest, unless it comes out as none.
    """
    _verifications(data)
    _conversions(data)
    _benchmarks(data)
    _scoring(data)
    _choices(data)


def _verifications(data: Data) -> None:
    """The names of goldens, and what failed at them."""
    for variant in data.get("variants", []):
        proof = variant.get("verification")
        if proof is None:
            continue
        for check in (*proof["checks"], *proof["invariance"]):
            check |= _run(check["golden"])
        proof["failures"] = [_failure(said, proof) for said in proof.get("failures", [])]


def _run(name: str) -> Data:
    """The facts in the name of a golden."""
    match = _RUN.fullmatch(name)
    if match is None:
        return {"golden": name}
    run: Data = {"golden": match["golden"]}
    if match["taken"]:
        run["rows"] = {"taken": int(match["taken"]), "there": int(match["there"])}
    elif match["all"]:
        run["rows"] = {"taken": int(match["repeated"]), "there": int(match["all"])}
    if _SIZES.fullmatch(match["golden"]):
        sizes = (part.split(" ") for part in match["golden"].split(", "))
        run |= {"golden": "max", "sizes": {axis: int(size) for axis, size in sizes}}
    if match["company"]:
        run["company"] = match["company"]
    return run | {"replayed": bool(match["replayed"]), "true_half": bool(match["half"])}


def _failure(said: str, proof: Data) -> Data:
    """A failure of a verification, with the numbers of the check that it is of where that was kept."""
    match = _FAILURE.fullmatch(said)
    if said == _UNPROVEN:
        return {"kind": "unproven"}
    if match is None:
        return {"kind": "error", "detail": said}
    where = {"output": match["output"], **_run(match["golden"])}
    if match["nan"]:
        return {"kind": "nonfinite", "nan": int(match["nan"]), "inf": int(match["inf"]), **where}
    scaled, scaled_limit, cosine, cosine_limit = match.groups()[4:8]
    kind = "difference" if scaled else "cosine"
    difference, limit = float(scaled or cosine), float(scaled_limit or cosine_limit)
    for check in (*proof["checks"], *proof["invariance"]):
        if where.items() <= check.items():
            found, tolerance = check["difference"], proof["tolerance"]
            exact = found["max_abs"] / (found["scale"] or 1.0) if scaled else found["cosine"]
            difference, limit = exact, tolerance["scaled" if scaled else "cosine"]
    return {"kind": kind, "difference": difference, "limit": limit, **where}


def _conversions(data: Data) -> None:
    """Which samples a graph was calibrated on, and what a repair went by."""
    for graph in data.get("graphs", []):
        done = graph.get("conversion")
        if done is None:
            continue
        done["calibration"] = _calibration(done.get("calibration", ""))
        repair = done.get("repair")
        if repair is not None:
            repair["damage"] = _damage(repair.pop("measure"))


def _calibration(said: str) -> Data | None:
    match = _CALIBRATION.fullmatch(said)
    if match is None:
        return None
    samples, source, method = match.groups()
    return {
        "samples": int(samples),
        "source": None if source == "the goldens" else source,
        "method": method.lower(),
        "percentile": _PERCENTILE if method == "percentile" else None,
    }


def _damage(said: str) -> Data:
    match = _DAMAGE.fullmatch(said)
    metric, where = (match["metric"] or "", match["where"]) if match else ("", said)
    half = where == _TRUE_HALF
    return {"metric": metric, "unit": "points", "runtime": "" if half else where, "true_half": half}


def _benchmarks(data: Data) -> None:
    """Contenders, by the names of which they went, and what slowed a GPU down."""
    precisions = {}
    for variant in data.get("variants", []):
        method = variant.get("method", "")
        recipe = f"{variant['precision']}-{method}" if method else variant["precision"]
        precisions[f"{variant['component']}/{variant['backend']}/{recipe}"] = variant["precision"]
    for found in data.get("benchmarks", {}).values():
        scaling = found.get("scaling", {})
        for timed in (*found["latencies"], *scaling.get("throughputs", [])):
            timed["contender"] = _entrant(timed["contender"], precisions)
        if found["baseline"] is not None:
            found["baseline"] = _entrant(found["baseline"], precisions)
        ran, failed = found.get("runtimes", {}), found.get("failures", {})
        found["runtimes"] = [{"contender": _entrant(n, precisions), "runtime": said} for n, said in ran.items()]
        found["failures"] = [{"contender": _entrant(n, precisions), "detail": said} for n, said in failed.items()]
        failed = scaling.get("failures", {})
        scaling["failures"] = [{"contender": _entrant(n, precisions), "detail": said} for n, said in failed.items()]
        found["scaling"] = scaling
        for seen in (*found.get("conditions", []), *scaling.get("conditions", [])):
            seen["throttled"] = [_SLOWDOWNS.get(said, said) for said in seen.get("throttled", [])]


def _entrant(name: str, precisions: dict[str, str]) -> Data:
    """A contender of the name that it had, for example ``pytorch compile fp16 + CUDA graph``."""
    plain = name.removesuffix(_GRAPHED)
    entrant: Data = {"name": plain, "cuda_graph": plain != name}
    words = plain.split()
    if words[:1] == ["pytorch"] and words[1:2] in (["eager"], ["compile"]) and words[2:] in ([], ["fp16"]):
        compiled = words[1] == "compile"
        return entrant | {"name": "pytorch", "compiled": compiled, "precision": "".join(words[2:]) or "fp32"}
    in_name = next((word for word in words if word in ("fp16", "bf16")), "fp32")
    return entrant | {"precision": precisions.get(plain, in_name)}


def _scoring(data: Data) -> None:
    """What drops are against, and the unit of the metrics, which were all shares of which more is better."""
    scoring = data.get("scoring")
    if scoring is None:
        return
    scoring["reference"] = "pytorch" if scoring["reference"].startswith("PyTorch") else "source"
    scoring["measures"] = {metric: {"unit": "points", "better": "higher"} for metric in scoring["metrics"]}


def _choices(data: Data) -> None:
    """By what a variant was chosen, and why the others were not."""
    for choice in data.get("choices", {}).values():
        reason, gate = choice.pop("reason", ""), dict(data.get("gate", {}))
        praise = next((words for words in _OBJECTIVES if reason.startswith(words)), "")
        batch = re.match(r"the fastest at batch (\d+)", reason)
        choice["gate"] = {"within": _limits(reason, gate), "objective": _OBJECTIVES.get(praise, gate.get("objective"))}
        choice["batch"] = int(batch[1]) if batch else None
        choice["others"] = {name: _verdict(said) for name, said in choice.get("others", {}).items()}


def _limits(reason: str, gate: Data) -> dict[str, float]:
    """The limits of the gate that a reason names; those of the bundle's gate where it names none."""
    named = re.search(r"(?:and hold|asked for holds) (.*?)(?:: FP32 serves)?$", reason)
    found = re.findall(rf"(\S+) within {_NUMBER}(?:, |$)", named[1]) if named else []
    return {metric: float(limit) for metric, limit in found} if found else dict(gate.get("within", {}))


def _verdict(said: str) -> Data:
    """Why a variant does not serve."""
    ratio = _RATIO.fullmatch(said)
    if said in _FIXED:
        return {"kind": _FIXED[said]}
    if ratio is not None:
        return {"kind": "costlier", "ratio": float(ratio[1])}
    for kind in ("not built", "not measured"):
        if said.startswith(f"{kind}: "):
            return {"kind": kind, "detail": said.removeprefix(f"{kind}: ")}
    return _refusal(said.removeprefix(_REFUSED)) if said.startswith(_REFUSED) else {"kind": "other", "detail": said}


def _refusal(said: str) -> Data:
    """Why a variant was refused, without the word."""
    if said.startswith("not scored here: "):
        return {"kind": "not scored"}
    breach = _breach(said.removeprefix(_TOGETHER), together=said.startswith(_TOGETHER))
    if breach is not None:
        return {"kind": "breach", "breach": breach}
    nothing: Data = {"checks": [], "invariance": []}
    return {"kind": "disagrees", "failure": _failure(said, nothing)}


def _breach(said: str, *, together: bool) -> Data | None:
    one, total, missing = _BREACH.fullmatch(said), _SUM.fullmatch(said), _NOT_SCORED.fullmatch(said)
    components = "all" if together else "one"
    if one is not None:
        value, low, high, limit = map(float, one.groups()[1:])
        drop = {"value": value, "low": low, "high": high}
        return {"metric": one["metric"], "limit": limit, "drop": drop, "bound": value, "components": components}
    if total is not None:
        bound, limit = map(float, total.groups()[1:])
        return {"metric": total["metric"], "limit": limit, "bound": bound, "components": "sum"}
    return {"metric": missing["metric"], "limit": 0.0, "components": components} if missing is not None else None
