"""HPACK's Huffman code (RFC 7541, appendix B), for reading.

The code is canonical: symbols in the order of their codes' lengths and then of their values have consecutive codes. So the
lengths are all there is to know.
"""

from __future__ import annotations

from functools import cache, lru_cache

__all__ = ["decode"]

#: A code's length in bits, and the symbols with codes of that length.
_LENGTHS: dict[int, bytes] = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\0$@[]~",
    14: b"^}",
    15: b"<`{",
    19: bytes((92, 195, 208)),
    20: bytes((128, 130, 131, 162, 184, 194, 224, 226)),
    21: bytes((153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230)),
    22: bytes((129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170))
    + bytes((173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232, 233)),
    23: bytes((1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157))
    + bytes((158, 165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239)),
    24: bytes((9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237)),
    25: bytes((199, 207, 234, 235)),
    26: bytes((192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255)),
    27: bytes((203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254)),
    28: bytes((2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21))
    + bytes((23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249)),
    30: bytes((10, 13, 22)),  # and the end of the string, whose code is all ones: only a prefix of it is ever sent
}

#: Longer strings are too rare to be kept.
_KEPT = 256


def decode(data: bytes) -> bytes:
    """The string. Raises ValueError for a code that is none, and for padding that is not: 0 to 7 bits, all ones."""
    return _known(data) if len(data) <= _KEPT else _decode(data)


@cache
def _symbols() -> dict[str, int]:
    """From a code, written in ones and zeros, to its symbol."""
    symbols = {}
    code = before = 0
    for length, values in _LENGTHS.items():
        code <<= length - before
        before = length
        for value in values:
            symbols[f"{code:0{length}b}"] = value
            code += 1
    return symbols


def _decode(data: bytes) -> bytes:
    size = len(data) * 8
    bits = f"{int.from_bytes(data):0{size}b}" if data else ""
    symbols = _symbols()
    decoded = bytearray()
    at = 0
    while at < size:
        for length in _LENGTHS:
            symbol = symbols.get(bits[at : at + length])
            if symbol is not None:
                decoded.append(symbol)
                at += length
                break
        else:
            if size - at < 8 and "0" not in bits[at:]:
                break
            raise ValueError("a Huffman code that is none")
    return bytes(decoded)


#: Each connection begins with the same names and paths; what they mean is worked out once.
_known = lru_cache(maxsize=512)(_decode)
