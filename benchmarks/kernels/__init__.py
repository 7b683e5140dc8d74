"""Kernels measured, checked and predicted."""
