"""Read TFRecord files without TensorFlow.

A record is its length (8 bytes), the masked CRC-32C of these, its bytes, and theirs.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

_MOST_RECORDS, _MOST_BYTES = 1000, 1 << 26  # whose checksums are computed at once
_BEGIN = b"\x54\x64\x1f\x64"  # turns a CRC of 0 into its initial value, 0xFFFFFFFF


def read(path: Path, count: int) -> Iterator[bytes]:
    """Yield the records of a file after checking their checksums.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a checksum is wrong, or it does not have `count` records.

    >>> list(read(Path(os.devnull), 1))
    Traceback (most recent call last):
    ValueError: null must have 1 examples, got 0
    """
    found, batch, longest = 0, [], 0
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left:
            head = file.read(12)
            length = int.from_bytes(head[:8], "little")
            left -= 16 + length
            if left < 0:  # checked before memory is taken
                raise ValueError(f"{path.name} is damaged or ends early")
            batch.append((head[:8], head[8:], file.read(length), file.read(4)))
            found, longest = found + 1, max(longest, length)
            if found > count:
                raise ValueError(f"{path.name} must have {count} examples, got more")
            full = len(batch) == _MOST_RECORDS or len(batch) * longest >= _MOST_BYTES
            if full or not left:
                sizes, size_sums, records, sums = zip(*batch)
                if _checksums(sizes) + _checksums(records) != [*size_sums, *sums]:
                    raise ValueError(f"{path.name} is damaged: a checksum is wrong")
                yield from records
                batch, longest = [], 0
    if found != count:
        raise ValueError(f"{path.name} must have {count} examples, got {found}")


def _checksums(messages: Sequence[bytes]) -> list[bytes]:
    crcs = crc32c(messages)
    masked = (crcs >> 15 | crcs << 17) + np.uint32(0xA282EAD8)
    return [value.tobytes() for value in masked.astype("<u4")]


def crc32c(messages: Sequence[bytes]) -> np.ndarray:
    """Return the CRC-32C of each message, uint32, two bytes at a time through all.

    >>> [hex(crc) for crc in crc32c([b"123456789", b""])]
    ['0xe3069283', '0x0']
    """
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = table >> 1 ^ (table & 1) * np.uint32(0x82F63B78)
    length = len(_BEGIN) + max(map(len, messages), default=0)
    length += length % 2
    # Zeros before the beginning do not change a CRC of 0.
    padded = b"".join((_BEGIN + m).rjust(length, b"\0") for m in messages)
    pairs = np.frombuffer(padded, "<u2").reshape(len(messages), length // 2).T
    crcs = np.zeros(len(messages), np.uint32)
    for pair in np.ascontiguousarray(pairs):
        crcs = table[(crcs ^ pair) & 0xFFFF] ^ crcs >> 16
    return ~crcs
