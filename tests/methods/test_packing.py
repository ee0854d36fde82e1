"""Packing holds on to nothing."""

import gc
import weakref

import torch

from emsfl.methods import pack, unpack


def test_a_packed_state_is_gone_with_its_last_user():
    tensor = torch.arange(6.0).reshape(2, 3)
    gc.disable()  # only reference counts may free it
    try:
        arrays, tree = pack({"model": [tensor, tensor]})
        assert len(arrays) == 1
        found = unpack(arrays, tree)
        assert not arrays, "nothing is held twice"
        kept, unpacked = weakref.ref(tensor), weakref.ref(found["model"][0])
        assert found["model"][0] is found["model"][1]
        assert torch.equal(found["model"][0], tensor)
        del tensor, arrays, tree, found
        assert kept() is None
        assert unpacked() is None
    finally:
        gc.enable()
