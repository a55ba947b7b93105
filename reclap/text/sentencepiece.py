"""Reading of SentencePiece's model files: pieces, scores, character normalisation.

Such a file is one message in protobuf's wire format (``sentencepiece_model.proto`` of
google/sentencepiece), of which three fields count: ``pieces`` (1), in each of them ``piece`` (1)
and ``score`` (2); ``trainer_spec`` (2) with ``model_type`` (3); ``normalizer_spec`` (3) with
``precompiled_charsmap`` (2).
"""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

from reclap.errors import FormatError

__all__ = ["Pieces", "read"]

_UNIGRAM = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A unigram model.

    Attributes
    ----------
    pieces : list of str
        Pieces, in the order of their ids.
    scores : list of float
        Logarithms of their probabilities.
    normalization : bytes
        Compiled table of character normalisation; may be empty.
    """

    pieces: list[str]
    scores: list[float]
    normalization: bytes


def read(path: Path) -> Pieces:
    """Read a unigram model.

    Raises
    ------
    FormatError
        If it is damaged, or a model of another type than unigrams.
    """
    pieces, scores, table, kind = [], [], b"", _UNIGRAM
    try:
        for number, value in _fields(path.read_bytes()):
            inside = dict(_fields(_bytes(value))) if number < 4 else {}
            if number == 1:
                pieces.append(_bytes(inside[1]).decode())
                scores.append(struct.unpack("<f", _bytes(inside.get(2, bytes(4))))[0])
            elif number == 2:
                kind = int(inside.get(3, _UNIGRAM))
            elif number == 3:
                table = _bytes(inside.get(2, b""))
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise FormatError(f"{path}: not a SentencePiece model: {error}") from error
    if kind != _UNIGRAM or not pieces:
        raise FormatError(f"{path}: a SentencePiece model of type {kind}, expected 1, unigrams")
    return Pieces(pieces, scores, table)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message; the four-byte kind as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind in (_VARINT, _BYTES):
            size, at = _varint(data, at)
            if kind == _VARINT:
                yield key >> 3, size
                continue
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"field of kind {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"{size} bytes at {at}, but there are {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"number of more than ten bytes at {at}")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes are expected")
    return value
