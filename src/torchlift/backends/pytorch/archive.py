"""What a torch.export archive may say to be opened: only what runs no code of whoever wrote it.

As of torch 2.9 to 2.13, torch.export.load by itself is no safer than pickle. It unpickles sample inputs that
``weights_only`` refuses, weights and constants that are marked as pickled, and archives of older formats; it loads the
libraries of AOTInductor; it hands the sizes of tensors to sympy, which evaluates them as Python; it looks up operators
anywhere below ``torch`` and ``operator``; and the names of nodes and weights become the source of a Python function.
So an archive is read here first, by torch's own reader of archives, and refused unless all of it is what torch.export
writes of a plain network: tensors as raw bytes, ATen's operators, sizes that are arithmetic, names that are names.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchlift.errors import BundleError

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)",
    re.ASCII,
)
_PROGRAM = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"

_NAME = re.compile(r"\w*", re.ASCII)
_PATH = re.compile(r"[\w.-]*", re.ASCII)
"""Of a weight or a module: names of submodules with dots between them."""

_VERSION = re.compile(r"[\w.+]*", re.ASCII)

_ATEN = re.compile(r"torch\.ops\.aten\.(?!save\.|from_file\.)(\w+)\.(\w+)", re.ASCII)
"""All of ATen but the two operators that open files."""

_OF_SIZES = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|torch\._?sym_\w+|math\.(ceil|floor|trunc)",
    re.ASCII,
)
"""What torch.export computes sizes by."""

_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        Integer Float Rational Add Mul Pow Max Min Mod Abs Eq Ne Lt Le Gt Ge And Or Not StrictLessThan StrictGreaterThan
        LessThan GreaterThan Equality Unequality FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt
        CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt
        RoundDecimal ToFloat Identity
        """,
    )
)
"""What the size of a tensor may be computed by."""

_NEVER = ("as_graph", "as_custom_obj", "as_operator")
"""Arguments that are more than tensors, numbers and strings."""

_BETWEEN = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


def check_archive(file: Path) -> None:
    """Raise BundleError for an archive that holds anything but a plain network's program; runs nothing of it."""
    from torch.export.pt2_archive import PT2ArchiveReader

    try:
        with PT2ArchiveReader(str(file)) as archive:
            names = archive.get_file_names()
            samples = any(archive.read_bytes(name) for name in names if name == _SAMPLES)
            texts = {name: json.loads(archive.read_bytes(name)) for name in names if name.endswith(".json")}
    except Exception as error:
        raise _refusal(file, f"it cannot be read: {error}") from error
    problems = [f"the record {name}" for name in names if not _RECORDS.fullmatch(name)]
    problems += ["sample inputs, which are a pickle"] * samples + ["no program"] * (_PROGRAM not in texts)
    problems += filter(None, (_problem(value, name) for name, value in texts.items()))
    if problems:
        raise _refusal(file, f"it has {problems[0]}")


def _refusal(file: Path, reason: str) -> BundleError:
    return BundleError(
        f"{file.name} is not opened: {reason}",
        remedy="A program must be as torchlift wrote it; ship the model again, or leave the backend pytorch out.",
    )


def _problem(value: Any, key: str) -> str:
    """What of a JSON value may not be, in words; empty where all may. ``key`` is the nearest key above it."""
    if isinstance(value, str):
        return "" if _TEXTS.get(key, _is(_NAME))(value) else f"the {key} {value[:60]!r}"
    if isinstance(value, list):
        return next(filter(None, (_problem(item, key) for item in value)), "")
    if not isinstance(value, Mapping):
        return "a pickled tensor" if key == "use_pickle" and value is not False else ""
    for name, item in value.items():
        if not _PATH.fullmatch(name) or name in _NEVER or (name == "metadata" and item):
            return f"the {name[:60]!r}"
        if problem := _problem(item, name):
            return problem
    return ""


def _is(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _is_operator(text: str) -> bool:
    """Whether it names an operator, and nothing else that can be reached by way of one."""
    import torch

    found = _ATEN.fullmatch(text)
    if found is None:
        return _OF_SIZES.fullmatch(text) is not None
    packet = getattr(torch.ops.aten, found[1], None)
    return isinstance(packet, torch._ops.OpOverloadPacket) and found[2] in packet.overloads()


def _is_size(text: str) -> bool:
    """Whether sympy computes it from numbers and symbols, and does nothing else."""
    try:
        return _is_arithmetic(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return False


def _is_arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.Name):
        return node.id in ("oo", "int_oo") or re.fullmatch(r"[a-z]+\d+", node.id, re.ASCII) is not None
    if isinstance(node, ast.UnaryOp):
        return _is_arithmetic(node.operand)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _BETWEEN) and _is_arithmetic(node.left) and _is_arithmetic(node.right)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    if not all(_is_flag(keyword.value) for keyword in node.keywords):
        return False
    if node.func.id == "Symbol":
        return len(node.args) == 1 and _is_symbol(node.args[0])
    return node.func.id in _FUNCTIONS and all(map(_is_arithmetic, node.args))


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _is_symbol(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()


def _is_spec(text: str) -> bool:
    """Whether it says that inputs and outputs come in tuples, and keyword arguments not at all."""
    try:
        version, spec = json.loads(text)
    except ValueError:
        return False
    return isinstance(version, int) and _is_nested(spec)


def _is_nested(spec: Any) -> bool:
    if not isinstance(spec, Mapping) or spec.keys() != {"type", "context", "children_spec"}:
        return False
    known = {None: (None,), "builtins.tuple": ("null",), "builtins.list": ("null",), "builtins.dict": ("[]",)}
    return spec["context"] in known.get(spec["type"], ()) and all(map(_is_nested, spec["children_spec"]))


_TEXTS: Mapping[str, Callable[[str], bool]] = {
    "target": _is_operator,
    "expr_str": _is_size,
    "in_spec": _is_spec,
    "out_spec": _is_spec,
    "torch_version": _is(_VERSION),
    "parameter_name": _is(_PATH),
    "buffer_name": _is(_PATH),
    "tensor_constant_name": _is(_PATH),
    "fqn": _is(_PATH),
    "as_string": lambda text: True,  # an argument of an operator, which stays a string
    "as_strings": lambda text: True,
    "guards_code": lambda text: True,  # compiled only for an archive with sample inputs, which is refused
}
"""The keys of schema version 8 whose text is more than a name, and what it may be."""
