"""The small Wan: keys of the published checkpoints, an invertible latent, reproducible data, weights that generate."""

import pytest
import torch
from safetensors import safe_open
from small_wan.model import SmallWan, dense_attention
from small_wan.sample import WEIGHTS, load_model, sample, sigma_schedule
from small_wan.video import (
    COLOURS,
    GROWTHS,
    TEXTURES,
    Scene,
    encode,
    random_scene,
    render,
    sample_batch,
    to_latent,
    to_video,
)

GRID = (5, 6, 9)
REST = (("night",), ("pan-still", "level", "even"))  # ground and camera


def wan_keys(layers):
    """State-dict keys of Wan 2.1 T2V, written out by hand."""
    linear = ("weight", "bias")
    keys = {f"patch_embedding.{p}" for p in linear} | {f"head.head.{p}" for p in linear} | {"head.modulation"}
    for stack, numbers in (("text_embedding", (0, 2)), ("time_embedding", (0, 2)), ("time_projection", (1,))):
        keys |= {f"{stack}.{n}.{p}" for n in numbers for p in linear}
    for n in range(layers):
        block = f"blocks.{n}"
        keys |= {f"{block}.modulation", *(f"{block}.norm3.{p}" for p in linear)}
        keys |= {f"{block}.ffn.{i}.{p}" for i in (0, 2) for p in linear}
        for attention in ("self_attn", "cross_attn"):
            keys |= {f"{block}.{attention}.{m}.{p}" for m in "qkvo" for p in linear}
            keys |= {f"{block}.{attention}.norm_{m}.weight" for m in "qk"}
    return keys


def test_weights_have_the_keys_of_wan():
    with safe_open(WEIGHTS, "pt") as file:
        assert set(file.keys()) == wan_keys(4)
        assert file.get_tensor("text_embedding.0.weight").shape == (384, 4096)
        assert file.get_tensor("patch_embedding.weight").shape == (384, 16, 1, 2, 2)
    assert WEIGHTS.stat().st_size <= 24_000_000
    assert 4e6 <= sum(p.numel() for p in load_model().parameters()) <= 11e6


def test_latents_are_pixels_and_back():
    video = torch.rand(2, 3, 5, 14, 22) * 2 - 1
    latent = to_latent(video)
    assert latent.shape == (2, 16, 5, 7, 11)
    torch.testing.assert_close(to_video(latent), video, rtol=0, atol=1e-5)


