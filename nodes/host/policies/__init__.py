"""What decides about an attention call: a plan, a profiler, calibration; and the tuner of kernels."""
