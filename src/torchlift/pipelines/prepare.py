"""Prepare: a component's inputs as they are given, pictures, texts and arrays, become feeds for any session of it.

For example: ``Preparer(component, assets).prepare({"image": ["cat.jpg", "dog.jpg"]})`` has two rows, and
``.feeds(rows, sizes)`` makes the arrays of some of them. A preparer knows no session, and threads may share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from torchlift.bundle import Bundle
from torchlift.declare.inputs import ImageInput, QuestionInput, TextInput, TextPart
from torchlift.errors import BundleError, InputError, SignatureError
from torchlift.manifest import Component
from torchlift.pipelines.columns import (
    ArrayColumn,
    Column,
    ImageColumn,
    MaskColumn,
    Prepared,
    RowsColumn,
    Sizes,
    TextColumn,
    TypesColumn,
    WindowColumn,
)
from torchlift.processing.image import pixels_of, size_of
from torchlift.processing.questions import Passage, QuestionTokenizer, Windows
from torchlift.processing.tokens import Placing, TextOrPair, Tokenizer, Tokens, open_tokenizer
from torchlift.signature import BATCH, TensorSpec


class Cut(NamedTuple):
    """How many ``texts`` were cut, ``of`` how many, to how many ``tokens``, and the position of the ``first``."""

    texts: int
    of: int
    tokens: int
    first: int


class Preparer:
    """Carries out what a component declares of its inputs. ``tokenizers`` are by the name of the text input,
    ``questions`` those of question inputs.
    """

    def __init__(
        self,
        component: Component,
        tokenizers: Mapping[str, Tokenizer],
        questions: Mapping[str, QuestionTokenizer] | None = None,
    ) -> None:
        self.component = component
        self.signature = component.signature
        self.tokenizers = tokenizers
        self.questions = questions or {}
        self._specs = {spec.name: spec for spec in component.signature.inputs}

    @classmethod
    def of(cls, bundle: Bundle, component: Component) -> Preparer:
        """The preparer of a bundle's component. Raises BundleError for a tokenizer that is missing, cannot be read, or
        has more tokens than the model.
        """
        found: dict[str, Any] = {
            name: _tokenizer(bundle, component, name, declared)
            for name, declared in component.inputs.items()
            if isinstance(declared, (TextInput, QuestionInput))
        }
        questions = {name: tokenizer for name, tokenizer in found.items() if isinstance(tokenizer, QuestionTokenizer)}
        return cls(component, {name: t for name, t in found.items() if name not in questions}, questions)

    def prepare(self, values: Mapping[str, Any]) -> Prepared:
        """Check what is given for each input: pictures and texts in lists, or arrays of the signature's dtype and
        shape, also an array a row (:class:`Rows`), which may differ in their sizes.

        An input that follows from a text is given only where the text is given as an array of ids. Pictures are not
        decoded yet. Raises InputError and SignatureError that name the input and the row.
        """
        self._require_names(values)
        given = {name: self._value(name, value) for name, value in values.items()}
        tokens = {name: self.tokens(name, value) for name, value in given.items() if isinstance(value, _Texts)}
        columns = {name: self._column(name, value, tokens) for name, value in given.items()}
        for name, declared in self.component.inputs.items():
            if isinstance(declared, TextPart) and name not in columns and declared.of in tokens:
                column = MaskColumn if declared.part == "mask" else TypesColumn
                columns[name] = column(self._specs[name], tokens[declared.of])
        return Prepared.of(columns[name] for name in self.signature.input_names)

    def windows(self, pairs: Sequence[tuple[str, str]], names: Sequence[str] = ()) -> Windows:
        """The rows of questions and their texts, for the question input of the component. Texts that are the same
        object are made tokens of once.

        ``names`` are how errors call the questions. Raises InputError for a question or a text without any token, and
        for a question that has more than a row holds.
        """
        (tokenizer,) = self.questions.values()
        passages: dict[int, Passage] = {}
        questions = []
        for position, (question, text) in enumerate(pairs):
            said = names[position] if names else f"question {position}"
            questions.append(tokenizer.question(question, said))
            if id(text) not in passages:
                passages[id(text)] = tokenizer.passage(text, f"the context of {said}")
        return tokenizer.windows(questions, [passages[id(text)] for _, text in pairs])

    def prepared(self, windows: Windows) -> Prepared:
        """Windows as rows of the component, with the inputs that follow from them."""
        columns: list[Column] = []
        for name, declared in self.component.inputs.items():
            part = declared.part if isinstance(declared, TextPart) else "ids"
            columns.append(WindowColumn(self._specs[name], windows, part))
        return Prepared.of(columns)

    def cut(self, prepared: Prepared) -> Cut | None:
        """Which texts have more tokens than are taken; None where none has."""
        for column in prepared.columns:
            declared = self.component.inputs[column.spec.name]
            if isinstance(column, TextColumn) and isinstance(declared, TextInput) and any(column.tokens.truncated):
                cut = column.tokens.truncated
                return Cut(sum(cut), len(cut), declared.length, cut.index(True))
        return None

    def images(self, name: str, pixels: Callable[[int], np.ndarray], shapes: Sequence[tuple[int, int]]) -> ImageColumn:
        """Pictures that are decoded elsewhere, by their row, of these (height, width)."""
        image = self.component.inputs[name]
        assert isinstance(image, ImageInput)
        return ImageColumn(self._specs[name], image, pixels, len(shapes), shapes if image.varies else None)

    def tokens(self, name: str, texts: Sequence[TextOrPair]) -> Tokens:
        """The token ids of texts, or of pairs of texts, for a text input.

        Raises InputError for one that is too long, or without any token.
        """
        declared = self.component.inputs[name]
        assert isinstance(declared, TextInput)
        for position, text in enumerate(texts):
            for part in text if isinstance(text, tuple) and len(text) == 2 else (text,):
                _check_text(position, part, declared.characters)
        tokens = self.tokenizers[name](texts)
        for position, empty in enumerate(tokens.empty):
            if empty:
                raise InputError(
                    f"text {position} is empty",
                    remedy="Give at least one character that is not white space and that can be seen.",
                )
        return tokens

    def texts(self, values: Mapping[str, Any]) -> list[str] | None:
        """The single texts among the values that are given, where the component takes one text; None for ids."""
        names = self.component.inputs_of(TextInput)
        if len(names) != 1 or names[0] not in values or _is_ids(values[names[0]]):
            return None
        return [text for text in values[names[0]] if isinstance(text, str)]

    def places(self, texts: Sequence[str]) -> list[list[tuple[int, int] | None]]:
        """Where the tokens of texts are in them, in characters. Raises BundleError for a tokenizer that cannot tell."""
        (name,) = self.component.inputs_of(TextInput)
        tokenizer = self.tokenizers[name]
        if not isinstance(tokenizer, Placing):
            raise BundleError(
                f"the tokenizer of {name} is a vocab.txt, which does not tell where tokens are",
                remedy="Ship the model with a tokenizer.json.",
            )
        return tokenizer.places(texts)

    def _value(self, name: str, value: Any) -> np.ndarray | list[Any]:
        """A value as an array, or as a list of what is prepared. Raises SignatureError for an array of another rank."""
        spec, declared = self._specs[name], self.component.inputs[name]
        if isinstance(value, Rows):
            return value
        if isinstance(declared, ImageInput) and not (isinstance(value, np.ndarray) and value.dtype != np.uint8):
            return _Pictures(listed(value, "pictures"))
        if isinstance(declared, TextInput) and not _is_ids(value):
            return _Texts(listed(value, "texts"))
        array = _array(name, spec, value)
        if array.ndim != len(spec.shape):
            raise SignatureError(f"input {name} is {array.dtype}{list(array.shape)}", remedy=f"It must be {spec}.")
        return array

    def _column(self, name: str, value: np.ndarray | list[Any], tokens: Mapping[str, Tokens]) -> Column:
        spec = self._specs[name]
        if name in tokens:
            return TextColumn(spec, tokens[name])
        if isinstance(value, _Pictures):
            return self._pictures(name, value)
        return RowsColumn(spec, value) if isinstance(value, Rows) else ArrayColumn(spec, np.asarray(value))

    def _pictures(self, name: str, sources: Sequence[Any]) -> ImageColumn:
        image = self.component.inputs[name]
        assert isinstance(image, ImageInput)

        def pixels(row: int) -> np.ndarray:
            return pixels_of(image, sources[row], name=f"picture {row}")

        shapes = [size_of(image, s, name=f"picture {i}") for i, s in enumerate(sources)] if image.varies else None
        column = ImageColumn(self._specs[name], image, pixels, len(sources), shapes)
        for row in range(len(sources) if image.varies else 0):
            self.require_within(f"picture {row}", column.sizes(row))
        return column

    def require_within(self, what: str, sizes: Sizes) -> None:
        """Raise InputError where a row has sizes that the signature does not admit."""
        for axis, size in sizes.items():
            bounds = self.signature.axis(axis)
            if not bounds.min <= size <= bounds.max:
                raise InputError(
                    f"{what} has {axis} {size}, outside {bounds.min}..{bounds.max}",
                    remedy=f"Resize it, or export again with a wider range of {axis}.",
                )

    def _require_names(self, values: Mapping[str, Any]) -> None:
        """Raise SignatureError for an input that is missing, and for what is none."""
        texts = {name for name in self.component.inputs_of(TextInput) if name in values and not _is_ids(values[name])}
        follow = {name for name, d in self.component.inputs.items() if isinstance(d, TextPart) and d.of in texts}
        missing = [name for name in self.signature.input_names if name not in values and name not in follow]
        extra = [str(name) for name in values if name not in self._specs]
        if missing or extra:
            what = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(extra)}"] * bool(extra)
            raise SignatureError(
                f"inputs do not fit: {'; '.join(what)}",
                remedy=f"The inputs are {', '.join(self.signature.input_names)}.",
            )


class Rows(list[np.ndarray]):
    """An array a row, without the batch axis, in the dtype and with the sizes that the signature admits."""


class _Pictures(list[Any]):
    """Sources of pictures, a row each."""


class _Texts(list[TextOrPair]):
    """Texts, or pairs of texts, a row each."""


def preparers(bundle: Bundle) -> dict[str, Preparer]:
    """The preparer of every component, by name. Raises BundleError."""
    return {component.name: Preparer.of(bundle, component) for component in bundle.manifest.components}


def listed(items: Any, what: str) -> list[Any]:
    """``items`` as a list. Raises InputError for a single one, and for none."""
    one_array = isinstance(items, np.ndarray) and items.ndim in (2, 3)
    if isinstance(items, (str, bytes)) or one_array or not hasattr(items, "__iter__"):
        raise InputError(f"one {type(items).__name__} where a list of {what} is expected", remedy="Put it into a list.")
    found = list(items)
    if not found:
        raise InputError(f"there are no {what}: the batch is empty", remedy="Give at least one.")
    return found


def _is_ids(value: Any) -> bool:
    """Whether a value for a text input is an array of token ids, or one a row, and no list of strings."""
    return isinstance(value, Rows) or (isinstance(value, np.ndarray) and value.dtype.kind not in "UO")


def _array(name: str, spec: TensorSpec, value: Any) -> np.ndarray:
    """A value as an array.

    Numbers of Python have no dtype: they take that of the signature, where it can hold them. A single one is one row of
    an input [batch].
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {name} is no array: {error}", remedy="Give rows of the same length.") from error
    if not _is_plain(value):
        return array
    array = held(array, np.dtype(spec.dtype))
    return array.reshape(1) if array.ndim == 0 and spec.shape == (BATCH,) else array


