"""The reasons for dense attention: one text each, with what a user can do about it; and errors as reasons."""

from __future__ import annotations

import logging

import pytest
import torch
from sparse_vdit.kernels.lists import MAX_RUN_TILE_PAIRS, TooManyPatterns, check_work
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense, dense_because, failed, of_error, other_model

REASONS = {name: value for name, value in vars(fallback).items() if isinstance(value, Dense)}


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """ComfyUI's, as older ones have it: an ordinary exception."""


class OutOfResources(Exception):  # noqa: N818 - Triton's name
    """Triton's."""


def test_every_reason_is_a_text_of_its_own() -> None:
    texts = [why.reason for why in REASONS.values()]
    assert len(set(texts)) == len(texts) > 20
    assert all(str(why) == why.reason for why in REASONS.values())


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_is_a_sentence_and_its_advice_are_whole_ones(name: str) -> None:
    """A report begins with the first, and gives the second a line of its own."""
    why = REASONS[name]
    assert why.sentence and why.sentence[-1] not in ".;" and ". " not in why.sentence
    assert not why.advice or (why.advice[0].isupper() and why.advice[-1] == ".")


@pytest.mark.parametrize("name", REASONS)
def test_what_the_user_did_not_choose_has_advice(name: str) -> None:
    """But calls that no plan is about, and forms of attention that nothing helps with."""
    why = REASONS[name]
    nothing_helps = ("MASKED", "OWN_SCALE", "NO_TEXT")
    assert why.advice or why.intended or not why.self_attention or name in nothing_helps


def test_reasons_are_equal_by_their_text() -> None:
    """As they come back from compiled code, as a text."""
    for why in REASONS.values():
        assert dense_because(why.reason) is why
    other = dense_because("guides that are not whole frames")
    assert other == Dense("guides that are not whole frames", "a hint") != fallback.MASKED
    assert other.self_attention and not other.intended


@pytest.mark.parametrize(
    ("error", "why", "text"),
    [
        (RuntimeError("compile failed\nmore"), fallback.KERNEL_FAILED, "failed (RuntimeError: compile failed)"),
        (ValueError(""), fallback.KERNEL_FAILED, "failed (ValueError: no message)"),
        (torch.OutOfMemoryError("CUDA out of memory."), fallback.OUT_OF_MEMORY, "memory ran out in sparse attention ("),
        (RuntimeError("CUDA error: out of memory"), fallback.OUT_OF_MEMORY, "memory ran out"),
        (MemoryError(), fallback.OUT_OF_MEMORY, "memory ran out"),
        (OutOfResources("shared memory"), fallback.KERNEL_FAILED, "needs more than this card has"),
    ],
)
def test_errors_as_reasons(error: Exception, why: Dense, text: str) -> None:
    found, says = of_error(error)
    assert found == why and text in says
    assert "\n" not in says


def test_an_error_beside_the_video_is_a_reason_and_an_interrupt_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sparse_vdit"):
        why = failed("calibration", ValueError("x" * 1000))
    assert why.reason.startswith("calibration failed (ValueError: xxx") and len(why.reason) < 400
    assert "calibration failed" in caplog.text
    with pytest.raises(InterruptProcessingException):
        failed("calibration", InterruptProcessingException())


def test_a_plan_of_another_model_is_named() -> None:
    why = other_model("user/mine", "for a model with heads 40, this one has heads 12")
    assert why.reason == "plan user/mine is for a model with heads 40, this one has heads 12"
    assert why.advice == "Try another plan, or disconnect it."


def test_a_plan_of_too_many_patterns_is_not_called_a_failed_kernel() -> None:
    with pytest.raises(TooManyPatterns) as error:
        check_work([Diagonal(number) for number in range(99)], 41 * 68 * 120, limit=MAX_RUN_TILE_PAIRS)
    assert of_error(error.value) == (fallback.TOO_MANY_PATTERNS, str(error.value))
