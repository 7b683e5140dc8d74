"""One sampling run: its calls, its blocks, its checks, and the one place that executes sparse attention."""
