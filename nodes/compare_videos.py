"""Compare Videos: how far a sparse video is from the dense one, in numbers and in pictures."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..plans.metrics import psnr, ssim, video_psnr
from .sockets import CATEGORY


class CompareVideos(io.ComfyNode):
    """PSNR and SSIM, and both videos beside their difference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTCompareVideos",
            display_name="Compare Videos (Sparse-vDiT)",
            category=CATEGORY,
            description="PSNR and SSIM between two videos of one size, for the whole video and its worst frame, and "
            "both side by side with a map of the difference.",
            search_aliases=["compare", "psnr", "ssim", "difference", "quality", "metrics"],
            is_output_node=True,
            inputs=[
                io.Image.Input("reference", tooltip="The video to compare with, for example the dense one."),
                io.Image.Input("video", tooltip="The video to judge, as many frames and as large as the reference."),
                io.Float.Input(
                    "difference_gain",
                    default=4.0,
                    min=1.0,
                    max=64.0,
                    step=0.5,
                    tooltip="How much brighter the map shows the difference than it is.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="metrics", tooltip="PSNR and SSIM in words."),
                io.Image.Output(display_name="side_by_side", tooltip="Reference, video, difference."),
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
        text = metrics(reference, video)
        difference = ((reference - video).abs() * difference_gain).clamp(0, 1)
        return io.NodeOutput(text, torch.cat([reference, video, difference], 2), ui=ui.PreviewText(text))


def metrics(reference: Tensor, video: Tensor) -> str:
    """PSNR and SSIM of videos (frames, H, W, 3) in words."""
    if torch.equal(reference, video):
        return "identical"
    peak, similar = psnr(reference, video), ssim(reference, video)
    worst_peak, worst_similar = int(peak.argmin()), int(similar.argmin())
    return (
        f"PSNR {video_psnr(reference, video):.2f} dB (worst frame {peak[worst_peak]:.2f} dB, number {worst_peak})\n"
        f"SSIM {similar.mean():.4f} (worst frame {similar[worst_similar]:.4f}, number {worst_similar})"
    )
