"""The sorted table that finds a prompt's answers in an index without reading the index.

Four columns sorted by key (the first 8 bytes of the prompt fingerprint), then by file order: key,
offset, length, usable. A prompt is found by bisection on the mapped key column, in C. The file
``<index>.table`` is written whole and renamed into place; it names the stretch of the index that it
covers by the checksum of that stretch's last line, so a table of another file is never believed.

This module does not own the records: whoever reads one checks that it answers the right prompt.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

_MAGIC = b"ROPDTBL2"
_HEADER = struct.Struct("<8sQQIIII")
_ROW_BYTES = 8 + 8 + 4 + 1
_BYTE_ORDER = 1 if sys.byteorder == "little" else 2
# Bytes read at a time.
_CHUNK = 1 << 20
_TAKES_NO_WRITES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


class Row(NamedTuple):
    """Where one answer stands: the key of its prompt, its line's place in bytes, if it serves."""

    key: int
    offset: int
    length: int
    usable: bool


class _Columns(NamedTuple):
    keys: Sequence[int]
    offsets: Sequence[int]
    lengths: Sequence[int]
    usable: Sequence[int]


def row_key(fingerprint: str) -> int:
    return int(fingerprint[:16], 16)


class Table:
    """Rows of the answers in the first `covers` bytes of an index."""

    def __init__(self, columns: _Columns, covers: int) -> None:
        self.covers = covers
        self._columns = columns

    @classmethod
    def empty(cls, covers: int) -> Self:
        return cls(_Columns(array("Q"), array("Q"), array("I"), array("B")), covers)

    def extended(self, added: Iterable[Row]) -> Self:
        """This table and the rows `added` behind it, given in file order."""
        keys, offsets = array("Q", self._columns.keys), array("Q", self._columns.offsets)
        lengths, usable = array("I", self._columns.lengths), array("B", self._columns.usable)
        covers = self.covers
        for row in added:
            keys.append(row.key)
            offsets.append(row.offset)
            lengths.append(row.length)
            usable.append(row.usable)
            covers = row.offset + row.length
        # A stable sort keeps the answers of one prompt in file order.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return type(self)(
            _Columns(
                array("Q", map(keys.__getitem__, order)),
                array("Q", map(offsets.__getitem__, order)),
                array("I", map(lengths.__getitem__, order)),
                array("B", map(usable.__getitem__, order)),
            ),
            covers,
        )

    def __len__(self) -> int:
        return len(self._columns.keys)

    def rows(self, fingerprint: str) -> Iterator[Row]:
        """The rows whose key is the fingerprint's, in file order."""
        keys, offsets, lengths, usable = self._columns
        key = row_key(fingerprint)
        for i in range(bisect_left(keys, key), bisect_right(keys, key)):
            yield Row(key, offsets[i], lengths[i], bool(usable[i]))

    def in_file_order(self) -> Iterator[Row]:
        keys, offsets, lengths, usable = self._columns
        for i in sorted(range(len(self)), key=offsets.__getitem__):
            yield Row(keys[i], offsets[i], lengths[i], bool(usable[i]))

    def save(self, index: Path, descriptor: int) -> bool:
        """Write the table beside its index; False where the place takes no writes."""
        body = b"".join(memoryview(column).cast("B") for column in self._columns)  # type: ignore[arg-type]
        last_length = self.covers - max(self._columns.offsets, default=0)
        head = _HEADER.pack(
            _MAGIC,
            len(self),
            self.covers,
            last_length,
            _last_line_crc(descriptor, self.covers, last_length),
            _BYTE_ORDER,
            zlib.crc32(body),
        )
        target = table_path(index)
        temporary = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            temporary.write_bytes(head + body)
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in _TAKES_NO_WRITES:
                return False
            raise
        return True

    @classmethod
    def load(cls, index: Path, descriptor: int) -> Self | None:
        """The saved table, mapped; None when there is none or it does not belong to `descriptor`.

        A damaged table is none: it is derived from the index and can always be built again.
        """
        try:
            file = open(table_path(index), "rb")  # noqa: SIM115 - closed below
        except OSError:
            return None
        with file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return None
            magic, count, covers, last_length, last_crc, order, body_crc = _HEADER.unpack(head)
            if (magic, order) != (_MAGIC, _BYTE_ORDER):
                return None
            if os.fstat(file.fileno()).st_size != _HEADER.size + _ROW_BYTES * count:
                return None
            if _body_crc(file.fileno()) != body_crc:
                return None
            if _last_line_crc(descriptor, covers, last_length) != last_crc:
                return None
            return cls(_map_columns(file.fileno(), count), covers)


def table_path(index: Path) -> Path:
    return index.with_name(index.name + ".table")


def _map_columns(descriptor: int, count: int) -> _Columns:
    body = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))[_HEADER.size :]
    ends = (0, 8 * count, 16 * count, 20 * count, 21 * count)
    keys, offsets, lengths, usable = (
        body[start:end].cast(code)
        for (start, end), code in zip(pairwise(ends), ("Q", "Q", "I", "B"), strict=True)
    )
    return _Columns(keys, offsets, lengths, usable)


def _body_crc(descriptor: int) -> int:
    # Read, not mapped: a mapped check would count the whole table as this process's memory.
    crc, position = 0, _HEADER.size
    while chunk := os.pread(descriptor, _CHUNK, position):
        crc = zlib.crc32(chunk, crc)
        position += len(chunk)
    return crc


def _last_line_crc(index_descriptor: int, covers: int, length: int) -> int:
    return zlib.crc32(os.pread(index_descriptor, length, covers - length))
