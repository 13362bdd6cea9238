"""The packed kinds of weights against ggml's loops, written out number by number, and against the gguf package."""

import numpy as np
import pytest

from llmanac.kernels.gguf.blocks import KINDS

PACKED = [name for name, kind in KINDS.items() if kind.size > 1]
f32 = np.float32
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
SCALES = {"Q6_K": (208,), "Q3_K": (108,), "Q2_K": (80, 82), "MXFP4": ()}  # where a block has halves; else at 0 and 2


def half(block, at):
    return f32(np.frombuffer(bytes(block[at : at + 2]), "<f2")[0])


def signed(byte):
    return byte - 256 if byte > 127 else byte


def k_scale(scales, i):
    """`get_scale_min_k4` of ggml-quants.c."""
    if i < 4:
        return scales[i] & 63, scales[i + 4] & 63
    return (scales[i + 4] & 15) | (scales[i - 4] >> 6 << 4), (scales[i + 4] >> 4) | (scales[i] >> 6 << 4)


def unpacked(kind, block):
    """One block of bytes as ggml's `dequantize_row_*` reads it."""
    b = [int(byte) for byte in block]
    d = half(block, 0)
    if kind == "MXFP4":
        d = f32(2.0 ** (b[0] - 128))
    if kind in ("IQ4_NL", "MXFP4"):
        table, qs = IQ4 if kind == "IQ4_NL" else FP4, b[-16:]
        return [d * f32(table[q & 15]) for q in qs] + [d * f32(table[q >> 4]) for q in qs]
    if kind == "IQ4_XS":
        out, high = [], b[2] | b[3] << 8
        for i in range(8):
            scale = d * f32(((b[4 + i // 2] >> 4 * (i % 2) & 15) | (high >> 2 * i & 3) << 4) - 32)
            qs = b[8 + 16 * i : 24 + 16 * i]
            out += [scale * f32(IQ4[q & 15]) for q in qs] + [scale * f32(IQ4[q >> 4]) for q in qs]
        return out
    if kind in ("Q2_K", "Q3_K"):
        qs, hmask = (b[16:80], None) if kind == "Q2_K" else (b[32:96], b[:32])
        d, low = half(block, 80 if kind == "Q2_K" else 108), half(block, 82) if kind == "Q2_K" else f32(0)
        out = []
        for i in range(256):
            n, shift, j, part = i // 128, i % 128 // 32, i % 32, i // 16
            q = qs[32 * n + j] >> 2 * shift & 3
            if hmask is None:
                out.append(d * f32(b[part] & 15) * f32(q) - low * f32(b[part] >> 4))
            else:
                four = b[96 + part % 8] >> (4 if part >= 8 else 0) & 15
                scale = (four | (b[104 + part % 4] >> 2 * (part // 4) & 3) << 4) - 32
                out.append(d * f32(scale) * f32(q - (0 if hmask[j] >> (4 * n + shift) & 1 else 4)))
        return out
    if kind == "Q8_0":
        return [f32(signed(q)) * d for q in b[2:]]
    if kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        m = half(block, 2) if kind[-1] == "1" else None
        at = 2 if m is None else 4
        high = int.from_bytes(bytes(b[at : at + 4]), "little") if kind[1] == "5" else 0
        qs = b[-16:]
        numbers = [(q & 15) | (high >> j & 1) << 4 for j, q in enumerate(qs)]
        numbers += [(q >> 4) | (high >> (j + 16) & 1) << 4 for j, q in enumerate(qs)]
        offset = 16 if kind[1] == "5" else 8
        return [f32(q - offset) * d if m is None else f32(q) * d + m for q in numbers]
    if kind == "Q6_K":
        ql, qh, scales, d = b[:128], b[128:192], b[192:208], half(block, 208)
        out = [None] * 256
        for n in range(2):
            for i in range(32):
                low, high = ql[64 * n :], qh[32 * n + i]
                four = (low[i] & 15, low[i + 32] & 15, low[i] >> 4, low[i + 32] >> 4)
                for part, q in enumerate(four):
                    scale = signed(scales[8 * n + i // 16 + 2 * part])
                    out[128 * n + i + 32 * part] = d * f32(scale) * f32((q | (high >> 2 * part & 3) << 4) - 32)
        return out
    low, out = half(block, 2), []
    qs = b[-128:]
    for i in range(8):
        s, t = k_scale(b[4:16], i)
        for j in range(32):
            q = qs[32 * (i // 2) + j] >> 4 * (i % 2) & 15
            if kind == "Q5_K":
                q |= (b[16 + j] >> i & 1) << 4
            out.append(d * f32(s) * f32(q) - low * f32(t))
    return out


def some_blocks(kind, rows=3, blocks=4):
    rng = np.random.default_rng(KINDS[kind].number)
    data = rng.integers(0, 256, (rows, blocks, KINDS[kind].bytes), np.uint8)
    for at in SCALES.get(kind, (0, 2)):  # scales that are no NaN
        data[..., at + 1] = rng.integers(0, 0x70, (rows, blocks))
    return data


@pytest.mark.parametrize("kind", PACKED)
def test_numbers_equal_ggmls_loops(kind):
    data = some_blocks(kind)
    expected = np.array([[unpacked(kind, block) for block in row] for row in data], np.float32)
    found = KINDS[kind].float32(data.reshape(len(data), -1))
    np.testing.assert_array_equal(found, expected.reshape(len(data), -1))
    assert found.std() > 0


def test_bf16_is_the_upper_half_of_float32():
    x = np.array([[1.0, -2.5, 3.0e38, 0.0]], np.float32)
    np.testing.assert_array_equal(KINDS["BF16"].float32((x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)),
                                  (x.view(np.uint32) & 0xFFFF0000).view(np.float32))  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_gguf_package(kind):
    """Any bytes, also with NaN."""
    gguf = pytest.importorskip("gguf", reason="needs the gguf package")
    rng, ours, theirs = np.random.default_rng(1), KINDS[kind], gguf.GGMLQuantizationType[kind]
    assert gguf.GGML_QUANT_SIZES[theirs] == (ours.size, ours.bytes)
    data = rng.integers(0, 256, (37, 5 * ours.bytes), np.uint8)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(ours.float32(data), gguf.dequantize(data, theirs))
