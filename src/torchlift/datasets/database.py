"""Reads an LMDB's file by itself, so that a damaged one is an error.

The library maps the file into memory and trusts what it finds there: a page number beyond the end of the file kills the
process (SIGBUS). Here every page is read with pread(2) and checked. The format is that of LMDB 0.9 on a machine with
64 bits, little-endian: a B+ tree of pages.

- Pages 0 and 1 hold what is true of the whole file (``MDB_meta``): the newer one counts.
- A branch page has keys and the numbers of the pages below; a leaf page has keys and values.
- A large value is on pages of its own, one after the other; its leaf has the number of the first.
"""

from __future__ import annotations

import os
import struct
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torchlift.errors import DataError
from torchlift.storage import open_regular

DATABASE = "data.mdb"

COUNTS = frozenset({b"num_images", b"num_samples", b"__len__", b"__keys__"})
"""Keys that hold no sample."""

_REMEDY = "Copy it again, or make it again."

_HEADER = struct.Struct("<QHHHH")
"""Of a page: its number, padding, its flags, and where its free space begins and ends."""

_META = struct.Struct("<IIQQ IHHQQQQQ IHHQQQQQ QQ")
"""Behind the header of pages 0 and 1: magic number, version, address, size of the map, the tree of free pages, the tree
of the records (padding, flags, depth, three counts of pages, entries, root), the last page, the transaction."""

_NODE = struct.Struct("<HHHH")
"""In front of a key: the size of the value or the page below (three parts), and the size of the key."""

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_BIG, _OWN_TREE = 1, 2 | 4
_NO_ROOT = 2**64 - 1
_DEEPEST = 32
_SMALLEST_PAGE, _LARGEST_PAGE = 256, 65536


class _Meta(NamedTuple):
    """What page 0 or 1 says: the size of a page, the flags, depth and root of the tree, the transaction."""

    page: int
    flags: int
    depth: int
    root: int
    transaction: int


@dataclass(frozen=True)
class _Page:
    """A branch or a leaf: its ``data``, and the offsets of its ``nodes``, in the order of their keys."""

    number: int
    leaf: bool
    data: bytes
    nodes: tuple[int, ...]


