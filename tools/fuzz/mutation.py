"""How a well-formed file becomes one that is nearly well-formed.

Everything is drawn from one ``random.Random``, so a seed gives the same bytes everywhere. Formats
made of parts are taken apart and put together again with right lengths and checksums, so that the
damage reaches the code behind the first check.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePath
from random import Random
from typing import Any

Files = dict[str, bytes]
Mutator = Callable[[Random, bytes], bytes]
Chunks = list[tuple[bytes, bytes]]

LARGEST = 1 << 20
"""No mutant is larger, in bytes: enough for a hundred thousand parts where one was meant. A sound
table of four times as many photos takes longer to read than a case may take."""

NUMBERS = (
    0, 1, 2, 3, 7, 8, 28, 127, 128, 255, 256, 2**15 - 1, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1,
    2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
WORDS = (
    "-1", "0", "nan", "inf", "-0.0", "1e308", "1e-320", "1e400", "9" * 400, "9" * 5000, "1_0", "٣",
    "90.1", "180", "-181", "", " ", "\0", "\ufeff", "\u2028", "\r", "\r\n", "\n", '"', "'", ",",
    ";", "\t", "../../x", "/etc/passwd", "C:\\x", "a\\b", "x" * 300, "a/" * 300, "=1+1", "<b>",
    "</script>", "é", "\U0001f600", "{", "[", "[" * 9000, "]]>", "&#0;", "<!ENTITY a 'b'>",
    "2026-02-30T25:61:00Z", "0000-00-00", "9999-12-31T23:59:59-23:59", "true", "null",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, 1e308, 1e-320, 10**30, 10**400, -(10**400), 2**63, [], {}, "",
    "x", "0", "../x", "/x", "\0", "\ud800", "=1", "nan", [None], [[]], [1, 2, 3], [[1, 2], [3, 4]],
    {"a": 1}, ["x"] * 50, [0] * 300, {"": {"": {}}},
)  # fmt: skip


def mutated(rng: Random, files: Files, fixed: tuple[str, ...] = ()) -> Files:
    """Some of the files damaged, one to three times; now and then a file is missing.

    Args:
        rng: all chance.
        files: well-formed.
        fixed: names (or their beginnings) of files to leave as they are.
    """
    changed = dict(files)
    names = sorted(name for name in files if not name.startswith(fixed))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(names)
        if rng.random() < 0.01:
            changed.pop(name, None)
        if name not in changed:
            continue
        mutator = _BY_ENDING.get(PurePath(name).suffix, raw) if rng.random() < 0.75 else raw
        try:
            changed[name] = mutator(rng, changed[name])[:LARGEST]
        except Exception:
            # What an earlier damage left can no longer be taken apart.
            changed[name] = raw(rng, changed[name])[:LARGEST]
    return changed


def raw(rng: Random, data: bytes) -> bytes:
    """Bytes changed, whatever they mean; more often near the beginning, where headers are."""
    size = len(data)
    at = rng.randrange(size + 1 if rng.random() < 0.5 else min(size, 512) + 1)
    end = min(size, at + rng.choice((1, 2, 4, 8, 16, 64, 1024)))
    kind = rng.choice(("flip", "flip", "number", "number", "fill", "cut", "insert", "delete",
                       "copy", "repeat"))  # fmt: skip
    if kind == "flip" and at < size:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == "number":
        packed = _number(rng)[: max(size - at, 1)]
        return data[:at] + packed + data[at + len(packed) :]
    if kind == "fill":
        return data[:at] + rng.choice((b"\0", b"\xff", rng.randbytes(1))) * (end - at) + data[end:]
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 9, 100))) + data[at:]
    if kind == "delete":
        return data[:at] + data[end:]
    if kind == "copy":
        to = rng.randrange(size + 1)
        return data[:to] + data[at:end] + data[to + (end - at if rng.random() < 0.5 else 0) :]
    times = rng.choice((1, 2, 10, 1000, LARGEST // max(end - at, 1)))
    return data[:end] + (data[at:end] * times)[:LARGEST] + data[end:]


def _number(rng: Random) -> bytes:
    size = rng.choice((1, 2, 4, 4, 8))
    value = rng.choice(NUMBERS) if rng.random() < 0.8 else rng.randrange(2**64)
    return (value % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))


def text(rng: Random, data: bytes) -> bytes:
    """Lines, numbers and words of a text changed; it may end up in another encoding."""
    lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True) or [""]
    at, kind = rng.randrange(len(lines)), rng.random()
    most = 1 + LARGEST // (len(data) + 1)
    numbers = list(re.finditer(r"-?\d+(\.\d+)?", lines[at]))
    if kind < 0.4 and numbers:
        spot = rng.choice(numbers)
        lines[at] = lines[at][: spot.start()] + rng.choice(WORDS) + lines[at][spot.end() :]
    elif kind < 0.6:
        spot_at = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:spot_at] + rng.choice(WORDS) + lines[at][spot_at:]
    elif kind < 0.7:
        parts = re.split(r"([,;\t =<>])", lines[at])
        rng.shuffle(parts)
        lines[at] = "".join(parts)
    elif kind < 0.8:
        lines.insert(rng.randrange(len(lines) + 1), lines[at] * min(rng.choice((1, 2, 3000)), most))
    elif kind < 0.9:
        del lines[at]
    elif kind < 0.97:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        return "".join(lines).encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), "replace")
    return "".join(lines).encode("utf-8", "surrogateescape")


def json_value(rng: Random, data: bytes) -> bytes:
    """A value of a JSON text replaced, left out, wrapped or put elsewhere."""
    if rng.random() < 0.15:
        return text(rng, data)
    root = {"": json.loads(data)}
    parent: Any = root
    key: Any = ""
    while isinstance(parent[key], (dict, list)) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        key = rng.choice(sorted(parent) if isinstance(parent, dict) else range(len(parent)))
    kind = rng.random()
    if kind < 0.6:
        parent[key] = rng.choice(VALUES)
    elif kind < 0.7 and parent is not root:
        del parent[key]
    elif kind < 0.8:
        parent[key] = {"x": parent[key]} if rng.random() < 0.5 else [parent[key]]
    elif kind < 0.9:
        parent[key] = [parent[key]] * min(rng.choice((2, 10, 1000)), 1 + LARGEST // len(data))
    elif isinstance(parent, dict):
        parent[rng.choice(WORDS)] = parent[key]
    return _json(root[""]).encode("utf-8", "surrogatepass")


def _json(value: Any) -> str:
    # json.dumps goes through str(), which refuses integers of more than 4,300 digits; ours are not.
    return json.dumps(value, ensure_ascii=False)


def chunked(
    split: Callable[[bytes], tuple[bytes, Chunks]], join: Callable[[bytes, Chunks], bytes]
) -> Mutator:
    """A mutator of files that are a beginning and named parts."""

    def mutate(rng: Random, data: bytes) -> bytes:
        head, chunks = split(data)
        at, kind = rng.randrange(len(chunks)), rng.random()
        name, body = chunks[at]
        if kind < 0.6:
            inner = boxes if name in _CONTAINERS else raw
            try:
                chunks[at] = (name, inner(rng, body))
            except Exception:
                chunks[at] = (name, raw(rng, body))
        elif kind < 0.7:
            del chunks[at]
        elif kind < 0.8:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
        elif kind < 0.85:
            most = LARGEST // (len(body) + 12)
            chunks[at:at] = [chunks[at]] * min(rng.choice((5, 100, 100_000)), most)
        elif kind < 0.92:
            other = rng.randrange(len(chunks))
            chunks[at], chunks[other] = chunks[other], chunks[at]
        else:
            chunks[at] = (rng.choice(chunks)[0], body)
        return join(head, chunks)

    return mutate


def _split_png(data: bytes) -> tuple[bytes, Chunks]:
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return data[:8], chunks


def _join_png(head: bytes, chunks: Chunks) -> bytes:
    return head + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _split_riff(data: bytes) -> tuple[bytes, Chunks]:
    chunks, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return data[:12], chunks


def _join_riff(head: bytes, chunks: Chunks) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2)
        for name, part in chunks
    )
    return head[:4] + struct.pack("<I", len(body) + 4) + head[8:] + body


def _split_jpeg(data: bytes) -> tuple[bytes, Chunks]:
    chunks, at = [], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        chunks.append((data[at : at + 2], data[at + 4 : at + 2 + size]))
        at += 2 + size
    return data[:2], [*chunks, (b"", data[at:])]


def _join_jpeg(head: bytes, chunks: Chunks) -> bytes:
    return head + b"".join(
        name + struct.pack(">H", min(len(body) + 2, 65535)) + body if name else body
        for name, body in chunks
    )


_CONTAINERS = (b"meta", b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf")


def _split_boxes(data: bytes) -> tuple[bytes, Chunks]:
    at = 0 if data[4:8].isalnum() else 4  # meta has version and flags in front
    head, chunks = data[:at], []
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8:
            break
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + size]))
        at += size
    return head, chunks


def _join_boxes(head: bytes, chunks: Chunks) -> bytes:
    return head + b"".join(struct.pack(">I", len(body) + 8) + n + body for n, body in chunks)


boxes = chunked(_split_boxes, _join_boxes)


def tiff(rng: Random, data: bytes) -> bytes:
    """An entry of the first directory of a little-endian TIFF changed."""
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    part, size = rng.choice(((0, 2), (2, 2), (4, 4), (8, 4)))
    at = start + 2 + 12 * rng.randrange(count) + part
    value = rng.choice(NUMBERS) if part else rng.choice((254, *range(256, 340), 34665, 34853))
    if part == 2:
        value = rng.randrange(14)
    return data[:at] + (value % 2 ** (8 * size)).to_bytes(size, "little") + data[at + size :]


def safetensors(rng: Random, data: bytes) -> bytes:
    """The header or the numbers of a safetensors file changed."""
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.5:
        header = json_value(rng, header)
    elif rng.random() < 0.5:
        header = text(rng, header)
    else:
        body = raw(rng, body)
    return struct.pack("<Q", len(header)) + header + body


def npy(rng: Random, data: bytes) -> bytes:
    """The header or the numbers of a NumPy file changed."""
    size = 10 + int.from_bytes(data[8:10], "little")
    header, body = data[10:size], data[size:]
    if rng.random() < 0.6:
        header = text(rng, header)[:65000]
        if rng.random() < 0.5:  # aligned as NumPy writes it
            header = header.rstrip() + b" " * (-(len(header.rstrip()) + 11) % 64) + b"\n"
        return data[:8] + struct.pack("<H", len(header)) + header + body
    return data[:size] + raw(rng, body)


def checkpoint(rng: Random, data: bytes) -> bytes:
    """A member of a PyTorch archive changed; its pickle by whole instructions."""
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", kind) as new:
        names = old.namelist()
        pickles = [name for name in names if name.endswith(".pkl")]
        chosen = rng.choice(pickles) if rng.random() < 0.85 else rng.choice(names)
        for name in names:
            body = old.read(name)
            if name == chosen:
                body = pickled(rng, body) if name in pickles else raw(rng, body)
            if name == chosen and rng.random() < 0.03:
                body += bytes(64 << 20)  # what compresses to nearly nothing
            new.writestr(name, body)
    return out.getvalue()


def pickled(rng: Random, data: bytes) -> bytes:
    """One to three instructions of a pickle replaced, repeated, swapped or left out."""
    starts = [at for _, _, at in pickletools.genops(data) if at is not None]
    parts = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, kind = rng.randrange(len(parts)), rng.random()
        whole = [i for i, part in enumerate(parts) if part[:1] in b"KMJ\x8a"]
        if kind < 0.5 and whole:
            value = rng.choice((*NUMBERS, -1, -(2**31), 10**5000))
            packed = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            parts[rng.choice(whole)] = b"\x8b" + struct.pack("<i", len(packed)) + packed
        elif kind < 0.65:
            parts[at] = parts[rng.randrange(len(parts))]
        elif kind < 0.8:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif kind < 0.9:
            parts.insert(at, parts[at])
        else:
            del parts[at]
    return b"".join(parts)


_BY_ENDING: dict[str, Mutator] = {
    ".png": chunked(_split_png, _join_png),
    ".webp": chunked(_split_riff, _join_riff),
    ".jpg": chunked(_split_jpeg, _join_jpeg),
    ".heic": boxes,
    ".avif": boxes,
    ".tif": tiff,
    ".json": json_value,
    ".geojson": json_value,
    ".safetensors": safetensors,
    ".npy": npy,
    ".pth": checkpoint,
} | dict.fromkeys((".csv", ".tsv", ".gpx", ".toml", ".sha256"), text)
