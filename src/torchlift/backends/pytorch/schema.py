"""The JSON that torch.export writes for a plain network, key by key. It has no place for code.

The keys are those of schema version 8 (torch._export.serde.schema), as torch 2.9 to 2.13 write them: tensors, numbers,
strings and ATen's operators. Whatever a plain network does not have is left out here, and so is refused: graphs within
graphs, custom objects, operators as arguments, tokens, gradients, named tuples, metadata.
"""

from __future__ import annotations

import torch

from torchlift.backends.pytorch.forms import (
    Form,
    UnlikeError,
    Where,
    among,
    flag,
    many,
    maybe,
    named,
    nothing,
    number,
    record,
    size,
    text,
    that,
    union,
    whole,
)
from torchlift.backends.pytorch.texts import is_expression, is_message, is_operator, is_spec, is_symbol


def _not_pickled(value: object, where: Where) -> None:
    """Accept only ``false``.

    For anything that counts as true in Python, also the text "false", torch would unpickle.
    """
    if value is not False:
        raise UnlikeError(f"a pickled tensor: use_pickle is {value!r:.60} for {where[-2]}")


_NAME = text(r"\w*")
_PATH = text(r"[\w.-]*")
"""The path of a weight or a module: names of submodules with dots between them."""

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
    31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz,
    33: torch.float8_e8m0fnu,
    34: torch.uint32,
    35: torch.uint64,
}
"""torch's number of a type (schema.ScalarType) -> the type."""

_STRING = that(lambda value: isinstance(value, str) and is_message(value))
_DTYPE = among(*DTYPES)
_LAYOUT = among(7)  # strided
_DEVICE = record({"type": text("cpu|cuda|meta")}, {"index": maybe(whole)})


def _symbolic(key: str, form: Form) -> Form:
    """A number, or an expression of symbols whose value is a number."""
    hint = union({"as_int": whole, "as_bool": flag, "as_float": number})
    expression = record({"expr_str": that(is_expression)}, {"hint": maybe(hint)})
    return union({"as_expr": expression, key: form})


def _tensor(extent: Form) -> Form:
    return record(
        {
            "dtype": _DTYPE,
            "sizes": many(extent),
            "requires_grad": flag,
            "device": _DEVICE,
            "strides": many(extent),
            "storage_offset": extent,
            "layout": _LAYOUT,
        }
    )


_SYM_INT = _symbolic("as_int", whole)
_TENSOR = record({"name": _NAME})
_OPTIONAL_TENSOR = union({"as_tensor": _TENSOR, "as_none": flag})
_INT = union({"as_name": _NAME, "as_int": whole})
_FLOAT = union({"as_name": _NAME, "as_float": number})
_BOOL = union({"as_name": _NAME, "as_bool": flag})

_ARGUMENT = union(
    {
        "as_none": flag,
        "as_tensor": _TENSOR,
        "as_tensors": many(_TENSOR),
        "as_optional_tensor": _OPTIONAL_TENSOR,
        "as_optional_tensors": many(_OPTIONAL_TENSOR),
        "as_int": whole,
        "as_ints": many(whole),
        "as_float": number,
        "as_floats": many(number),
        "as_bool": flag,
        "as_bools": many(flag),
        "as_complex": record({"real": number, "imag": number}),
        "as_string": _STRING,
        "as_strings": many(_STRING),
        "as_sym_int": _INT,
        "as_sym_ints": many(_INT),
        "as_sym_float": _FLOAT,
        "as_sym_floats": many(_FLOAT),
        "as_sym_bool": _BOOL,
        "as_sym_bools": many(_BOOL),
        "as_scalar_type": _DTYPE,
        "as_memory_format": among(1, 2, 3, 4),
        "as_layout": _LAYOUT,
        "as_device": _DEVICE,
    }
)

_NODE = record(
    {
        "target": that(is_operator),
        "inputs": many(record({"name": _NAME, "arg": _ARGUMENT}, {"kind": maybe(among(0, 1, 2))})),
        "outputs": many(_ARGUMENT),
        "metadata": nothing,
    },
    {"name": maybe(_NAME), "is_hop_single_tensor_return": maybe(flag)},
)

_GRAPH = record(
    {
        "inputs": many(_ARGUMENT),
        "outputs": many(_ARGUMENT),
        "nodes": many(_NODE),
        "tensor_values": named(_NAME, _tensor(_SYM_INT)),
        "sym_int_values": named(_NAME, _SYM_INT),
        "sym_bool_values": named(_NAME, _symbolic("as_bool", flag)),
    },
    {
        "sym_float_values": named(_NAME, _symbolic("as_float", number)),
        "is_single_tensor_return": flag,
        "custom_obj_values": nothing,
    },
)

_CONSTANT = union({"as_none": flag, "as_int": whole, "as_float": number, "as_bool": flag, "as_string": _STRING})

_INPUT = union(
    {
        "user_input": record({"arg": _ARGUMENT}),
        "parameter": record({"arg": _TENSOR, "parameter_name": _PATH}),
        "buffer": record({"arg": _TENSOR, "buffer_name": _PATH, "persistent": flag}),
        "tensor_constant": record({"arg": _TENSOR, "tensor_constant_name": _PATH}),
        "constant_input": record({"name": _NAME, "value": _CONSTANT}),
    }
)

_OUTPUT = union(
    {
        "user_output": record({"arg": _ARGUMENT}),
        "buffer_mutation": record({"arg": _TENSOR, "buffer_name": _PATH}),
        "parameter_mutation": record({"arg": _TENSOR, "parameter_name": _PATH}),
        "user_input_mutation": record({"arg": _TENSOR, "user_input_name": _NAME}),
    }
)

_CALL = record(
    {
        "inputs": many(_ARGUMENT),
        "outputs": many(_ARGUMENT),
        "in_spec": that(is_spec),
        "out_spec": that(is_spec),
    },
    {"forward_arg_names": maybe(many(_NAME))},
)

_GRAPH_MODULE = record(
    {
        "graph": _GRAPH,
        "signature": record({"input_specs": many(_INPUT), "output_specs": many(_OUTPUT)}),
        "module_call_graph": many(record({"fqn": _PATH}, {"signature": maybe(_CALL)})),
    },
    {"metadata": nothing, "treespec_namedtuple_fields": nothing},
)

PROGRAM = record(
    {
        "graph_module": _GRAPH_MODULE,
        "opset_version": named(_NAME, whole),
        "range_constraints": named(that(is_symbol), record({"min_val": maybe(whole), "max_val": maybe(whole)})),
        "schema_version": record({"major": whole, "minor": whole}),
    },
    {
        "verifiers": many(_NAME),
        "torch_version": text(r"[\w.+]*"),
        "guards_code": many(that(lambda value: isinstance(value, str))),  # Python; whoever opens the program drops it
    },
)
"""The form of ``models/model.json``."""


def payload(path: str) -> Form:
    """The form of a document that lists tensors: of each, its type, its sizes and its record (named by ``path``)."""
    meta = record(
        {
            "path_name": text(path),
            "is_param": flag,
            "use_pickle": _not_pickled,
            "tensor_meta": _tensor(union({"as_int": size})),
        }
    )
    return record({"config": named(_PATH, meta)})
