from __future__ import annotations

import pytest
import torch

from mqb_monai.quantization.checkpoint.packing import pack_nibbles, unpack_nibbles


def test_pack_nibbles_by_hand():
    """Two's complement, the even one in the low half: -1 is 0xF, -8 is 0x8; an odd count leaves the last half 0."""
    assert pack_nibbles(torch.tensor([-1, 2, -8, 7, 3], dtype=torch.int8)).tolist() == [0x2F, 0x78, 0x03]
    assert pack_nibbles(torch.tensor([15, 0, 9], dtype=torch.uint8)).tolist() == [0x0F, 0x09]


@pytest.mark.parametrize("shape", [(), (1,), (16,), (3, 5), (2, 3, 3, 3, 1), (0, 4)])
def test_unpack_nibbles_is_the_inverse(shape):
    generator = torch.Generator().manual_seed(0)
    for low, high, dtype in ((-8, 8, torch.int8), (0, 16, torch.uint8)):
        integers = torch.randint(low, high, shape, generator=generator).to(dtype)
        packed = pack_nibbles(integers)
        unpacked = unpack_nibbles(packed, shape, signed=low < 0)
        assert packed.nbytes == (integers.numel() + 1) // 2
        assert unpacked.dtype == dtype
        assert torch.equal(unpacked, integers)


def test_pack_nibbles_of_a_view():
    integers = torch.arange(-8, 7, dtype=torch.int8).view(3, 5).T
    assert torch.equal(unpack_nibbles(pack_nibbles(integers), (5, 3), signed=True), integers)


def test_unpack_nibbles_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"5 integers are packed in \(3,\) torch.uint8, got \(2,\) torch.uint8"):
        unpack_nibbles(torch.zeros(2, dtype=torch.uint8), (5,), signed=True)
    with pytest.raises(ValueError, match=r"got \(5,\) torch.int8"):
        unpack_nibbles(torch.zeros(5, dtype=torch.int8), (5,), signed=True)
