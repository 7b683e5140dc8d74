"""Profiles on disk: round trip, merging, and files that are not what they say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe
from sparse_vdit.plans.profile import profile_files
from sparse_vdit.plans.profile.profile import MEASURES, check_mergeable, merge_profiles
from sparse_vdit.plans.profile.profile_files import ProfileError, load_header, load_profile, save_profile
from sparse_vdit.plans.profile.profiler import Profiler
from sparse_vdit.plans.search.search import search_budget

GRID = TokenGrid(5, 7, 9, prefix=3)


def make_profile(seed=0, prompt="a red disc", flow="dense", **options):
    candidates = [Skip(), Diagonal(1, 0.25), MultiDiagonal(0.1, None), VerticalStripe()]
    profiler = Profiler("wan", "toy", 2, 3, 16, candidates, [(1.0, 0.5), (0.5, 0.0)], rows=24, query_tile=32,
                        key_tile=16, prompts=[prompt], flow=flow, **options)  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for layer, sigma in ((0, 0.9), (1, 0.9), (0, 0.3), (1, 0.3)):
        q, k, v = (torch.randn(1, GRID.tokens, 3, 16, generator=generator) for _ in range(3))
        profiler.observe(layer, sigma, q, k, v, GRID, torch.eye(16).expand(3, 16, 16))
    return profiler.profile()


def assert_same(first, second):
    assert first.header == second.header
    for name in MEASURES:
        assert torch.equal(first.measures[name], second.measures[name])
    assert torch.equal(first.votes, second.votes)
    assert torch.equal(first.columns, second.columns)
    assert torch.equal(first.samples, second.samples)


@pytest.mark.parametrize("flow", ["dense", "sequential"])
def test_round_trip(tmp_path, flow):
    profile = make_profile(flow=flow)
    path = save_profile(profile, tmp_path / "a.safetensors")
    assert_same(load_profile(path), profile)
    assert load_header(path) == profile.header


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc on this system")
def test_a_loaded_profile_holds_no_file_open(tmp_path):
    """Windows lets nobody replace a file that is mapped, and calibration does."""
    profile = load_profile(save_profile(make_profile(), tmp_path / "mapped.safetensors"))
    assert profile.measures
    assert "mapped.safetensors" not in Path("/proc/self/maps").read_text()


def test_saving_never_overwrites_silently(tmp_path):
    file = tmp_path / "a.safetensors"
    save_profile(make_profile(0), file)
    before = file.read_bytes()
    save_profile(make_profile(0), file)
    with pytest.raises(FileExistsError, match=r"a\.safetensors"):
        save_profile(make_profile(1), file)
    assert file.read_bytes() == before
    save_profile(make_profile(1), file, overwrite=True)
    assert_same(load_profile(file), make_profile(1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_merged_profile_is_the_mean_over_all_observations():
    first, second = make_profile(0, "a"), make_profile(1, "b")
    third = make_profile(2, "b")
    merged = merge_profiles(merge_profiles(first, second), third)
    assert merged.header.prompts == ("a", "b")
    assert (merged.samples == 3).all()
    for name in MEASURES:
        mean = (first.measures[name] + second.measures[name] + third.measures[name]) / 3
        torch.testing.assert_close(merged.measures[name], mean)


def test_a_profile_may_go_on_from_a_previous_one():
    first = make_profile(0, "a")
    assert_same(make_profile(1, "b", previous=first), merge_profiles(first, make_profile(1, "b")))
    with pytest.raises(ValueError, match="flow differs"):  # at the first observation, not at the end
        make_profile(1, previous=make_profile(0, flow="sequential"))


def test_what_differs_between_many_candidates_is_said_in_few_words():
    profile = make_profile()
    fewer = replace(profile.header, candidates=profile.header.candidates[:-1])
    other = replace(profile.header, candidates=(*profile.header.candidates[:2], Diagonal(2), VerticalStripe(), Skip()))
    for header, words in ((fewer, r"5 and 4 of them, .* number 4, VerticalStripe\(.*\) and none"),
                          (other, r"5 and 5 of them, .* number 2, Diagonal\(.*\) and Diagonal\(.*\)")):  # fmt: skip
        with pytest.raises(ValueError, match=f"candidates differs: {words}; measure again"):
            check_mergeable(profile.header, header)


def test_sequential_profiles_of_other_rules_do_not_merge():
    profile = make_profile(flow="sequential")
    other = replace(profile, header=replace(profile.header, parameters={**profile.header.parameters, "epsilon": 2.0}))
    with pytest.raises(ValueError, match="epsilon differs"):
        merge_profiles(profile, other)


def test_profiles_of_other_noise_levels_are_joined():
    """The two experts of Wan 2.2: each was measured on its part of the schedule."""
    profile = make_profile()
    high = replace(profile, header=replace(profile.header, bands=((4.0, 2.0), (2.0, 1.0))))
    for joined in (merge_profiles(high, profile), merge_profiles(profile, high)):
        assert joined.header.bands == ((4.0, 2.0), (2.0, 1.0), (1.0, 0.5), (0.5, 0.0))
        assert torch.equal(joined.measures["mse"], torch.cat([high.measures["mse"], profile.measures["mse"]]))
        assert joined.samples.tolist() == [[1, 1]] * 4
    overlapping = replace(profile, header=replace(profile.header, bands=((1.0, 0.7), (0.7, 0.0))))
    with pytest.raises(ValueError, match=r"1 to 0\.7, 0\.7 to 0\).* same sigmas, bands and start_percent"):
        merge_profiles(profile, overlapping)


def test_what_differs_between_merged_profiles_is_kept():
    profile = make_profile()
    head = replace(profile.header, versions={"comfyui": "0.33", "torch": "2.11"}, parameters={"rows": 24, "seed": 0})
    other = replace(head, versions={"comfyui": "0.34", "torch": "2.11"}, parameters={"rows": 16, "seed": 0})
    merged = merge_profiles(replace(profile, header=head), replace(profile, header=other)).header
    assert merged.versions == {"comfyui": "0.33, 0.34", "torch": "2.11"}
    assert merged.parameters == {"rows": 16, "seed": 0}
    with pytest.raises(ValueError, match="projected differs"):
        merge_profiles(profile, replace(profile, header=replace(profile.header, projected=False)))


def test_any_prompt_gives_a_profile_that_can_be_searched():
    profile = make_profile(prompt=" a fox\r\nin\x00 snow" + 10_000 * "x")
    assert profile.header.prompts[0].startswith("a fox in snowx") and len(profile.header.prompts[0]) == 10_000
    for word in ("cat", "dog"):
        header = replace(profile.header, prompts=tuple(f"{word} {number}" for number in range(200)))
        profile = merge_profiles(profile, replace(profile, header=header))
    assert len(search_budget(profile, density=0.9).provenance.prompts) == 256


def test_profiles_of_other_grids_do_not_merge():
    profile = make_profile()
    other = replace(profile, header=replace(profile.header, grid=(5, 7, 10)))
    with pytest.raises(ValueError, match=r"one is of a video of 5x7x9 tokens .* profile both at the same size"):
        merge_profiles(profile, other)


def _about(change):
    def apply(tensors, metadata):
        about = json.loads(metadata["profile"])
        change(about)
        metadata["profile"] = json.dumps(about)

    return apply


def _header(change):
    return _about(lambda about: change(about["header"]))


BROKEN = {
    "a missing tensor": (lambda t, m: t.pop("mse"), "'mse'"),
    "a tensor of another shape": (lambda t, m: t.update(mse=torch.zeros(2, 2, 3, 4)), "mse"),
    "infinite errors": (lambda t, m: t["relative"].fill_(torch.inf), "relative has values that are not finite"),
    "columns of another grid": (lambda t, m: t.update(columns=torch.zeros(2, 2, 3, 7)), r"columns is \(2, 2, 3, 7\)"),
    "another format": (_about(lambda a: a.update(format="plan")), "'plan'"),
    "a newer version": (_about(lambda a: a.update(version=6)), ", 5"),
    "no metadata": (lambda t, m: m.clear(), "'profile'"),
    "half a header": (lambda t, m: m.update(profile=m["profile"][:50]), "'profile'"),
    "a list": (lambda t, m: m.update(profile="[1]"), "format and version"),
    "an unknown field": (_header(lambda h: h.update(extra=1)), "extra"),
    "a lacking field": (_header(lambda h: h.pop("bands")), "bands"),
    "a negative error": (lambda t, m: t["mse"].fill_(-1.0), "below zero"),
    "a density out of range": (_header(lambda h: h["densities"].__setitem__(1, 7)), "densities"),
    "a density beyond all numbers": (_header(lambda h: h["densities"].__setitem__(1, 10**400)), "header"),
    "parameters as a list": (_header(lambda h: h.update(parameters=[1])), "parameters"),
    "a number for a model": (_header(lambda h: h.update(model=5)), "model"),
    "a model of too many letters": (_header(lambda h: h.update(model="x" * 5000)), "model"),
    "no date": (_header(lambda h: h.update(date=None)), "date"),
    "a list of versions": (_header(lambda h: h.update(versions={"a": [1]})), "versions.a"),
    "no version": (_header(lambda h: h.update(versions={"a": None})), "versions.a"),
    "one text for prompts": (_header(lambda h: h.update(prompts="a fox")), "prompts"),
    "a prompt with a control character": (_header(lambda h: h.update(prompts=["a\x07"])), r"prompts\[0\]"),
    "an infinite parameter": (_header(lambda h: h["parameters"].update(sigma_high=1e999)), "sigma_high"),
    "bands upside down": (_header(lambda h: h.update(bands=[[0.0, 0.5], [0.5, 1.0]])), "bands"),
    "layers as text": (_header(lambda h: h.update(layers="2")), "layers"),
    "an unknown flow": (_header(lambda h: h.update(flow="upwards")), "flow"),
    "an unknown pattern": (_header(lambda h: h["candidates"][1].update(kind="spiral")), "spiral"),
    "dense not first": (_header(lambda h: h["candidates"].reverse()), "dense first"),
    "a tensor that nobody asked for": (lambda t, m: t.update(more=torch.zeros(3)), "has the tensor 'more'"),
    "a grid of two axes": (_header(lambda h: h.update(grid=[5, 7])), "grid"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_profiles(tmp_path, change, message):
    good = save_profile(make_profile(), tmp_path / "good.safetensors")
    tensors = load_file(good)
    with safe_open(good, "pt") as file:
        metadata = file.metadata()
    change(tensors, metadata)
    save_file(tensors, tmp_path / "broken.safetensors", metadata=metadata or None)
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(tmp_path / "broken.safetensors")
    assert "broken.safetensors" in str(caught.value)


def test_files_that_are_no_profiles(tmp_path):
    (tmp_path / "text.safetensors").write_text("not safetensors")
    for name in ("text.safetensors", "absent.safetensors"):
        with pytest.raises(ProfileError, match=name):
            load_profile(tmp_path / name)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0", "I3"])
def test_dtypes_that_torch_does_not_have(tmp_path, dtype):
    """Some are known to the file format, and to nothing that reads it here."""
    content = save_profile(make_profile(), tmp_path / "good.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + size])
    head["samples"]["dtype"] = dtype
    changed = json.dumps(head).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])
    with pytest.raises(ProfileError, match=r"odd\.safetensors: cannot be read as safetensors"):
        load_profile(path)


def test_a_head_without_end_is_not_read(tmp_path):
    path = tmp_path / "large.safetensors"
    path.write_bytes((100 << 20).to_bytes(8, "little") + b"{}")
    with pytest.raises(ProfileError, match="metadata of 104857600 bytes, expected at most"):
        load_header(path)


def test_what_cannot_be_opened_is_not_called_broken(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    path = save_profile(make_profile(), tmp_path / "a.safetensors")
    monkeypatch.setattr(profile_files, "safe_open", denied)
    with pytest.raises(PermissionError):
        load_header(path)


def test_files_cut_anywhere_are_broken(tmp_path):
    content = save_profile(make_profile(), tmp_path / "a.safetensors").read_bytes()
    for length in (0, 1, 8, 100, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(ProfileError, match=r"cut\.safetensors"):
            load_profile(tmp_path / "cut.safetensors")


def test_nothing_observed_is_said():
    with pytest.raises(ValueError, match="nothing was observed"):
        Profiler("wan", "toy", 1, 1, 16, [Dense()], [(1.0, 0.0)]).profile()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("grid", (1000, 1000, 100), "has 100000000 tokens, expected at most 400000"),
        ("layers", 4096, "layers: 4096 is out of range"),
        ("query_tile", 1, "query_tile: 1 is out of range"),
        ("key_tile", 1, "key_tile: 1 is out of range"),
        ("bands", ((1.0, 0.5),) * 65, "expected a list of 1 to 64 entries"),
        ("bands", ((1.0, float("inf")),), "inf, expected a finite number"),
        ("model", "x" * 100_000, "100000 characters are too many"),
    ],
)
def test_a_header_that_would_cost_too_much_is_refused(tmp_path, field, value, says):
    profile = make_profile()
    object.__setattr__(profile, "header", replace(profile.header, **{field: value}))
    path = save_profile(profile, tmp_path / "costly.safetensors")
    with pytest.raises(ProfileError, match=rf"costly\.safetensors: header: .*{says}") as error:
        load_header(path)
    assert len(str(error.value)) < 600


def test_counts_that_no_measurement_has_are_refused(tmp_path):
    profile = make_profile()
    profile.samples[0] = 2**63 - 1
    path = save_profile(profile, tmp_path / "counts.safetensors")
    with pytest.raises(ProfileError, match=f"samples has {2**63 - 1}, expected at most"):
        load_profile(path)
