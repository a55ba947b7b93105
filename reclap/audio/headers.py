"""Headers of sound files: kind, truncated files, WAV files without a length."""

import struct
from collections.abc import Callable

__all__ = ["FOREIGN", "MEDIA", "ReadAt", "flac_frames", "kind_of", "missing", "unsized_wav"]

ReadAt = Callable[[int, int], bytes]
"""Return up to so many bytes (second) from an offset (first) on."""

MEDIA = ("M4A or MP4", "AAC", "WebM or Matroska", "WMA")
FOREIGN = ("a pointer of Git LFS, whose file was not fetched (git lfs pull)", "an HTML page")

_STREAMED = 0x7FFFF000  # sizes from here on were written before anybody knew the length
_CHUNKS = 1000
_TAIL = 1 << 17  # two pages of OGG at their largest


def kind_of(head: bytes) -> str | None:
    """Return the kind of a file, one of `MEDIA` or `FOREIGN`, or None for all others.

    Parameters
    ----------
    head : bytes
        The first 64 bytes of the file, or more.
    """
    m4a, aac, webm, wma = MEDIA
    lfs, html = FOREIGN
    if head[4:8] == b"ftyp":
        return m4a
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: layer 0
        return aac
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return webm
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return wma
    if head.startswith(b"version https://git-lfs."):
        return lfs
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return html
    return None


def missing(read: ReadAt, size: int) -> str | None:
    """Describe how much is missing of a truncated file, by its header; None if nothing.

    Parameters
    ----------
    read : callable
        Reads the file.
    size : int
        Content of the file.

    Returns
    -------
    str or None
        None where nothing is known to be missing: also for MP3 without the frame of its encoder,
        and for FLAC, which tells frames; see `flac_frames`.
    """
    head = read(0, 12)
    if head[:4] in (b"RIFF", b"RF64") and (found := _wav_data(read, size)):
        _, claimed, there = found
        return None if claimed >= _STREAMED and head[:4] == b"RIFF" else _lacking(claimed, there)
    if head[:4] == b"FORM":
        return _lacking(8 + int.from_bytes(head[4:8], "big"), size)
    if head[:4] == b"OggS":
        return _ogg(read, size)
    if head[:3] == b"ID3" or head[:1] == b"\xff":
        return _mp3(read, size)
    return None


def _lacking(claimed: int, there: int) -> str | None:
    lost = claimed - there
    if lost <= 1:  # the byte that fills an odd chunk is often left out
        return None
    return f"{lost:,} of {claimed:,} bytes that its header promises ({lost / claimed:.0%})"


def _wav_data(read: ReadAt, size: int) -> tuple[int, int, int] | None:
    """Return the offset of the data size, the size, and the number of bytes in the file."""
    if read(8, 4) != b"WAVE":
        return None
    at, long_size = 12, None
    for _ in range(_CHUNKS):
        header = read(at, 8)
        if len(header) < 8:
            return None
        name, claimed = header[:4], int.from_bytes(header[4:], "little")
        if name == b"ds64":
            long_size = int.from_bytes(read(at + 16, 8), "little")
        if name == b"data":
            known = long_size if claimed == 0xFFFFFFFF and long_size is not None else claimed
            return at + 4, known, size - at - 8
        at += 8 + claimed + claimed % 2
    return None


def unsized_wav(read: ReadAt, size: int) -> tuple[int, int] | None:
    """Return the offset of a data size of 0 in a WAV file that has samples, and their bytes.

    Programs that write to a pipe cannot go back to fill in the length. Chunks that follow an empty
    recording and end with the file are no samples.
    """
    if read(0, 4) != b"RIFF" or not (found := _wav_data(read, size)):
        return None
    at, claimed, there = found
    if claimed or there < 1 or _are_chunks(read, at + 4, size):
        return None
    return at, there


def _are_chunks(read: ReadAt, at: int, size: int) -> bool:
    for _ in range(_CHUNKS):
        header = read(at, 8)
        if len(header) < 8:
            return size <= at <= size + 1  # whose filling byte may be left out
        at += 8 + (length := int.from_bytes(header[4:], "little")) + length % 2
    return False


def _ogg(read: ReadAt, size: int) -> str | None:
    """Look for the mark of the last page."""
    tail = read(max(0, size - _TAIL), _TAIL)
    start = tail.rfind(b"OggS")
    page = tail[start:]
    segments = page[27 : 27 + page[26]] if start >= 0 and len(page) > 26 else b""
    whole = len(segments) > 0 and len(page) >= 27 + len(segments) + sum(segments)
    if whole and page[5] & 4:
        return None
    return "its end: the last page is not marked as such"


def _mp3(read: ReadAt, size: int) -> str | None:
    """Compare with the bytes that the frame of the encoder (Xing, Info) tells."""
    tag = read(0, 10)
    start = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        start = 10 + sum((b & 127) << 7 * (3 - i) for i, b in enumerate(tag[6:]))
    frame = read(start, 256)
    mark = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or mark < 0 or len(frame) < mark + 16:
        return None
    flags = int.from_bytes(frame[mark + 4 : mark + 8], "big")
    if not flags & 2:
        return None
    at = mark + (12 if flags & 1 else 8)
    (claimed,) = struct.unpack(">I", frame[at : at + 4])
    return _lacking(claimed, size - start)


def flac_frames(head: bytes) -> int:
    """Return the frames that the header of a FLAC file promises; 0 if it is none, or tells none."""
    if head[:4] != b"fLaC" or len(head) < 26:
        return 0
    return int.from_bytes(head[21:26], "big") & (1 << 36) - 1
