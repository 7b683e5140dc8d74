"""The small Wan's training: the same steps whether interrupted or not, and weights that load."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from small_wan import train
from small_wan.model import SmallWan
from small_wan.sample import load_model

REAL = {"STILLS": train.STILLS, "CLIPS": train.CLIPS, "LARGE": train.LARGE}


@pytest.fixture(autouse=True)
def small_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller model, and shapes of some tokens instead of thousands."""
    monkeypatch.setattr(train, "SmallWan", lambda: SmallWan(dim=256, ffn_dim=96, num_layers=1))
    monkeypatch.setattr(train, "STILLS", ((1, 6, 10, 3),))
    monkeypatch.setattr(train, "CLIPS", ((3, 6, 10, 2),))
    monkeypatch.setattr(train, "LARGE", ((5, 6, 14, 1),))


def steps(run: train.Run, number: int) -> list[float]:
    return [run.train_step(0.3, run.model) for _ in range(number)]


def test_a_resumed_training_goes_on_as_if_never_stopped_at_the_same_progress(tmp_path: Path) -> None:
    whole = train.Run(tmp_path / "whole", seed=3)
    losses = steps(whole, 4)
    begun = train.Run(tmp_path / "parts", seed=3)
    assert steps(begun, 2) == losses[:2]
    begun.save()
    resumed = train.Run(tmp_path / "parts", seed=3)
    assert resumed.step == 2
    assert steps(resumed, 2) == losses[2:]
    for ours, theirs in zip(resumed.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_resumed_training_keeps_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    train.Run(tmp_path, seed=3).save()
    assert train.Run(tmp_path, seed=5).seed == 3
    refused = {("--seed", "5"): "has a run of seed 3", ("--init", __file__): "goes on with its own weights"}
    for more, says in refused.items():
        monkeypatch.setattr(sys, "argv", ["train", "--out", str(tmp_path), "--export", str(tmp_path / "x"), *more])
        with pytest.raises(SystemExit):
            train.main()
        assert says in capsys.readouterr().err


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The last line that the script says when it refuses its arguments."""
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_resumed_training_keeps_its_clips_until_others_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "choose_shape", lambda progress, generator: (1, 6, 10, 2))
    assert train.Run(tmp_path, seed=3).clips == 1
    train.Run(tmp_path, seed=3, clips=3).save()
    resumed = train.Run(tmp_path, seed=3)
    assert resumed.clips == 3
    sizes = []
    resumed.train_step(0.3, lambda noised, *rest: sizes.append(len(noised)) or resumed.model(noised, *rest))
    assert sizes == [3 * 2]
    train.Run(tmp_path, seed=3, clips=2).save()
    assert train.Run(tmp_path, seed=3).clips == 2


@pytest.mark.parametrize("option", [("--new-stage",), ("--export", "x.safetensors")])
def test_what_needs_a_run_is_refused_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, option: tuple[str, ...]
) -> None:
    says = refusal(monkeypatch, capsys, "--out", tmp_path / "new", *option)
    assert f"{option[0]}: {tmp_path / 'new'} has no checkpoint" in says
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", ["empty", "text", "half", "other model", "no run"])
def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, damage: str
) -> None:
    run, file = train.Run(tmp_path, seed=3), tmp_path / "checkpoint.pt"
    run.save()
    whole = file.read_bytes()
    if damage == "other model":
        monkeypatch.setattr(train, "SmallWan", lambda: SmallWan(dim=384, ffn_dim=96, num_layers=1))
    elif damage == "no run":
        torch.save(run.model.state_dict(), file)
    else:
        file.write_bytes({"empty": b"", "text": b"version https", "half": whole[: len(whole) // 2]}[damage])
    assert f"{file} is damaged or of another model" in refusal(monkeypatch, capsys, "--out", tmp_path)


def test_weights_to_begin_with_that_are_none_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_text("version https")
    says = refusal(monkeypatch, capsys, "--out", tmp_path / "new", "--init", file)
    assert f"{file} is damaged or of another model" in says and "--init" in says


def test_an_export_to_no_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    train.Run(tmp_path, seed=3).save()
    for file in (tmp_path, tmp_path / "nowhere" / "x.safetensors"):
        assert f"--export {file}" in refusal(monkeypatch, capsys, "--out", tmp_path, "--export", file)


def test_seeds_of_evaluations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    for seed in ("0", "20"):
        monkeypatch.setattr(sys, "argv", ["train", "--out", str(tmp_path), "--seed", seed])
        with pytest.raises(SystemExit):
            train.main()
        assert f"--seed {seed}" in capsys.readouterr().err


def test_some_words_are_left_out_and_the_average_trails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = train.Run(tmp_path, seed=3), []
    run.step = 100
    before = [p.clone() for p in run.average.parameters()]
    monkeypatch.setattr(train, "choose_shape", lambda progress, generator: (1, 6, 10, 400))

    def watched(noised: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        seen.append(context.abs().amax((1, 2)) > 0)
        return run.model(noised, timestep, context)

    run.train_step(0.3, watched)
    assert seen[0].float().mean().item() == pytest.approx(0.9, abs=0.05)
    pairs = zip(before, run.average.parameters(), run.model.parameters(), strict=True)
    for old, mean, new in pairs:
        decay = min(train.EMA_DECAY, 102 / 111)
        torch.testing.assert_close(mean, decay * old + (1 - decay) * new)
    assert any(not torch.equal(old, mean) for old, mean in zip(before, run.average.parameters(), strict=True))


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train.Run(tmp_path, seed=3)
    run.step = 100  # past the rate's warm-up
    monkeypatch.setattr(train, "choose_shape", lambda progress, generator: (3, 6, 10, 8))
    losses = steps(run, 30)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_exported_weights_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SmallWan", SmallWan)
    run = train.Run(tmp_path, seed=3)
    train.export(run.average, tmp_path / "weights.safetensors", run)
    model = load_model(tmp_path / "weights.safetensors")
    for ours, theirs in zip(model.parameters(), run.average.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_stills_first_clips_later_and_now_and_then_a_large_one() -> None:
    generator = torch.Generator().manual_seed(5)
    counts = [Counter(train.choose_shape(progress, generator)[0] for _ in range(999)) for progress in (0.0, 1.0)]
    assert counts[0][1] > counts[1][1] > 0 and counts[0][3] < counts[1][3]
    assert all(0 < count[5] < 60 for count in counts)


def test_the_shapes_of_real_trainings() -> None:
    """At most 2,000 tokens a clip in most steps, above 8,000 in some."""
    tokens = {name: [s[0] * (s[1] // 2) * (s[2] // 2) for s in shapes] for name, shapes in REAL.items()}
    assert max(tokens["STILLS"] + tokens["CLIPS"]) <= 2000
    assert max(tokens["LARGE"]) > 8000 and train.LARGE_SHARE < 0.1


@pytest.mark.gpu
def test_a_step_on_a_gpu_is_the_step_on_a_cpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    losses = [steps(train.Run(tmp_path / device, 3, device), 2) for device in ("cpu", "cuda")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
