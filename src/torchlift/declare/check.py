"""Whether what a component declares fits the tensors of its signature."""

from __future__ import annotations

from collections.abc import Mapping

from torchlift.declare.answers import Answer, Boxes, Embedding, Labels, Picture, Raw, Span, TokenLabels
from torchlift.declare.inputs import ArrayInput, ImageInput, Input, QuestionInput, TextInput, TextPart
from torchlift.errors import SignatureError
from torchlift.signature import BATCH, Signature, TensorSpec


def completed_inputs(signature: Signature, declared: Mapping[str, Input]) -> dict[str, Input]:
    """A declaration for every input, in the signature's order: what is not declared is an array.

    Raises SignatureError for a name that no input has, and for a declaration that its tensor does not fit.
    """
    _require_known("input", declared, signature.input_names)
    found = {name: declared.get(name, ArrayInput()) for name in signature.input_names}
    for spec in signature.inputs:
        _check_input(spec, found)
        if isinstance(text := found[spec.name], (TextInput, QuestionInput)):
            _check_length(signature, spec, text)
    return found


def completed_answers(signature: Signature, declared: Mapping[str, Answer]) -> dict[str, Answer]:
    """A declaration for every output, in the signature's order: what is not declared is given as it is.

    Raises SignatureError for a name that no output has, and for a declaration that its tensor does not fit.
    """
    _require_known("output", declared, signature.output_names)
    found = {name: declared.get(name, Raw()) for name in signature.output_names}
    for spec in signature.outputs:
        _check_answer(spec, found[spec.name])
        _check_mask(signature, spec, found[spec.name])
        _check_end(signature, spec, found[spec.name])
        _check_factor(signature, spec, found[spec.name])
    return found


def _require_known(what: str, declared: Mapping[str, object], known: tuple[str, ...]) -> None:
    for name in declared:
        if name not in known:
            raise SignatureError(
                f"{name!r} is declared, and there is no such {what}", remedy=f"The {what}s are {', '.join(known)}."
            )


def _check_input(spec: TensorSpec, declared: Mapping[str, Input]) -> None:
    match declared[spec.name]:
        case ImageInput() as image:
            _check_image(spec, image)
        case TextInput() | QuestionInput():
            _check_tokens(spec)
        case TextPart(of=of):
            _check_tokens(spec)
            if not isinstance(declared.get(of), (TextInput, QuestionInput)):
                raise SignatureError(
                    f"input {spec.name} follows from {of!r}, which is no text",
                    remedy="Name an input that is a TextInput or a QuestionInput.",
                )


def _check_image(spec: TensorSpec, image: ImageInput) -> None:
    height, width = image.size or (None, None)
    sides = spec.shape[-2:]
    free = all(isinstance(side, str) and side != BATCH for side in sides)
    fits = free if image.varies else sides == (height, width) or free
    if spec.dtype != "float32" or len(spec.shape) != 4 or spec.shape[1] != 3 or not fits:
        wanted = "[batch, 3, height, width]" if image.varies else f"[batch, 3, {height}, {width}]"
        raise SignatureError(
            f"input {spec.name} is {spec}, and is declared to be pictures", remedy=f"It must be float32{wanted}."
        )


def _check_tokens(spec: TensorSpec) -> None:
    if spec.dtype not in ("int64", "int32") or len(spec.shape) != 2 or spec.shape[0] != BATCH:
        raise SignatureError(
            f"input {spec.name} is {spec}, and is declared to be texts", remedy="It must be int64[batch, tokens]."
        )


def _check_length(signature: Signature, spec: TensorSpec, text: TextInput | QuestionInput) -> None:
    dim = spec.shape[1]
    most = signature.axis(dim).max if isinstance(dim, str) else dim
    if most is not None and text.length > most:
        raise SignatureError(
            f"input {spec.name} takes texts of up to {text.length} tokens, and {spec} holds {most}",
            remedy=f"Declare a length of at most {most}, or a longer axis.",
        )


