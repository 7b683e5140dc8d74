"""Helpers that run a real ComfyUI: `installation` finds it, `server` starts it, `prompts` are its workflows; `scripts`
runs code beside its modules without a server, and `bare` is what such code begins with.

`test_pack` is a custom node pack for tests alone, which stands in for text encoders of many gigabytes.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
sys.path[1:1] = [str(TESTS / "support"), str(TESTS)]
