"""Helpers that run a real ComfyUI: `installation` finds it, `server` starts it, `prompts` are its workflows.

`test_pack` is a custom node pack for tests alone, which stands in for text encoders of many gigabytes.
"""
