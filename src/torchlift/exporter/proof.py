"""Proves an exported file: it is valid ONNX, no input's value became a constant, and it answers as PyTorch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchlift.backends import Session
from torchlift.errors import BakedInError, ExportError, TorchliftError, VerificationError
from torchlift.evidence import GoldenCheck
from torchlift.exporter.answers import asked, is_memory, no_memory
from torchlift.exporter.shapes import refined
from torchlift.exporter.strategies import Strategy
from torchlift.families.base import ModelComponent
from torchlift.families.sizes import distinct_sizes
from torchlift.graph.inspect import read_facts
from torchlift.messages import failure_text
from torchlift.progress import Progress
from torchlift.prove.goldens import Golden
from torchlift.prove.numerics import Judge, Run, failures, verify_goldens
from torchlift.signature import Signature

_REDRAWS = 8
"""How often an input that a graph does not read is drawn anew, to see whether PyTorch reads it."""


def require_inputs_read(part: ModelComponent, file: Path, golden: Golden, seed: int) -> list[str]:
    """The inputs that neither the graph nor the network reads, by name.

    Raises BakedInError for one that the network reads and the graph does not: its value became a constant.
    """
    unread = read_facts(file).unused
    for name in unread:
        if _is_read(part, golden, name, seed):
            raise BakedInError(
                f"input {name} is not read by any node of the graph: its value was turned into a constant",
                remedy="Compute with it as a tensor: int(), float(), .item() and .tolist() turn it into a constant.",
            )
    return list(unread)


def _is_read(part: ModelComponent, golden: Golden, name: str, seed: int) -> bool:
    """Whether the network's answers to a golden change with the values of an input."""
    sizes = part.signature.check(golden.inputs)
    for number in range(_REDRAWS):
        drawn = part.sample(sizes, np.random.default_rng([seed, 1000 + number]))
        try:
            answers = asked(part, {**golden.inputs, name: drawn[name]})
        except Exception:  # it does not take these values, so it reads them
            return True
        for output, tensor in answers.items():
            if not np.array_equal(tensor.numpy(), golden.outputs[output], equal_nan=True):
                return True
    return False


def require_valid(file: Path, strategy: Strategy, opset: int) -> None:
    """Raise ExportError where the file is not valid ONNX of that opset."""
    import onnx

    facts = read_facts(file)
    if facts.opset != opset:
        raise ExportError(
            f"opset {opset} was asked for, the {strategy.exporter} exporter wrote opset {facts.opset}",
            remedy=f"Ask for `opset={facts.opset}`, or try another `exporter=`.",
        )
    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"the exported graph is not valid ONNX: {str(error).strip():.300}", remedy="Try another `opset=`."
        ) from error


def prove_answers(session: Session, goldens: Sequence[Golden], judge: Judge, progress: Progress) -> None:
    """Raise VerificationError where a session answers otherwise than PyTorch at a golden, BakedInError where it does
    not run there.
    """
    with progress.stage("check the file at every golden", len(goldens)) as stage:
        for golden in goldens:
            wrong = failures(_checked(session.run, golden, session.signature, judge), judge.tolerance)
            if wrong:
                raise VerificationError(
                    f"the exported graph does not answer as PyTorch does: {'; '.join(map(failure_text, wrong))}",
                    remedy="Something in the network depends on Python values or on the traced shapes.",
                )
            stage.advance()


def _checked(run: Run, golden: Golden, signature: Signature, judge: Judge) -> tuple[GoldenCheck, ...]:
    try:
        return verify_goldens(run, [golden], judge)
    except Exception as error:
        asked, traced = signature.check(golden.inputs), distinct_sizes(signature.axes)
        if is_memory(error):
            raise no_memory(asked, error) from error
        other = ", ".join(f"{name} {size} (traced at {traced[name]})" for name, size in asked.items())
        detail = error.message if isinstance(error, TorchliftError) else str(error).strip()
        raise BakedInError(
            f"the exported graph does not run at {other or 'the shapes that were traced'}: {detail:.300}",
            remedy="A size was turned into a constant where the network was traced: use tensor operations for it.",
        ) from error


def with_symbolic(
    signature: Signature, symbolic: Sequence[Sequence[str | None]], goldens: Sequence[Golden]
) -> Signature:
    """The signature whose outputs have the program's expressions in the place of sizes that no simple one gave, where
    they hold at every golden.
    """
    if len(symbolic) != len(signature.outputs):
        return signature
    outputs = []
    for spec, sizes in zip(signature.outputs, symbolic, strict=True):
        runs = [(signature.check(golden.inputs), golden.outputs[spec.name].shape) for golden in goldens]
        outputs.append(replace(spec, shape=refined(spec.shape, sizes, runs)))
    return replace(signature, outputs=tuple(outputs))
