"""Backends: they see tile lists only. `torch_backend` is the specification, `triton_backend` the fast one, and
`compiled_backend` runs the same kernels without Triton."""
