"""The types of GGUF's tensors: how their blocks lie in the file, and what numbers they hold.

A row of a matrix is a sequence of blocks; each holds some weights in few bits and the scales that
they share. The formats are those of ggml; the names, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from run import ModelError

# What the 16 values of four bits stand for in IQ4_NL and IQ4_XS.
NONLINEAR = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


@dataclass(frozen=True)
class BlockType:
    """A type of tensor: its number in GGUF files, and what a block of it is."""

    number: int
    name: str
    weights: int  # in a block
    layout: np.dtype
    decode: Callable[[np.ndarray], np.ndarray]  # blocks (rows, n) -> float32 (rows, n, weights)


class BlockTensor:
    """A matrix (out, in) in blocks as the file has them; rows become float32 when they are read."""

    def __init__(self, kind: BlockType, blocks: np.ndarray):
        self.kind = kind
        self.blocks = blocks  # (out, in / weights)
        self.shape = blocks.shape[0], blocks.shape[1] * kind.weights
        self.nbytes = blocks.nbytes

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return these rows as float32, (number of rows, in)."""
        return self.kind.decode(self.blocks[rows]).reshape(-1, self.shape[1])


# ---------------------------------------------------------------------------- decode functions
def floats(blocks: np.ndarray) -> np.ndarray:
    """F32 and F16: numbers as they are."""
    return blocks.astype(np.float32)


def brain_floats(blocks: np.ndarray) -> np.ndarray:
    """BF16: the upper half of a float32."""
    return (blocks.astype(np.uint32) << 16).view(np.float32)


def scale(blocks: np.ndarray, name: str = "d") -> np.ndarray:
    """A float16 of each block as float32, (rows, n, 1)."""
    return blocks[name].astype(np.float32)[..., None]


def nibbles(packed: np.ndarray) -> np.ndarray:
    """Bytes (rows, n, k) -> numbers of four bits (rows, n, 2 k): first all low, then all high."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def with_fifth_bit(blocks: np.ndarray) -> np.ndarray:
    """Q5_0 and Q5_1: 32 nibbles and, in a number of 32 bits, the highest bit of each."""
    bits = blocks["fifth"][..., None] >> np.arange(32, dtype=np.uint32) & 1
    return nibbles(blocks["q"]) | bits.astype(np.uint8) << 4


def decode_q8_0(blocks: np.ndarray) -> np.ndarray:
    """w = d q"""
    return scale(blocks) * blocks["q"]


def decode_q4_0(blocks: np.ndarray) -> np.ndarray:
    """w = d (q - 8)"""
    return scale(blocks) * (nibbles(blocks["q"]).view(np.int8) - np.int8(8))


def decode_q4_1(blocks: np.ndarray) -> np.ndarray:
    """w = d q + m"""
    return scale(blocks) * nibbles(blocks["q"]) + scale(blocks, "m")


def decode_q5_0(blocks: np.ndarray) -> np.ndarray:
    """w = d (q - 16)"""
    return scale(blocks) * (with_fifth_bit(blocks).view(np.int8) - np.int8(16))


def decode_q5_1(blocks: np.ndarray) -> np.ndarray:
    """w = d q + m"""
    return scale(blocks) * with_fifth_bit(blocks) + scale(blocks, "m")


def decode_q2_k(blocks: np.ndarray) -> np.ndarray:
    """w = d s q - dmin m: sixteen runs of 16 weights, s and m of four bits in a byte."""
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    q = blocks["q"].reshape(*blocks.shape, 2, 1, 32) >> shifts & 3
    q = q.reshape(*blocks.shape, 16, 16)
    scales = scale(blocks) * (blocks["scales"] & 15)
    mins = scale(blocks, "dmin") * (blocks["scales"] >> 4)
    return (scales[..., None] * q - mins[..., None]).reshape(*blocks.shape, 256)


def decode_q3_k(blocks: np.ndarray) -> np.ndarray:
    """w = d (s - 32) (q - 4): sixteen runs of 16 weights; the third bit of each stands apart."""
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    low = (blocks["q"].reshape(*blocks.shape, 2, 1, 32) >> shifts & 3).reshape(*blocks.shape, 8, 32)
    third = blocks["third"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    q = (low | third << 2).view(np.int8) - np.int8(4)
    packed = blocks["scales"]
    high = packed[..., None, 8:] >> shifts & 3  # two upper bits, four scales at a time
    scales = nibbles(packed[..., :8]) | high.reshape(*blocks.shape, 16) << 4
    scales = scale(blocks) * (scales.view(np.int8) - np.int8(32))
    return (scales[..., None] * q.reshape(*blocks.shape, 16, 16)).reshape(*blocks.shape, 256)


def scales_and_mins(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q4_K and Q5_K: eight scales and minima of six bits in twelve bytes, times d and dmin."""
    low, mid, high = np.split(blocks["scales"], 3, axis=-1)
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=-1)
    mins = np.concatenate([mid & 63, high >> 4 | mid >> 6 << 4], axis=-1)
    return scale(blocks) * scales, scale(blocks, "dmin") * mins


def nibbles_by_32(blocks: np.ndarray) -> np.ndarray:
    """Q4_K and Q5_K: of each 32 bytes first the low, then the high nibbles, (rows, n, 8, 32)."""
    q = blocks["q"].reshape(*blocks.shape, 4, 1, 32) >> np.array([[0], [4]], np.uint8) & 15
    return q.reshape(*blocks.shape, 8, 32)


