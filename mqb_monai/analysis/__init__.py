"""What quantization does inside a network: which layers it hurts, and how it shifts their activations.

Layer sensitivity: :mod:`layer_groups` (which layers belong together), :mod:`variants` (what is quantized together),
:mod:`replay` (running variants without repeating what they share), :mod:`sensitivity` (their scores). Activation shift:
:mod:`lockstep` (two networks side by side), :mod:`moments`, :mod:`outliers` (what is kept of a tensor),
:mod:`activation_shift` (a layer's figures). Whole: :mod:`sensitivity_study` and :mod:`shift_study`."""