def test_data_depends_on_the_seed_alone():
    first, second, other = (sample_batch(3, 5, 8, 10, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (3, 16, 5, 8, 10)
    assert 0.5 < first[0].std() < 2


def test_words_say_what_is_shown():
    """Another colour word changes the object's pixels and the context, nothing else."""
    generator = torch.Generator().manual_seed(6)
    scene = random_scene(generator)
    line = scene.lines[0]
    recoloured = type(scene)((tuple("cyan" if w == line[1] else w for w in line), *scene.lines[1:]))
    assert line[1] != "cyan"
    videos = [render([s], 3, 40, 56, torch.Generator().manual_seed(1)) for s in (scene, recoloured)]
    changed = (videos[0] - videos[1]).abs().amax(1) > 0.1
    assert 0 < changed.float().mean() < 0.5
    contexts = encode([scene, recoloured])
    assert (contexts[0] != contexts[1]).any(-1).tolist() == [True, *[False] * (contexts.shape[1] - 1)]


def shown(line: tuple[str, ...], camera: tuple[str, ...] = REST[1]) -> torch.Tensor:
    """Brightness (frames, H, W) of a scene of one object, always at the same place."""
    return render([Scene((line, REST[0], camera))], 7, 44, 60, torch.Generator().manual_seed(1))[0].mean(0)


OBJECT = ("large", "white", "plain", "disc", "straight", "steady", "still")


@pytest.mark.parametrize("word", ["checked", "striped", "growing", "shrinking", "right", "up-left"])
def test_words_of_an_object_change_it_and_not_the_ground(word):
    place = 2 if word in TEXTURES else 5 if word in GROWTHS else 6
    plain, other = shown(OBJECT), shown((*OBJECT[:place], word, *OBJECT[place + 1 :]))
    changed = (plain - other).abs() > 0.05
    assert 0.005 < changed.float().mean() < 0.5
    middle = changed[3].float().mean()
    assert (middle > 0.005) == (word in TEXTURES)  # motion and growth begin in the middle of the clip


def test_turning_shows_on_a_square():
    square = (*OBJECT[:3], "square", "straight", *OBJECT[5:])
    turning = (*OBJECT[:3], "square", "turning", *OBJECT[5:])
    assert ((shown(square) - shown(turning)).abs()[0] > 0.1).any()


def test_a_growing_object_covers_more_and_more():
    areas = [(frame > 0.5).sum().item() for frame in shown((*OBJECT[:5], "growing", "still"))]
    assert areas == sorted(areas) and areas[-1] > 1.3 * areas[0]


def test_a_camera_that_pans_moves_the_world_by_whole_pixels():
    """One pixel a frame to the right in the world is one to the left in the picture."""
    video = shown(OBJECT, ("pan-right", "level", "even"))
    torch.testing.assert_close(video[4, :, :-1], video[3, :, 1:], rtol=0, atol=1e-4)
    still = shown(OBJECT)
    torch.testing.assert_close(still[4], still[3])


def test_zooming_in_makes_the_object_cover_more():
    areas = [(frame > 0.5).sum().item() for frame in shown(OBJECT, ("pan-still", "zoom-in", "even"))]
    assert areas[-1] > 1.2 * areas[0]


def test_light_changes_everything_alike():
    video = (1 + shown(OBJECT, ("pan-still", "level", "darkening"))).flatten(1)
    ratio = video[6] / video[0]
    assert ratio.max() < 1 and ratio.std() < 0.02


def test_later_objects_hide_earlier_ones():
    """Where the second object is, the first makes no difference; somewhere it would have been seen."""

    def videos(*colours):
        lines = [("large", colour, *OBJECT[2:]) for colour in colours]
        scene = Scene((*lines, *REST))
        return [render([scene], 3, 28, 36, torch.Generator().manual_seed(seed))[0] for seed in range(12)]

    hidden = 0
    for red, green, lone in zip(videos("red", "blue"), videos("green", "blue"), videos("red"), strict=True):
        second = (red[2] > 0) & (red[0] < -0.4)  # as only blue is
        alike = (red - green).abs().amax(0)[second] < 0.05  # but for soft edges
        assert alike.float().mean() > 0.8
        hidden += int((second & (lone[0] > 0.3)).sum())
    assert hidden > 50


def test_the_hook_sees_every_self_attention_call():
    model, calls = SmallWan(num_layers=2), []

    def hook(layer, q, k, v, grid):
        calls.append((layer, tuple(q.shape), grid))
        return dense_attention(layer, q, k, v, grid)

    model(torch.randn(2, 16, 5, 12, 18), torch.tensor([900.0, 100.0]), torch.randn(2, 4, 4096), hook)
    assert calls == [(layer, (2, 270, 3, 128), GRID) for layer in range(2)]


def test_sigma_schedule_falls_from_one_to_zero():
    sigmas = sigma_schedule(7)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()


@pytest.mark.slow
def test_generated_objects_have_the_colour_that_was_asked_for():
    """Of all object colours, the one asked for covers most pixels, in at least five of six videos."""
    asked = ("red", "green", "blue", "yellow", "magenta", "cyan")
    lines = [("large", colour, "plain", "square", "straight", "steady", "still") for colour in asked]
    scenes = [Scene((line, *REST)) for line in lines]
    video = to_video(sample(load_model(), encode(scenes), (5, 8, 11), steps=12, seed=2))
    assert torch.isfinite(video).all()
    palette = torch.tensor(list(COLOURS.values()))[:, None, :, None, None, None]
    near = (video - palette).square().sum(2).sqrt() < 0.7  # (colours, B, frames, H, W)
    shown = [list(COLOURS)[number] for number in near.flatten(2).sum(-1).argmax(0)]
    assert sum(a == b for a, b in zip(asked, shown, strict=True)) >= 5, shown