def decode_q4_k(blocks: np.ndarray) -> np.ndarray:
    """w = d s q - dmin m: eight runs of 32 weights."""
    scales, mins = scales_and_mins(blocks)
    w = scales[..., None] * nibbles_by_32(blocks) - mins[..., None]
    return w.reshape(*blocks.shape, 256)


def decode_q5_k(blocks: np.ndarray) -> np.ndarray:
    """As Q4_K, with a fifth bit of each weight apart."""
    scales, mins = scales_and_mins(blocks)
    fifth = blocks["fifth"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    w = scales[..., None] * (nibbles_by_32(blocks) | fifth << 4) - mins[..., None]
    return w.reshape(*blocks.shape, 256)


def decode_q6_k(blocks: np.ndarray) -> np.ndarray:
    """w = d s (q - 32): sixteen runs of 16 weights; the two upper bits of each stand apart."""
    halves = (*blocks.shape, 2, 1)
    low = blocks["low"].reshape(*halves, 64) >> np.array([[0], [4]], np.uint8) & 15
    high = blocks["high"].reshape(*halves, 32) >> np.array([[0], [2], [4], [6]], np.uint8) & 3
    q = (low.reshape(*blocks.shape, 2, 4, 32) | high << 4).view(np.int8) - np.int8(32)
    scales = scale(blocks) * blocks["scales"]
    return (scales[..., None] * q.reshape(*blocks.shape, 16, 16)).reshape(*blocks.shape, 256)


def decode_iq4_nl(blocks: np.ndarray) -> np.ndarray:
    """w = d NONLINEAR[q]"""
    return scale(blocks) * NONLINEAR[nibbles(blocks["q"])]


def decode_iq4_xs(blocks: np.ndarray) -> np.ndarray:
    """w = d (s - 32) NONLINEAR[q]: eight runs of 32 weights, s of four and two bits."""
    low = np.stack([blocks["low"] & 15, blocks["low"] >> 4], axis=-1).reshape(*blocks.shape, 8)
    high = blocks["high"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = scale(blocks) * ((low | high.astype(np.uint8) << 4).view(np.int8) - np.int8(32))
    q = nibbles(blocks["q"].reshape(*blocks.shape, 8, 16))
    return (scales[..., None] * NONLINEAR[q]).reshape(*blocks.shape, 256)


# ------------------------------------------------------------------------------------ the table
D, M = ("d", "<f2"), ("m", "<f2")
K_SCALES = [D, ("dmin", "<f2"), ("scales", "u1", 12)]
TYPES = {
    kind.number: kind
    for kind in (
        BlockType(0, "F32", 1, np.dtype("<f4"), floats),
        BlockType(1, "F16", 1, np.dtype("<f2"), floats),
        BlockType(30, "BF16", 1, np.dtype("<u2"), brain_floats),
        BlockType(2, "Q4_0", 32, np.dtype([D, ("q", "u1", 16)]), decode_q4_0),
        BlockType(3, "Q4_1", 32, np.dtype([D, M, ("q", "u1", 16)]), decode_q4_1),
        BlockType(6, "Q5_0", 32, np.dtype([D, ("fifth", "<u4"), ("q", "u1", 16)]), decode_q5_0),
        BlockType(7, "Q5_1", 32, np.dtype([D, M, ("fifth", "<u4"), ("q", "u1", 16)]), decode_q5_1),
        BlockType(8, "Q8_0", 32, np.dtype([D, ("q", "i1", 32)]), decode_q8_0),
        BlockType(
            10,
            "Q2_K",
            256,
            np.dtype([("scales", "u1", 16), ("q", "u1", 64), D, ("dmin", "<f2")]),
            decode_q2_k,
        ),
        BlockType(
            11,
            "Q3_K",
            256,
            np.dtype([("third", "u1", 32), ("q", "u1", 64), ("scales", "u1", 12), D]),
            decode_q3_k,
        ),
        BlockType(12, "Q4_K", 256, np.dtype([*K_SCALES, ("q", "u1", 128)]), decode_q4_k),
        BlockType(
            13,
            "Q5_K",
            256,
            np.dtype([*K_SCALES, ("fifth", "u1", 32), ("q", "u1", 128)]),
            decode_q5_k,
        ),
        BlockType(
            14,
            "Q6_K",
            256,
            np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), D]),
            decode_q6_k,
        ),
        BlockType(20, "IQ4_NL", 32, np.dtype([D, ("q", "u1", 16)]), decode_iq4_nl),
        BlockType(
            23,
            "IQ4_XS",
            256,
            np.dtype([D, ("high", "<u2"), ("low", "u1", 4), ("q", "u1", 128)]),
            decode_iq4_xs,
        ),
    )
}

# What is refused by its name: no model needs the first ones, and the others are for fewer bits.
REFUSED = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


def block_type(number: int, name: str) -> BlockType:
    """Return the type of this number. ModelError, which names the tensor, if it is not known."""
    if number in TYPES:
        return TYPES[number]
    known = ", ".join(kind.name for kind in TYPES.values())
    raise ModelError(
        f"tensor {name} has type {REFUSED.get(number, number)}: convert it to one of {known}"
    )
