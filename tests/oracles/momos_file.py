"""A second reader of the .momos file, written from its description with Python's integers and
lists; no speed, no checks. The library safetensors cuts the file into sections.
"""

import base64
import hashlib
import json
import math
import struct

import safetensors
import zstandard

# Bytes of an element by dtype
ITEM = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "complex128": 16,
    "complex64": 8,
}


def bits(data: bytes, count: int, width: int) -> list[int]:
    groups = (
        int.from_bytes(data[i * width : (i + 1) * width], "little")
        for i in range(math.ceil(count / 8))
    )  # 8 values in `width` bytes
    return [number >> i * width & (1 << width) - 1 for number in groups for i in range(8)][:count]


def planes(data: bytes, count: int, word: int) -> tuple[bytes, bytes]:
    """The words, and what follows them in data."""
    out = b""
    while count:
        size, columns = min(count, 2**17), []
        for _ in range(word):
            (length,) = struct.unpack("<I", data[:4])
            plane, data = data[4 : 4 + length], data[4 + length :]
            columns.append(plane if length == size else zstandard.decompress(plane))
        out += bytes(byte for row in zip(*columns, strict=True) for byte in row)
        count -= size
    return out, data


def motifs(data: bytes, k: int, block: int, word: int) -> list[bytes]:
    steps, data = planes(data, k, word)
    others, _ = planes(data, k * (block // word - 1), word)
    value, found = 0, []
    for i in range(k):
        value = (value + int.from_bytes(steps[i * word : (i + 1) * word], "little")) % 256**word
        found.append(
            value.to_bytes(word, "little") + others[i * (block - word) : (i + 1) * (block - word)]
        )
    return found


def on_grid(codes: list[int], width: int, step: float) -> bytes:
    """float32 values: whole multiples of the step, whose product float64 holds exactly, rounded
    once; the last code is -0.
    """
    half = 2 ** (width - 1) - 1
    return b"".join(
        struct.pack("<f", -0.0 if code == 2 * half + 1 else (code - half) * step) for code in codes
    )


def grids(coding: str, data: bytes, sizes: list[int]) -> bytes:
    out = b""
    for size in sizes:
        width, step = struct.unpack("<Bf", data[:5])
        data = data[5:]
        if coding == "grids":
            used = size * 4 if width == 0 else math.ceil(size * width / 8)
            part, data = data[:used], data[used:]
            out += part if width == 0 else on_grid(bits(part, size, width), width, step)
        else:
            word = 4 if width == 0 else 1 if width <= 8 else 2
            part, data = planes(data, size, word)
            codes = [
                int.from_bytes(part[i : i + word], "little") for i in range(0, len(part), word)
            ]
            out += part if width == 0 else on_grid(codes, width, step)
    return out


def table_of(coding: str, data: bytes, k: int, block: int, word: int) -> list[bytes]:
    if coding == "motifs":
        return motifs(data, k, block, word)
    if coding in ("grid", "grid motifs"):
        width, step = struct.unpack("<Bf", data[:5])
        word = 1 if width <= 8 else 2
        if coding == "grid":
            codes = bits(data[5:], k * block // 4, width)
        else:
            rows = b"".join(motifs(data[5:], k, block // 4 * word, word))
            codes = [
                int.from_bytes(rows[i : i + word], "little") for i in range(0, len(rows), word)
            ]
        data = on_grid(codes, width, step)
    return [data[i * block : (i + 1) * block] for i in range(k)]


def ranks(data: bytes, n: int, width: int) -> list[int]:
    found = []
    while len(found) < n:
        count = min(n - len(found), 2**17)
        (length,) = struct.unpack("<I", data[:4])
        data = data[4:]
        if length == 0:
            size = math.ceil(count * width / 8)
            found, data = found + bits(data[:size], count, width), data[size:]
            continue
        codes, data = zstandard.decompress(data[:length]), data[length:]
        follow = [max(code // 8 - 1, 0) for code in codes]
        chunk = [code - 8 * e << e for code, e in zip(codes, follow, strict=True)]
        for e in range(1, width - 3):
            places = [i for i in range(count) if follow[i] == e]
            size = math.ceil(len(places) * e / 8)
            for place, low in zip(places, bits(data[:size], len(places), e), strict=True):
                chunk[place] += low
            data = data[size:]
        found += chunk
    return found


def directory(content: bytes) -> dict:
    (length,) = struct.unpack("<Q", content[:8])
    about = json.loads(content[8 : 8 + length])["__metadata__"]
    text = about["directory"].encode()
    assert about["momos"] == "3"
    assert hashlib.sha256(text + content[8 + length :]).hexdigest() == about["sha256"]
    return json.loads(zstandard.decompress(base64.b85decode(text)))


def listed(about: dict) -> dict[str, dict]:
    """The header's entries: a tensor for each section, those of large elements first."""
    found, place = {}, 0
    plain = {"float32": "F32", "int64": "I64", "bool": "BOOL"}
    typed = [(s, plain.get(s[1], "U8") if s[2] == "raw" else "U8") for s in about["sections"]]
    starts = {}
    for (kind, dtype, _, size), _ in sorted(
        typed, key=lambda pair: -1 if pair[1] == "U8" else -ITEM[pair[0][1]]
    ):
        starts[kind, dtype] = (place, place + size)
        place += size
    for (kind, dtype, _, size), name in typed:
        shape = [size if name == "U8" else size // ITEM[dtype]]
        if kind == "motifs" and name != "U8":
            shape = [about["num_motifs"][dtype], about["block_size"]]
        offsets = list(starts[kind, dtype])
        found[f"{kind}.{dtype}"] = {"dtype": name, "shape": shape, "data_offsets": offsets}
    return found


def tensors(content: bytes) -> dict[str, bytes]:
    """Name -> the bytes of its values in logical order."""
    about, stored = directory(content), dict(safetensors.deserialize(content))
    sections = {
        (kind, dtype): (coding, bytes(stored[f"{kind}.{dtype}"]["data"]))
        for kind, dtype, coding, _ in about["sections"]
    }
    for kind, dtype, coding, size in about["sections"]:
        found = stored.pop(f"{kind}.{dtype}")
        if kind == "motifs" and coding == "raw" and dtype in ("float32", "bfloat16"):
            assert found["shape"] == [about["num_motifs"][dtype], about["block_size"]]
        assert len(found["data"]) == size
    assert not stored
    found = {}
    for weight in (True, False):
        for dtype in dict.fromkeys(entry[1] for entry in about["tensors"] if entry[3] is weight):
            members = [
                (name, math.prod(shape))
                for name, kind, shape, among in about["tensors"]
                if (kind, among) == (dtype, weight)
            ]
            stream = group(about, sections, dtype, [size for _, size in members], weight)
            for name, size in members:
                found[name], stream = stream[: size * ITEM[dtype]], stream[size * ITEM[dtype] :]
            assert stream == b""
    return found | {name: found[origin] for name, origin in about["aliases"].items()}


def group(about: dict, sections: dict, dtype: str, sizes: list[int], weight: bool) -> bytes:
    word, s, k = min(ITEM[dtype], 8), about["block_size"], about["num_motifs"].get(dtype, 0)

    def plain(kind: str, num_bytes: int) -> bytes:
        coding, data = sections[kind, dtype]
        return data if coding == "raw" else planes(data, num_bytes // word, word)[0]

    if weight and k == 0 and sections["weights", dtype][0].startswith("grid"):
        return grids(*sections["weights", dtype], sizes)
    if not weight or k == 0:
        return plain("weights" if weight else "other", sum(sizes) * ITEM[dtype])
    cut = sizes if about["slicing"] == "tensor" else [sum(sizes)]
    n, block, width = sum(size // s for size in cut), s * ITEM[dtype], math.ceil(math.log2(k))
    table = table_of(*sections["motifs", dtype], k, block, word)
    coding, data = sections["mosaic", dtype]
    blocks = iter(ranks(data, n, width) if coding == "ranks" else bits(data, n, width))
    tails, out = plain("tails", sum(size % s for size in cut) * ITEM[dtype]), b""
    for size in cut:
        tail = size % s * ITEM[dtype]
        out += b"".join(table[next(blocks)] for _ in range(size // s)) + tails[:tail]
        tails = tails[tail:]
    return out
