"""Two networks of one structure side by side: the tensors of each layer meet, and none has to be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import torch
from torch import nn

from mqb_monai.errors import InputError

# (layer, its name, "input" or "output", the reference's tensor, the other network's)
Meeting = Callable[[nn.Module, str, str, torch.Tensor, torch.Tensor], None]


class _StoppedError(Exception):
    """The other network failed."""


class Lockstep:
    """Run a reference network and another one at once; each waits for the other at every layer's input and output.

    The reference runs in a thread of its own and offers what a layer gets or gives; it goes on when the other network,
    in the caller's thread, has come to the same place and both tensors were seen. So at most one tensor of the
    reference is held at a time, however big the network.

    Args:
        reference, other: networks in eval mode, of the same structure.
        layers: names of modules, by which both know the layers where they meet.
        meet: called at every meeting, with the layer of ``other``; must not keep the tensors.
    """

    def __init__(self, reference: nn.Module, other: nn.Module, layers: Iterable[str], meet: Meeting) -> None:
        self.reference, self.other, self.layers, self.meet = reference, other, tuple(layers), meet
        self._offered: SimpleQueue = SimpleQueue()
        self._seen: SimpleQueue = SimpleQueue()

    def __call__(self, x: torch.Tensor) -> Any:
        """Run both on ``x`` and return the output of ``other``.

        Raises InputError: the networks call their layers in different orders.
        """
        self._offered, self._seen = SimpleQueue(), SimpleQueue()
        handles = [*self._attach(self.reference, self._offer), *self._attach(self.other, self._take)]
        try:
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(self._run_reference, x)
                try:
                    with torch.no_grad():
                        output = self.other(x)
                finally:
                    self._seen.put(False)  # whatever ended the other network: the reference must not wait for it
                self._finish(running)
                return output
        finally:
            for handle in handles:
                handle.remove()

    def _attach(self, network: nn.Module, visit: Callable) -> list:
        handles = []
        for name in self.layers:
            module = network.get_submodule(name)

            def before(module, args, kwargs, name=name):
                visit(module, name, "input", args[0] if args else kwargs["input"])

            def after(module, args, output, name=name):
                visit(module, name, "output", output)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        return handles

    def _run_reference(self, x: torch.Tensor) -> None:
        try:
            with torch.no_grad():  # which every thread has its own switch of
                self.reference(x)
            self._offered.put(("no layer", "the end", None))
        except BaseException as error:
            self._offered.put(error)  # the other network waits for an offer
            raise

    def _finish(self, running: Future) -> None:
        try:
            running.result()
        except _StoppedError:
            raise _different(self._offered.get()[:2], ("no layer", "the end")) from None

    def _offer(self, module: nn.Module, name: str, role: str, tensor: torch.Tensor) -> None:
        self._offered.put((name, role, tensor))
        if not self._seen.get():
            raise _StoppedError

    def _take(self, module: nn.Module, name: str, role: str, tensor: torch.Tensor) -> None:
        offer = self._offered.get()
        if isinstance(offer, BaseException):
            raise offer
        if offer[:2] != (name, role):
            raise _different(offer[:2], (name, role))
        self.meet(module, name, role, offer[2], tensor)
        self._seen.put(True)


def _different(reference: tuple[str, str], other: tuple[str, str]) -> InputError:
    return InputError(
        f"the two networks call their layers in different orders: {reference[1]} of {reference[0]} in the float one, "
        f"{other[1]} of {other[0]} in the quantized one. Such a network cannot be compared layer by layer."
    )
