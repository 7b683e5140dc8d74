"""All that ComfyUI and torch.compile see of the pack: wrappers, the attention override, the compiled operator."""
