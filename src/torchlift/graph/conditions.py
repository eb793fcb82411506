"""Conditions of a pass in code: what a graph must be before the pass, and what it is after it."""

from __future__ import annotations

import onnx_ir as ir

from torchlift.errors import ConversionError

_EXPORT_AGAIN = "The file is damaged, or was written by another tool: export the model again."

Borders = tuple[tuple[str | None, ir.DataType | None], ...]
"""The name and the type of each input and output of a graph."""


class Pass(ir.passes.InPlacePass):
    """A pass that checks its conditions at each call.

    A subclass states them in ``requires`` and ``ensures``. Where a user's model can break one, they raise
    ConversionError. Where only a mistake in the pass can, they raise PreconditionError or PostconditionError.

    Every pass ensures that the inputs and outputs of the graph keep their names, their types and their order.
    """

    def __call__(self, model_or_result: ir.Model | ir.passes.PassResult, /) -> ir.passes.PassResult:
        model = model_or_result if isinstance(model_or_result, ir.Model) else model_or_result.model
        before = _borders(model)
        try:
            result = super().__call__(model)
        except (ir.passes.PreconditionError, ir.passes.PostconditionError) as error:
            # onnx_ir wraps what `requires` and `ensures` raise: callers get the error that says what to do
            if isinstance(error.__cause__, ConversionError):
                raise error.__cause__ from None
            raise
        if (after := _borders(model)) != before:
            raise ir.passes.PostconditionError(f"{type(self).__name__} turned {before} into {after}")
        return result


def _borders(model: ir.Model) -> Borders:
    return tuple((value.name, value.dtype) for value in (*model.graph.inputs, *model.graph.outputs))


def standard_opset(model: ir.Model) -> int | None:
    """The opset of the ONNX standard that a model imports; None where it imports none."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx"))


def require_opset(model: ir.Model, least: int = 1, *, needs: str = "") -> None:
    """Raise ConversionError where a model imports no opset of the standard, or one below ``least``.

    ``needs`` says for the message what ``least`` brought, for example "scales by channel".
    """
    opset = standard_opset(model)
    if opset is None:
        raise ConversionError("the graph does not say which opset its operators are of", remedy=_EXPORT_AGAIN)
    if opset < least:
        raise ConversionError(f"opset {opset} has no {needs}", remedy=f"Export with `opset={least}` or later.")


def require_order(model: ir.Model) -> None:
    """Raise ConversionError unless each node of the main graph stands behind the nodes that write what it reads.

    A graph with a cycle has no such order. A value that nothing writes breaks it too.
    """
    graph = model.graph
    written = {*graph.inputs, *graph.initializers.values()}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in written:
                when = "nothing writes" if value.producer() is None else "a later node writes"
                raise ConversionError(
                    f"the graph is not in order: {node.name or node.op_type} reads {value.name}, which {when}",
                    remedy=_EXPORT_AGAIN,
                )
        written.update(node.outputs)
    for value in graph.outputs:
        if value not in written:
            raise ConversionError(f"nothing in the graph writes its output {value.name}", remedy=_EXPORT_AGAIN)
