"""Random masks as pure functions of (seed, source name, tensor name, element index).

`docs/merging.md` specifies the format with a test vector; the fused kernel in
`evoserve.merge.jit` computes the same bits.
"""

import hashlib

import torch

DENSITY_ONE = 1 << 24
MULTIPLIERS = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)
SHIFTS = (17, 11, 15, 14)
HIGH_WORD_MULTIPLIER = 0x9E3779B9
_LOW = 0xFFFFFFFF

MaskKey = tuple[int, int]


def mask_key(seed: int, model: str, tensor: str) -> MaskKey:
    """The two 32-bit key words of one source's mask for one tensor."""
    digest = hashlib.sha256(f"{seed}\0{model}\0{tensor}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def density_threshold(density: float) -> int:
    """What the upper 24 bits of an element's hash must lie below for it to be kept."""
    return round(density * DENSITY_ONE)


def hash_elements(key: MaskKey, indices: torch.Tensor) -> torch.Tensor:
    """int64 tensor of 32-bit hashes of int64 element `indices` (any shape)."""
    high = ((indices >> 32) * HIGH_WORD_MULTIPLIER) & _LOW
    x = (indices & _LOW) ^ key[0]
    x = x ^ (x >> SHIFTS[0])
    x = (x * MULTIPLIERS[0]) & _LOW
    x = x ^ (key[1] ^ high)
    x = x ^ (x >> SHIFTS[1])
    x = (x * MULTIPLIERS[1]) & _LOW
    x = x ^ (x >> SHIFTS[2])
    x = (x * MULTIPLIERS[2]) & _LOW
    return x ^ (x >> SHIFTS[3])


def keep_mask(
    key: MaskKey,
    threshold: int | torch.Tensor,
    start: int,
    shape: torch.Size,
    device: torch.device | None = None,
) -> torch.Tensor:
    """bool mask of `shape` for the elements from flat index `start` on; True is kept.

    threshold: of all elements, or one per element; see `density_threshold`.
    """
    indices = torch.arange(start, start + shape.numel(), dtype=torch.int64, device=device)
    return (hash_elements(key, indices).reshape(shape) >> 8) < threshold
