"""Whole models of ComfyUI, measured and composed with what else is in workflows."""
