"""Attention over tiles: patterns on a token grid -> tile lists -> backends. Knows nothing of plans or ComfyUI."""
