"""The inputs of a component, checked and ready to become feeds: a column for each input, a row for each sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from torchlift.declare.inputs import ImageInput
from torchlift.errors import InputError
from torchlift.processing.image import normalized
from torchlift.processing.questions import Windows
from torchlift.processing.tokens import Tokens
from torchlift.signature import BATCH, TensorSpec

Sizes = Mapping[str, int]
"""Axis name -> size."""


class Column(ABC):
    """One input of all rows. ``spec`` is the tensor that it becomes."""

    spec: TensorSpec

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many rows there are; None where the input has no batch axis."""

    @abstractmethod
    def sizes(self, row: int) -> Sizes:
        """The sizes of the other axes that a row has, but those that it can be padded along."""

    @property
    def varies(self) -> bool:
        """Whether rows differ in the sizes of those axes."""
        return False

    def lengths(self) -> np.ndarray | None:
        """The tokens of each row, int64 [rows], where rows can be padded; else None."""
        return None

    @abstractmethod
    def feed(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> np.ndarray:
        """The tensor of some rows, int64 [n], with the axes that can be padded at ``sizes``."""


@dataclass(frozen=True)
class ArrayColumn(Column):
    """An array that holds all rows, or that is the same for all where it has no batch axis."""

    spec: TensorSpec
    array: np.ndarray

    @property
    def count(self) -> int | None:
        position = self.spec.batch_position
        return None if position is None else self.array.shape[position]

    def sizes(self, row: int) -> Sizes:
        dims = zip(self.spec.shape, self.array.shape, strict=True)
        return {dim: size for dim, size in dims if isinstance(dim, str) and dim != BATCH}

    def feed(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> np.ndarray:
        position = self.spec.batch_position
        if position is None or (len(rows) == self.count and (rows == np.arange(len(rows))).all()):
            return self.array
        if len(rows) == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all():
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            return np.ascontiguousarray(self.array[(slice(None),) * position + (part,)])
        return np.ascontiguousarray(self.array.take(rows, position))


@dataclass(frozen=True)
class RowsColumn(Column):
    """An array a row, without the batch axis; rows may have different sizes. Where the input has no batch axis, each
    row is what a call takes.
    """

    spec: TensorSpec
    rows: Sequence[np.ndarray]

    @property
    def count(self) -> int | None:
        return len(self.rows)

    def sizes(self, row: int) -> Sizes:
        dims = [dim for dim in self.spec.shape if dim != BATCH]
        found = zip(dims, self.rows[row].shape, strict=True)
        return {dim: size for dim, size in found if isinstance(dim, str)}

    @property
    def varies(self) -> bool:
        return len({row.shape for row in self.rows}) > 1

    def feed(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> np.ndarray:
        position = self.spec.batch_position
        if position is None:
            return self.rows[int(rows[0])]
        return np.stack([self.rows[row] for row in rows], position)


@dataclass(frozen=True)
class ImageColumn(Column):
    """A picture a row. ``pixels`` decodes one by its row, uint8 [H, W, 3]; ``shapes`` are their (height, width) where
    those vary.
    """

    spec: TensorSpec
    image: ImageInput
    pixels: Callable[[int], np.ndarray]
    rows: int
    shapes: Sequence[tuple[int, int]] | None = None

    @property
    def count(self) -> int | None:
        return None if self.spec.batch_position is None else self.rows

    @property
    def varies(self) -> bool:
        return self.shapes is not None

    def sizes(self, row: int) -> Sizes:
        shape = self.shapes[row] if self.shapes is not None else self.image.size
        assert shape is not None
        return {dim: size for dim, size in zip(self.spec.shape[2:], shape, strict=True) if isinstance(dim, str)}

    def feed(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> np.ndarray:
        rows = np.arange(self.rows) if self.count is None else rows
        shape = self.shapes[int(rows[0])] if self.shapes is not None else self.image.size
        assert shape is not None
        batch = np.empty((len(rows), 3, *shape), np.float32)

        def one(row: int, out: np.ndarray) -> None:
            normalized(self.image, self.pixels(row), out=out)

        jobs = [pool.submit(one, int(row), out) for row, out in zip(rows, batch, strict=True)]
        for job in jobs:
            job.result()
        return batch


@dataclass(frozen=True)
class TextColumn(Column):
    """A text a row, as token ids that are padded on the right."""

    spec: TensorSpec
    tokens: Tokens

    @property
    def count(self) -> int | None:
        return len(self.tokens.ids)

    def sizes(self, row: int) -> Sizes:
        return {}

    def lengths(self) -> np.ndarray | None:
        return np.array(self.tokens.lengths, np.int64)

    def feed(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> np.ndarray:
        return self._padded([self.tokens.ids[row] for row in rows], self.tokens.pad, sizes)

    def _padded(self, found: Sequence[Sequence[int]], pad: int, sizes: Sizes) -> np.ndarray:
        dim = self.spec.shape[1]
        length = sizes[dim] if isinstance(dim, str) else dim
        assert length is not None
        batch = np.full((len(found), length), pad, self.spec.dtype)
        for out, values in zip(batch, found, strict=True):
            out[: len(values)] = values
        return batch


@dataclass(frozen=True)
class MaskColumn(TextColumn):
    """1 at the tokens of a text, 0 at its padding."""

    def feed(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> np.ndarray:
        return self._padded([[1] * len(self.tokens.ids[row]) for row in rows], 0, sizes)


@dataclass(frozen=True)
class TypesColumn(TextColumn):
    """Which text of a pair a token is of; 0 at padding."""

    def feed(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> np.ndarray:
        types = self.tokens.types
        return self._padded([[0] if types is None else types[row] for row in rows], 0, sizes)


@dataclass(frozen=True)
class WindowColumn(Column):
    """A window of a text a row, with the question before it. ``part`` says what of it: the ids, the mask or the types.

    Rows are put together when they are fed, so that those of a long text take little memory before.
    """

    spec: TensorSpec
    windows: Windows
    part: Literal["ids", "mask", "types"] = "ids"

    @property
    def count(self) -> int | None:
        return self.windows.rows

    def sizes(self, row: int) -> Sizes:
        return {}

    def lengths(self) -> np.ndarray | None:
        return self.windows.lengths

    def feed(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> np.ndarray:
        dim = self.spec.shape[1]
        length = sizes[dim] if isinstance(dim, str) else dim
        assert length is not None
        parts = {"ids": self.windows.ids, "mask": self.windows.mask, "types": self.windows.types}
        return parts[self.part](rows, length).astype(self.spec.dtype, copy=False)


@dataclass(frozen=True)
class Prepared:
    """Checked inputs of a component. ``count`` is the number of their rows; None where no input has a batch axis."""

    columns: tuple[Column, ...]
    count: int | None

    @classmethod
    def of(cls, columns: Iterable[Column]) -> Prepared:
        """Raises InputError where the inputs have different numbers of rows, or none."""
        columns = tuple(columns)
        counts = {column.spec.name: column.count for column in columns if column.count is not None}
        if len({*counts.values()}) > 1:
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(
                f"the inputs have different numbers of rows: {said}",
                remedy="Give every input with a batch axis the same number of rows.",
            )
        count = next(iter(counts.values()), None)
        if count == 0:
            raise InputError("the inputs have 0 rows: the batch is empty", remedy="Give at least one row.")
        return cls(columns, count)

    @property
    def samples(self) -> int:
        """How many samples there are: the rows, or one where no input has a batch axis."""
        return 1 if self.count is None else self.count

    @property
    def has_pictures(self) -> bool:
        """Whether pictures are decoded where feeds are made."""
        return any(isinstance(column, ImageColumn) for column in self.columns)

    @property
    def varies(self) -> bool:
        """Whether rows differ in the sizes of other axes than those that they can be padded along."""
        return any(column.varies for column in self.columns)

    def sizes(self, row: int) -> dict[str, int]:
        """The sizes of the axes of a row, but the batch and those that it can be padded along."""
        return {axis: size for column in self.columns for axis, size in column.sizes(row).items()}

    @property
    def lengths(self) -> np.ndarray | None:
        """The tokens of each row, int64 [rows]; None where rows are not padded."""
        return next((found for column in self.columns if (found := column.lengths()) is not None), None)

    @property
    def padded_axis(self) -> str | None:
        """The name of the axis that texts are padded along; None where there is none, or its size is fixed."""
        dims = (column.spec.shape[1] for column in self.columns if column.lengths() is not None)
        return next((dim for dim in dims if isinstance(dim, str)), None)

    def feeds(self, rows: np.ndarray, sizes: Sizes, pool: Executor) -> dict[str, np.ndarray]:
        """Input name -> array for some rows, int64 [n], whose texts are padded to ``sizes``. Pictures are decoded by
        ``pool``. Raises InputError for a picture that cannot be.
        """
        return {column.spec.name: column.feed(rows, sizes, pool) for column in self.columns}
