"""All that the pack knows of ComfyUI and its models. Nodes use it; plans and kernels never do."""
