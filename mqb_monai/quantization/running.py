"""Which module of a network is running, for whoever watches what is computed between the modules' calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def follow_modules(network: nn.Module, enter: Callable[[str], None], leave: Callable[[bool], None]) -> Iterator[None]:
    """Within the block tell when a module of ``network`` starts and ends; ``network`` itself may be running already.

    Calls in other threads are not told of.

    Args:
        network: its submodules are followed, it itself is not.
        enter: gets the first name of a module whose forward starts.
        leave: called when the module entered last ends, with False where its forward raised.
    """
    thread = threading.get_ident()

    def follow(name: str, module: nn.Module):
        def entered(*_):
            if threading.get_ident() == thread:
                enter(name)

        def left(module, args, output):
            if threading.get_ident() == thread:
                leave(output is not None)

        # Entered before any other hook of the module can raise: it is left in any case.
        return (
            module.register_forward_pre_hook(entered, prepend=True),
            module.register_forward_hook(left, always_call=True),
        )

    handles = []
    try:
        for name, module in network.named_modules():
            if module is not network and not isinstance(module, torch.jit.ScriptModule):  # those take no hooks
                handles += follow(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()
