"""What happens while ComfyUI samples. Nodes use it; plans and kernels never do."""
