"""Buffers that keep their precision whatever the network is moved to."""

from __future__ import annotations


class ScaleBuffers:
    """For modules with buffers that have ``scale`` in their names: rounded by ``.half()`` they were another grid."""

    def _apply(self, fn, recurse=True):
        scales = {name: value for name, value in self._buffers.items() if "scale" in name and value is not None}
        super()._apply(fn, recurse)
        for name, scale in scales.items():
            if self._buffers[name].dtype != scale.dtype:
                self._buffers[name] = scale.to(self._buffers[name].device)
        return self
