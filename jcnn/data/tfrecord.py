"""Read TFRecord files, tensorflow-datasets' default, without TensorFlow.

A record is its length (8 bytes), the masked CRC-32C of these, its bytes, and theirs.
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .._untrusted import open_file

_MOST_BYTES = 1 << 50  # of a file; no more memory is taken than it has bytes
_BATCH = 1000, 1 << 26  # records and bytes whose checksums are computed at once
_BEGIN = b"\x54\x64\x1f\x64"  # makes of a sum of 0 the 0xFFFFFFFF it begins with


def read(path: Path, count: int) -> Iterator[bytes]:
    """Yields all records of a file, after checking them.

    Args:
        path: the file.
        count: how many records it should have.

    Raises:
        OSError: it cannot be read.
        ValueError: a checksum is wrong, it ends early, or has not `count` records.

    >>> next(read(Path("."), 1))
    Traceback (most recent call last):
    ValueError: .: not a file
    """
    found, batch, size = 0, [], 0
    with open_file(path, _MOST_BYTES) as file:
        for frame in _frames(file, path.name):
            batch.append(frame)
            size += len(frame[2])
            if len(batch) == _BATCH[0] or size >= _BATCH[1]:
                yield from _checked(batch, path.name)
                found, batch, size = found + len(batch), [], 0
        yield from _checked(batch, path.name)
    if found + len(batch) != count:
        raise ValueError(f"{path.name} has {found + len(batch)} examples, not {count}")


def crc32c(messages: Sequence[bytes]) -> np.ndarray:
    """The CRC-32C of each message, uint32, at some 100 MB a second.

    A CRC is linear: every word of 4 bytes has a sum of its own, and that of two
    neighbours is the left one as if zeros came after it, xor the right one. So NumPy
    halves all words of all messages at once, until each message is one.

    >>> [hex(crc) for crc in crc32c([b"123456789", b""])]
    ['0xe3069283', '0x0']
    """
    levels = np.array([(-(-len(m) // 4)).bit_length() for m in messages])
    crcs = np.empty(len(messages), np.uint32)
    for level in set(levels.tolist()):
        which = np.nonzero(levels == level)[0].tolist()
        # Zeros before the beginning change nothing.
        padded = [(_BEGIN + messages[i]).rjust(4 << level, b"\0") for i in which]
        sums = np.frombuffer(b"".join(padded), "<u4").reshape(len(which), -1)
        for step in range(level):
            sums = _followed_by_zeros(sums[:, ::2], step) ^ sums[:, 1::2]
        crcs[which] = ~_followed_by_zeros(sums[:, 0], 0)
    return crcs


def _frames(file: BinaryIO, name: str) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    """Yields length, its checksum, record, its checksum, all as they are."""
    left = os.fstat(file.fileno()).st_size
    while left:
        head = file.read(12)
        length = int.from_bytes(head[:8], "little")
        left -= 16 + length
        if left < 0:  # seen before memory is taken
            raise ValueError(f"{name} is damaged or ends early")
        yield head[:8], head[8:], file.read(length), file.read(4)


def _checked(batch: list[tuple[bytes, bytes, bytes, bytes]], name: str) -> list[bytes]:
    """The records of a batch whose checksums are all right."""
    for data, stored in ((0, 1), (2, 3)):
        crcs = crc32c([frame[data] for frame in batch])
        masked = (crcs >> 15 | crcs << 17) + np.uint32(0xA282EAD8)
        if masked.astype("<u4").tobytes() != b"".join(f[stored] for f in batch):
            raise ValueError(f"{name} is damaged: a checksum is wrong")
    return [frame[2] for frame in batch]


def _followed_by_zeros(sums: np.ndarray, step: int) -> np.ndarray:
    """The sums after 4 * 2**step more zero bytes."""
    low, high = _tables(step)
    return low[sums & 0xFFFF] ^ high[sums >> 16]


@lru_cache
def _tables(step: int) -> tuple[np.ndarray, np.ndarray]:
    """What each lower and each upper half of a sum becomes, see above."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if step:  # twice as many zeros as the step before
        bits = _followed_by_zeros(_followed_by_zeros(bits, step - 1), step - 1)
    else:
        for _ in range(32):
            bits = bits >> 1 ^ (bits & 1) * np.uint32(0x82F63B78)
    tables = []
    for half in bits[:16], bits[16:]:
        table = np.zeros(1, np.uint32)
        for bit in half:
            table = np.concatenate([table, table ^ bit])
        tables.append(table)
    return tables[0], tables[1]
