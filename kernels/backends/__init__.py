"""Backends: they see tile lists only. `torch_backend` is the specification, `triton_backend` the fast one."""