def _is_plain(value: Any) -> bool:
    """Whether a value is a number of Python, or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float))


def held(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """``array`` as ``dtype``, where that can hold its numbers; else as it is.

    Fractions are rounded to what a dtype of floats has. Whole numbers are never changed.
    """
    if array.dtype.kind not in "biuf":
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        held = array.astype(dtype)
    rounds = array.dtype.kind == dtype.kind == "f"
    same = np.isfinite(held) == np.isfinite(array) if rounds else held == array
    return held if same.all() else array


def _check_text(position: int, text: object, most: int) -> None:
    if not isinstance(text, str):
        raise InputError(f"text {position} is {type(text).__name__}", remedy="Give strings.")
    if len(text) > most:
        raise InputError(
            f"text {position} has {len(text):,} characters; at most {most:,} are taken",
            remedy="Give the part of the text that matters.",
        )


def _tokenizer(
    bundle: Bundle, component: Component, name: str, declared: TextInput | QuestionInput
) -> Tokenizer | QuestionTokenizer:
    path = bundle.manifest.assets.get(declared.tokenizer)
    if path is None:
        raise BundleError(
            f"{component.name} takes texts by the asset {declared.tokenizer!r}, which the bundle lacks",
            remedy="Ship the model again.",
        )
    try:
        content = bundle.read(path)
        tokenizer = (
            QuestionTokenizer(content, declared)
            if isinstance(declared, QuestionInput)
            else open_tokenizer(declared, PurePosixPath(path).name, content)
        )
    except InputError as error:
        raise BundleError(f"{path} cannot be used: {error.message}", remedy="Ship the model again.") from error
    bounds = next(spec.whole_bounds for spec in component.signature.inputs if spec.name == name)
    if bounds is not None and tokenizer.size > bounds[1] + 1:
        raise BundleError(
            f"{path} has {tokenizer.size:,} tokens, {component.name} takes {bounds[1] + 1:,}",
            remedy="Ship the model again with its own vocabulary.",
        )
    return tokenizer