class Database:
    """An LMDB folder, opened for reading. Safe to read from several threads.

    Raises DataError, here and wherever it is read, for a file that is damaged or of another kind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            with open_regular(folder / DATABASE) as stream:
                self._file = os.dup(stream.fileno())
        except OSError as error:
            raise DataError(f"{folder} cannot be opened as an LMDB: {error.strerror}", remedy=_REMEDY) from error
        weakref.finalize(self, os.close, self._file)
        self._meta = self._newest()

    def samples(self) -> list[bytes]:
        """The keys of all samples, in the order of their bytes."""
        return [key for key, _, _ in self._leaves() if key not in COUNTS]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of all samples, in the order of the keys' bytes."""
        for key, page, node in self._leaves():
            if key not in COUNTS:
                yield key, self._value(page, node)

    def get(self, key: bytes) -> bytes:
        """The value of a key. Raises DataError where there is none."""
        number = self._meta.root
        for _ in range(self._meta.depth):
            page = self._page(number)
            if page.leaf:
                keys = [self._key(page, node) for node in page.nodes]
                place = bisect_left(keys, key)
                if place < len(keys) and keys[place] == key:
                    return self._value(page, page.nodes[place])
                break
            keys = [self._key(page, node) for node in page.nodes[1:]]  # the first stands for all that is less
            number = self._below(page, page.nodes[bisect_right(keys, key)])
        text = key.decode("utf-8", "backslashreplace")
        raise DataError(f"{self.folder} has no record {text}", remedy="Open it again: it may have changed meanwhile.")

    def _newest(self) -> _Meta:
        """What the newer of pages 0 and 1 says. Page 0 says where page 1 is: it has the size of a page."""
        first = self._meta_at(0)
        second = self._meta_at(first.page)
        meta = max(first, second, key=lambda meta: meta.transaction)
        if meta.flags or second.page != first.page:
            raise self._damaged(f"its records are ordered in a way that is not read (flags {meta.flags:#x})")
        if meta.root != _NO_ROOT and not 1 <= meta.depth <= _DEEPEST:
            raise self._damaged(f"its tree is {meta.depth} pages deep")
        return meta

    def _meta_at(self, offset: int) -> _Meta:
        data = self._read(offset, _HEADER.size + _META.size)
        flags = _HEADER.unpack_from(data)[2]
        magic, version, _, _, page, _, *_, kind, depth, _, _, _, _, root, _, transaction = _META.unpack_from(
            data, _HEADER.size
        )
        if magic != _MAGIC or not flags & _META_PAGE:
            raise self._damaged("it does not begin as one does")
        if version != _VERSION:
            raise self._damaged(f"its format is {version}, and {_VERSION} is read")
        if not _SMALLEST_PAGE <= page <= _LARGEST_PAGE or page & (page - 1):
            raise self._damaged(f"its pages have {page} bytes")
        return _Meta(page, kind, depth, root, transaction)

    def _leaves(self) -> Iterator[tuple[bytes, _Page, int]]:
        """Each key, with its leaf and the offset of its node."""
        if self._meta.root == _NO_ROOT:
            return
        left = os.fstat(self._file).st_size // self._meta.page
        pending = [(self._meta.root, self._meta.depth)]
        while pending:
            number, depth = pending.pop()
            left -= 1
            if left < 0 or depth < 1:
                raise self._damaged("its pages point in a circle")
            page = self._page(number)
            if page.leaf:
                yield from ((self._key(page, node), page, node) for node in page.nodes)
            else:
                pending += [(self._below(page, node), depth - 1) for node in reversed(page.nodes)]

    def _page(self, number: int) -> _Page:
        size = self._meta.page
        data = self._read(number * size, size)
        found, _, flags, lower, upper = _HEADER.unpack_from(data)
        if found != number or flags not in (_BRANCH, _LEAF) or not _HEADER.size <= lower <= upper <= size:
            raise self._damaged(f"page {number} is not what it must be")
        count = (lower - _HEADER.size) // 2
        nodes = struct.unpack_from(f"<{count}H", data, _HEADER.size)
        if any(not upper <= node <= size - _NODE.size for node in nodes) or not nodes:
            raise self._damaged(f"page {number} has records outside of it")
        return _Page(number, flags == _LEAF, data, nodes)

    def _key(self, page: _Page, node: int) -> bytes:
        start, length = node + _NODE.size, _NODE.unpack_from(page.data, node)[3]
        if start + length > len(page.data):
            raise self._damaged(f"page {page.number} has a key that ends outside of it")
        return page.data[start : start + length]

    def _below(self, page: _Page, node: int) -> int:
        low, middle, high, _ = _NODE.unpack_from(page.data, node)
        return int(low | middle << 16 | high << 32)

    def _value(self, page: _Page, node: int) -> bytes:
        low, high, flags, key = _NODE.unpack_from(page.data, node)
        size, start = low | high << 16, node + _NODE.size + key
        if flags & _OWN_TREE:
            raise self._damaged("a record is a database of its own, or has several values")
        if not flags & _BIG:
            if start + size > len(page.data):
                raise self._damaged(f"page {page.number} has a value that ends outside of it")
            return page.data[start : start + size]
        if start + 8 > len(page.data):
            raise self._damaged(f"page {page.number} has a value that ends outside of it")
        (number,) = struct.unpack_from("<Q", page.data, start)
        offset = number * self._meta.page
        found, _, kind, _, _ = _HEADER.unpack(self._read(offset, _HEADER.size))
        if found != number or kind != _OVERFLOW:
            raise self._damaged(f"page {number} is not what it must be")
        return self._read(offset + _HEADER.size, size)

    def _read(self, offset: int, size: int) -> bytes:
        """So many bytes of the file. Raises DataError where it ends before."""
        if offset + size > os.fstat(self._file).st_size:
            raise self._damaged(f"it ends before byte {offset + size:,}")
        parts = []
        try:
            while size and (part := os.pread(self._file, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        except OSError as error:
            raise self._damaged(f"it cannot be read: {error.strerror}") from error
        if size:
            raise self._damaged(f"it ends before byte {offset + size:,}")
        return b"".join(parts)

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self.folder} cannot be read as an LMDB: {reason}", remedy=_REMEDY)
