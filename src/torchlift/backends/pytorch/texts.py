"""Texts in a program that torch evaluates or looks up. This module accepts only those that cannot run code."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping
from typing import Any

import torch

from torchlift.backends.pytorch.forms import parse

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)

_INTERNAL = frozenset(
    re.findall(
        r"\w+",
        """
        __and__ __lshift__ __or__ __rshift__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _addmm_activation
        _assert_async _assert_scalar _assert_tensor_metadata _cdist_forward _conj _conj_physical _convolution
        _embedding_bag _embedding_bag_forward_only _euclidean_dist _fft_c2c _fft_c2r _fft_r2c
        _functional_assert_async _functional_assert_scalar _fused_rms_norm _is_all_true _is_any_true _linalg_det
        _linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd _local_scalar_dense _log_softmax _logcumsumexp
        _native_batch_norm_legit_no_training _native_multi_head_attention _neg_view _pdist_forward _prelu_kernel
        _safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_efficient_attention
        _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _shape_as_tensor _softmax
        _stack _to_copy _transformer_encoder_layer_fwd _trilinear _unsafe_view _upsample_bicubic2d_aa
        _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
        _weight_norm _weight_norm_interface
        """,
    )
)
"""ATen's internal operators that occur in networks. Other internal operators, such as _reshape_alias, do not check
their arguments: with wrong ones they read or write beyond a tensor.
"""

_OF_SIZES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "_operator": "abs add and_ eq floordiv ge gt le lshift lt mod mul ne neg or_ pos pow rshift sub truediv",
        "math": "ceil floor trunc",
        "torch": "_sym_sqrt sym_float sym_int sym_ite sym_max sym_min sym_not sym_sqrt sym_sum",
    }.items()
    for name in names.split()
)
"""The functions by which torch.export computes sizes."""

_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        Integer Rational Add Mul Pow Max Min Mod Abs Eq Ne Lt Le Gt Ge And Or Not StrictLessThan StrictGreaterThan
        LessThan GreaterThan Equality Unequality FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt
        CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt
        RoundDecimal ToFloat Identity
        """,
    )
)
"""The functions that an expression for a size may call, besides Symbol and Float."""

_VALUES = frozenset({"oo", "int_oo", "true", "false"})
_BETWEEN = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)

_ONE_LINE = re.compile(r"[\w ,.()'=+*/%-]*", re.ASCII)
"""Only these characters, since Python and sympy treat line ends, comments and other scripts differently."""

_SYMBOL = re.compile(r"(s|u|zf|zuf)\d+", re.ASCII)
_FLOAT = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII)


def is_message(text: str) -> bool:
    """Whether a text stays one string when torch writes it between quotes into generated source."""
    return text.isprintable() and not {'"', "\\"} & set(text)


def is_operator(text: Any) -> bool:
    """Whether a text names a function of sizes, or an operator of ATen that changes no argument and opens no file."""
    return isinstance(text, str) and (text in _OF_SIZES or _is_aten(text))


@functools.lru_cache(maxsize=1024)
def _is_aten(text: str) -> bool:
    found = _ATEN.fullmatch(text)
    if found is None or "backward" in text or found[1] == "from_file":
        return False
    if found[1].startswith("_") and found[1] not in _INTERNAL:
        return False
    packet = getattr(torch.ops.aten, found[1], None)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or found[2] not in packet.overloads():
        return False
    operator = getattr(packet, found[2])
    computes = torch._C._dispatch_has_kernel(operator.name())  # TorchScript's own have none: save, warn, dict, ...
    return computes and not operator._schema.is_mutable


def is_symbol(text: Any) -> bool:
    """Whether a text is the name of a size or a number that is not known yet, such as ``s0``."""
    return isinstance(text, str) and _SYMBOL.fullmatch(text) is not None


def is_expression(text: Any) -> bool:
    """Whether a text is arithmetic with numbers and symbols only. sympy evaluates it as Python."""
    if not isinstance(text, str) or _ONE_LINE.fullmatch(text) is None:
        return False
    try:
        return _is_arithmetic(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.Name):
        return node.id in _VALUES or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.UnaryOp):
        return _is_arithmetic(node.operand)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _BETWEEN) and _is_arithmetic(node.left) and _is_arithmetic(node.right)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    if node.func.id == "Symbol":
        return _is_quoted(node.args, _SYMBOL) and all(_is_constant(k.value, bool) for k in node.keywords)
    if node.func.id == "Float":
        precise = all(k.arg == "precision" and _is_constant(k.value, int) for k in node.keywords)
        return _is_quoted(node.args, _FLOAT) and precise
    return node.func.id in _FUNCTIONS and not node.keywords and all(map(_is_arithmetic, node.args))


def _is_quoted(arguments: list[ast.expr], pattern: re.Pattern[str]) -> bool:
    """Whether the arguments are one string that matches the pattern."""
    if len(arguments) != 1 or not _is_constant(arguments[0], str):
        return False
    return pattern.fullmatch(ast.literal_eval(arguments[0])) is not None


def _is_constant(node: ast.expr, kind: type) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is kind


def is_spec(text: Any) -> bool:
    """Whether a text describes inputs or outputs as plain tuples, lists and empty dicts."""
    if not isinstance(text, str):
        return False
    try:
        spec = parse(text)
        return isinstance(spec, list) and len(spec) == 2 and type(spec[0]) is int and _is_nested(spec[1])
    except (ValueError, RecursionError):
        return False


def _is_nested(spec: Any) -> bool:
    if not isinstance(spec, Mapping) or spec.keys() != {"type", "context", "children_spec"}:
        return False
    kind = (spec["type"], spec["context"])
    known = ((None, None), ("builtins.tuple", "null"), ("builtins.list", "null"), ("builtins.dict", "[]"))
    return kind in known and isinstance(spec["children_spec"], list) and all(map(_is_nested, spec["children_spec"]))
