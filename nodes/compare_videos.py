"""Compare Videos: how far a sparse video is from the dense one, in numbers and in pictures."""

from __future__ import annotations

import math

import comfy.model_management
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..plans.view.comparison import Comparison, compare, draw_comparison, side_by_side
from ..plans.view.expected import beside_same_attention
from ..plans.view.metrics import together
from .sockets import CATEGORY


class CompareVideos(io.ComfyNode):
    """PSNR, SSIM and flicker, and both videos beside their difference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTCompareVideos",
            display_name="Sparse-vDiT Compare Videos",
            category=CATEGORY,
            description="Compares two videos of the same size: PSNR, SSIM and flicker as numbers and over the frames, "
            "and both videos side by side with a map of the difference.",
            search_aliases=["compare videos", "compare", "psnr", "ssim", "difference", "quality", "metrics"],
            is_output_node=True,
            inputs=[
                io.Image.Input("reference", tooltip="The video to compare with, for example the dense one."),
                io.Image.Input("video", tooltip="The video to judge, with the same size and number of frames."),
                io.Float.Input(
                    "difference_gain",
                    default=4.0,
                    min=1.0,
                    max=64.0,
                    step=0.5,
                    tooltip="Contrast of the difference map: 4 shows differences four times stronger. Black means "
                    "none, then blue, orange, white.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="metrics", tooltip="PSNR, SSIM and flicker as text."),
                io.Image.Output(display_name="side_by_side", tooltip="Reference, video, difference."),
                io.Image.Output(display_name="plot", tooltip="PSNR, SSIM and flicker over the frames."),
            ],
        )

    @classmethod
    def execute(cls, reference: Tensor, video: Tensor, difference_gain: float) -> io.NodeOutput:
        """Numbers and pictures.

        Raises:
            ValueError: videos of different sizes.
        """
        reference, video = reference[..., :3], video[..., :3]  # without transparency
        if reference.shape != video.shape:
            sizes = [f"{x.shape[0]} frames of {x.shape[2]} x {x.shape[1]}" for x in (reference, video)]
            raise ValueError(f"videos differ in size: {sizes[0]} and {sizes[1]}; generate both with the same settings")
        found = compare(reference, video, comfy.model_management.throw_exception_if_processing_interrupted)
        shown = side_by_side(reference, video, difference_gain)
        plot = torch.from_numpy(draw_comparison(found).copy()).float()[None] / 255
        text = in_words(found)
        preview = ui.PreviewImage(plot, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(text, shown, plot, ui=preview)


def in_words(found: Comparison) -> str:
    """Measures of two videos."""
    whole = together(found.psnr)
    if whole == math.inf:
        return "identical"
    dark, odd = int(found.psnr.argmin()), int(found.ssim.argmin())
    lines = [
        f"PSNR {whole:.2f} dB (worst frame {found.psnr[dark]:.2f} dB, number {dark})",
        f"SSIM {found.ssim.mean():.4f} (worst frame {found.ssim[odd]:.4f}, number {odd})",
    ]
    if len(found.flicker):
        worst = int(found.flicker.argmax())
        lines.append(
            f"flicker {found.flicker.square().mean().sqrt():.4f} (most {found.flicker[worst]:.4f}, into frame "
            f"{worst + 1})"
        )
    return "\n".join([*lines, beside_same_attention(whole)])
