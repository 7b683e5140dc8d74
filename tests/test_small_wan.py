"""The small Wan: keys of the published checkpoints, an invertible latent, reproducible data, weights that generate."""

import torch
from safetensors import safe_open
from small_wan.model import SmallWan, dense_attention
from small_wan.sample import WEIGHTS, load_model, sample, sigma_schedule
from small_wan.video import COLOURS, Scene, encode, random_scene, render, sample_batch, to_latent, to_video

GRID = (5, 6, 9)


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


def test_generated_objects_have_the_colour_that_was_asked_for():
    """Of all object colours, the one asked for covers most pixels, in at least five of six videos."""
    asked = ("red", "green", "blue", "yellow", "magenta", "cyan")
    lines = [("large", colour, "square", "straight", "still") for colour in asked]
    scenes = [Scene((line, ("night", "drifting", "up"))) for line in lines]
    video = to_video(sample(load_model(), encode(scenes), (5, 8, 11), steps=12, seed=2))
    assert torch.isfinite(video).all()
    palette = torch.tensor(list(COLOURS.values()))[:, None, :, None, None, None]
    near = (video - palette).square().sum(2).sqrt() < 0.7  # (colours, B, frames, H, W)
    shown = [list(COLOURS)[number] for number in near.flatten(2).sum(-1).argmax(0)]
    assert sum(a == b for a, b in zip(asked, shown, strict=True)) >= 5, shown