def _check_answer(spec: TensorSpec, answer: Answer) -> None:
    wide = spec.dtype.startswith("float") and len(spec.shape) == 2
    match answer:
        case Embedding() if not wide or not isinstance(spec.shape[1], int):
            raise SignatureError(
                f"output {spec.name} is {spec}, and is declared to be an embedding",
                remedy="It must be float32[batch, width], of a width that does not vary.",
            )
        case Labels(names=names) if not wide or spec.shape[1] not in (len(names), None):
            raise SignatureError(
                f"output {spec.name} is {spec}, and {len(names):,} labels are declared",
                remedy=f"It must be float32[batch, {len(names)}]: name every class of the model.",
            )
        case TokenLabels(names=names) if (
            not spec.dtype.startswith("float") or len(spec.shape) != 3 or spec.shape[2] not in (len(names), None)
        ):
            raise SignatureError(
                f"output {spec.name} is {spec}, and {len(names):,} labels are declared for its tokens",
                remedy=f"It must be float32[batch, sequence, {len(names)}]: name every class of the model.",
            )
        case Boxes() if not _holds_boxes(spec, answer):
            wanted = f"batch, boxes, {answer.columns}" if answer.objectness else f"batch, {answer.columns}, boxes"
            raise SignatureError(
                f"output {spec.name} is {spec}, and boxes of {len(answer.names):,} classes are declared",
                remedy=f"It must be float32[{wanted}]: name every class of the model.",
            )
        case Picture() if not spec.dtype.startswith("float") or len(spec.shape) != 4 or spec.shape[:2] != (BATCH, 3):
            raise SignatureError(
                f"output {spec.name} is {spec}, and is declared to be pictures",
                remedy="It must be float32[batch, 3, height, width].",
            )
        case Raw(groups=groups) if groups and sum(groups) not in spec.shape:
            raise SignatureError(
                f"output {spec.name} is {spec}, and groups of {sum(groups)} columns are declared",
                remedy="The groups must add up to one of its dimensions, which must not vary.",
            )


def _holds_boxes(spec: TensorSpec, boxes: Boxes) -> bool:
    if not spec.dtype.startswith("float") or len(spec.shape) != 3 or spec.shape[0] != BATCH:
        return False
    return spec.shape[2 if boxes.objectness else 1] in (boxes.columns, None)


def _check_mask(signature: Signature, spec: TensorSpec, answer: Answer) -> None:
    """Raise SignatureError for a mask that is no input, or that does not lie along the output's first dimensions."""
    if not isinstance(answer, (Raw, Span, TokenLabels)) or not answer.mask:
        return
    mask = next((found for found in signature.inputs if found.name == answer.mask), None)
    if mask is None or mask.shape != spec.shape[: len(mask.shape)]:
        raise SignatureError(
            f"output {spec.name} is {spec}, and is declared to be masked by {answer.mask!r}"
            + (f", which is {mask}" if mask else ""),
            remedy="Name an input that has the first dimensions of the output, such as a mask [batch, sequence].",
        )


def _check_end(signature: Signature, spec: TensorSpec, answer: Answer) -> None:
    """Raise SignatureError for a span whose two outputs do not have a score for each token."""
    if not isinstance(answer, Span):
        return
    end = next((found for found in signature.outputs if found.name == answer.end), None)
    tokens = {found.shape for found in signature.inputs if len(found.shape) == 2 and found.shape[0] == BATCH}
    fits = spec.dtype.startswith("float") and spec.shape in tokens
    if not fits or end is None or end is spec or (end.dtype, end.shape) != (spec.dtype, spec.shape):
        said = f", and its end, {answer.end!r}, is {end or 'no output'}"
        raise SignatureError(
            f"output {spec.name} is {spec}, and is declared to be a span{said}",
            remedy="Both must be float32[batch, sequence], as the token ids are.",
        )


def _check_factor(signature: Signature, spec: TensorSpec, answer: Answer) -> None:
    """Raise SignatureError for the factor of a picture that is no input, or no single number within bounds."""
    if not isinstance(answer, Picture) or not answer.factor:
        return
    factor = next((found for found in signature.inputs if found.name == answer.factor), None)
    if factor is None or factor.shape or factor.dtype not in ("int64", "int32", "float32") or factor.bounds is None:
        raise SignatureError(
            f"output {spec.name} is declared to be larger by the factor {answer.factor!r}"
            + (f", which is {factor}" if factor else ", and there is no such input"),
            remedy="Name an input without dimensions, int64 or float32, that has bounds: "
            'TensorSpec("factor", "int64", (), bounds=(1, 9)).',
        )
