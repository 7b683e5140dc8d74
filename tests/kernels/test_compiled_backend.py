"""Launches of the shipped kernels against a driver that is not there: what reaches it, and what is refused in words."""

import contextlib
import gzip

import pytest
import torch
from ptx import library as library_module
from ptx.card import STREAM, library_plugged
from ptx.library import DriverLibrary
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.backends import compiled_backend, cuda_driver, shipped, triton_backend
from sparse_vdit.kernels.backends.launcher import KERNELS
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.configs import HEAD_DIMS
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.patterns import Dense, Diagonal
from tolerances import assert_close

CUDA = torch.device("cuda", 0)


@pytest.fixture
def card():
    """A function that makes this machine look as if it had a card, whose launches are kept and not run."""
    with contextlib.ExitStack() as stack:

        def plug(capability=(9, 0), **options):
            return stack.enter_context(library_plugged(DriverLibrary(capability, **options)))

        yield plug


def make_call(dtype=torch.bfloat16, head_dim=64, int8=False, bias=False, device="cpu"):
    grid = TokenGrid(5, 9, 13, prefix=5, suffix=3)
    builder = TileListBuilder(grid)
    numbers = tuple(builder.add(pattern) for pattern in (Diagonal(1), Dense()))
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, grid.tokens, 2, head_dim, generator=generator).to(device, dtype) for _ in range(3))
    key_bias = torch.randn(2, 8, generator=generator).to(device) if bias else None
    return AttentionCall(q, k, v, builder.build().to(device), numbers, key_bias, int8)


@pytest.mark.parametrize("damage", ["other contents", "cut off", "missing"])
def test_damaged_file_is_refused_and_not_launched(card, monkeypatch, tmp_path, damage):
    name = "sm_90/attention-bf16-64"
    path = tmp_path / f"{name}.ptx.gz"
    path.parent.mkdir()
    whole = (shipped.FOLDER / f"{name}.ptx.gz").read_bytes()
    other = gzip.compress(gzip.decompress(whole).replace(b"mul.", b"add.", 1))
    if damage != "missing":
        path.write_bytes(other if damage == "other contents" else whole[:-100])
    shipped.manifest()  # kept from here on
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    message = "sha256 differs" if damage == "other contents" else "cannot be read"
    with pytest.raises(RuntimeError, match=f"{message}.*install the pack again"):
        shipped.read_ptx(name)
    library = card()
    with pytest.raises(RuntimeError, match=message):
        triton_backend.run(make_call(), "sm_90", compiled_backend.through_driver)
    assert library.calls == []
    monkeypatch.setattr(compiled_backend, "_no_card", lambda device: None)
    assert message in compiled_backend.refusal(make_call())


@pytest.mark.parametrize("damage", ["{}", "[]", '{"archs": {}}', '{"archs": 3, "files": []}', "3", "{"])
def test_a_damaged_manifest_is_a_refusal_and_no_crash(card, monkeypatch, tmp_path, damage):
    card()
    (tmp_path / "manifest.json").write_text(damage)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    shipped.manifest.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="install the pack again"):
            shipped.cuda_needed("sm_90")
        with pytest.raises(RuntimeError, match="install the pack again"):
            shipped.binary("sm_90/attention-bf16-64")
    finally:
        monkeypatch.undo()
        shipped.manifest.cache_clear()


@pytest.mark.parametrize("int8", [False, True], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)], ids=str)
def test_launches_reach_the_driver_as_they_were_meant(card, capability, dtype, int8):
    library, meant = card(capability), []
    arch = shipped.arch_of(capability)

    def launcher(launch):
        compiled_backend.through_driver(launch)
        meant.append(launch)

    triton_backend.run(make_call(dtype, 128, int8, bias=True), arch, launcher)
    fp16_sums = capability in ((8, 6), (12, 0))  # copies of values are made for few heads at a time
    groups = 1 if not fp16_sums else 4 if int8 else 2
    assert [launch.kernel for launch in meant] == [*["quantize_tiles"] * (int8 or fp16_sums), "attention"] * groups
    for launch, (entry, geometry, stream, values) in zip(meant, library.launches, strict=True):
        assert entry == KERNELS[launch.kernel][1]
        name = shipped.file_name(arch, launch.kernel, shipped.DTYPE_NAMES[dtype], launch.constants)
        assert geometry == [*launch.grid, 1, 32 * launch.warps, 1, 1, shipped.binary(name).shared]
        assert stream == STREAM
        wanted = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in launch.arguments]
        scratch = shipped.binary(name).scratch
        assert values[: len(wanted)] == pytest.approx(wanted, rel=1e-6, abs=0)
        assert values[len(wanted) :] == [0] * scratch
    pushed = sum(name == "cuCtxPushCurrent_v2" for name, _ in library.calls)
    assert pushed == sum(name == "cuCtxPopCurrent_v2" for name, _ in library.calls) > 0


def test_kernels_are_loaded_once_and_ask_for_their_shared_memory(card):
    library = card()
    for _ in range(3):
        triton_backend.run(make_call(), "sm_90", compiled_backend.through_driver)
    assert len(library.launches) == 3
    called = [name for name, _ in library.calls]
    assert called.count("cuModuleLoadDataEx") == called.count("cuDevicePrimaryCtxRetain") == 1
    (asked,) = (arguments for name, arguments in library.calls if name == "cuFuncSetAttribute")
    assert asked[1:] == (cuda_driver.MAX_DYNAMIC_SHARED, shipped.binary("sm_90/attention-bf16-64").shared)


def test_odd_slices_are_copied_first(card, monkeypatch):
    monkeypatch.setattr(triton_backend, "aligned", spy := Spy(triton_backend.aligned))
    library, call = card(), make_call()
    wide = torch.zeros(2, call.q.shape[1], 2, 67, dtype=call.q.dtype)
    odd = AttentionCall(wide[..., 3:], call.k, call.v, call.lists, call.head_lists)
    compiled_backend.attention(odd)
    copied, k, v = spy.results
    assert copied.data_ptr() != odd.q.data_ptr()
    assert (k.data_ptr(), v.data_ptr()) == (call.k.data_ptr(), call.v.data_ptr())
    assert library.launches[0][3][0] == copied.data_ptr()


class Spy:
    def __init__(self, function):
        self.function, self.results = function, []

    def __call__(self, *arguments):
        self.results.append(self.function(*arguments))
        return self.results[-1]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("Q", torch.zeros(9, dtype=torch.bfloat16)[1:], "Q = .* not divisible by 16"),
        ("stride_qs", 130, "stride_qs = 130 is not divisible by 16"),
        ("stride_qb", 2**31, "stride_qb = 2147483648 does not fit 32 bits"),
    ],
)
def test_values_that_a_kernel_does_not_stand_are_named(place, value, message):
    binary = shipped.binary("sm_80/attention-bf16-64")
    tensor = torch.zeros(16)
    arguments = [tensor if kind.startswith("*") else 16 for kind in binary.parameters.values()]
    binary.pack(tuple(arguments))
    arguments[[*binary.parameters].index(place)] = value
    with pytest.raises(RuntimeError, match=message):
        binary.pack(tuple(arguments))
    with pytest.raises(RuntimeError, match="takes 30 arguments, got 29"):
        binary.pack(tuple(arguments[:-1]))


def test_launch_for_other_constants_is_refused(card):
    library = card()
    with pytest.raises(RuntimeError, match=r"ships for .* wanted .*: install the pack again"):
        triton_backend.run(make_call(int8=True), "sm_120", compiled_backend.through_driver)  # the card is an sm_90
    assert {entry for entry, *_ in library.launches} == {"quantize_tiles_kernel"}


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ((7, 5), None), ((8, 0), "sm_80"), ((8, 6), "sm_86"), ((8, 7), "sm_86"), ((8, 9), "sm_89"), ((9, 0), "sm_90"),
        ((10, 0), "sm_100"), ((10, 3), "sm_89"), ((11, 0), "sm_89"), ((12, 0), "sm_120"), ((12, 1), "sm_89"),
    ],
)  # fmt: skip
def test_every_card_takes_files_that_run_on_it(capability, arch):
    assert shipped.arch_of(capability) == arch


@pytest.mark.parametrize(
    ("capability", "version", "message"),
    [
        ((7, 5), 13000, "no shipped kernels for a card: RTX 30 or A100 and newer"),
        ((12, 0), 12040, "driver is for CUDA 12.4, shipped kernels need 12.8: update the driver"),
        ((8, 6), 11030, "driver is for CUDA 11.3, shipped kernels need 11.4: update the driver"),
        ((12, 0), 12080, None),
        ((12, 1), 12040, None),
    ],
)
def test_cards_and_drivers_are_refused_in_words(card, capability, version, message):
    card(capability, version=version)
    reason = compiled_backend._no_card(CUDA)
    assert reason is None if message is None else message in reason


def test_machines_are_refused_in_words(card, monkeypatch):
    assert compiled_backend.refusal(make_call()) == "device cpu is not an NVIDIA GPU"
    card()
    cuda_driver.open_driver.cache_clear()
    monkeypatch.setattr(cuda_driver, "LIBRARY", "no-such-library.so.1")
    monkeypatch.setattr(compiled_backend, "open_driver", cuda_driver.open_driver)
    assert "no-such-library.so.1 cannot be loaded" in compiled_backend._no_card(CUDA)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "AMD needs Triton" in compiled_backend._no_card(CUDA)


def test_calls_are_refused_in_words(monkeypatch):
    call = make_call(torch.float32)
    assert compiled_backend.refusal(call) == "device cpu is not an NVIDIA GPU"  # another dtype would not help
    monkeypatch.setattr(compiled_backend, "_no_card", lambda device: None)
    monkeypatch.setattr(compiled_backend, "_capability", lambda device: (10, 0))
    assert "float32 is neither" in compiled_backend.refusal(call)
    slower = "attention in 8 bits is slower than exact attention on sm_100"
    assert compiled_backend.refusal(make_call(int8=True)) == slower
    wide = make_call()
    object.__setattr__(wide.lists, "kv_indices", wide.lists.kv_indices.int())
    assert "over 32,767 key tiles" in compiled_backend.refusal(wide)


@pytest.mark.parametrize("step", ["cuModuleLoadDataEx", "cuModuleGetFunction", "cuFuncSetAttribute"])
def test_a_driver_that_fails_is_refused_in_words(card, monkeypatch, step):
    library = card(fail={step: 222})
    monkeypatch.setattr(compiled_backend, "_no_card", lambda device: None)
    for _ in range(2):
        reason = compiled_backend.refusal(make_call())
        assert reason == f"{step} failed: CUDA_ERROR_222; update the NVIDIA driver"
    assert [name for name, _ in library.calls].count("cuModuleLoadDataEx") == 1, "a failure is kept"


def test_a_missing_compiler_names_the_library(card, monkeypatch):
    card(fail={"cuModuleLoadDataEx": 221})
    monkeypatch.setattr(compiled_backend, "_no_card", lambda device: None)
    assert "libnvidia-ptxjitcompiler" in compiled_backend.refusal(make_call())


def test_a_driver_without_a_call_is_refused_in_words(card, monkeypatch):
    class OldLibrary(DriverLibrary):
        def __getattr__(self, name):
            if name == "cuFuncGetAttribute":
                raise AttributeError(name)
            return super().__getattr__(name)

    with library_plugged(OldLibrary((9, 0))):
        monkeypatch.setattr(compiled_backend, "_no_card", lambda device: None)
        reason = compiled_backend.refusal(make_call())
    assert reason == "the NVIDIA driver has no cuFuncGetAttribute: update the driver"


def test_a_kernel_that_a_lazy_driver_did_not_load_is_refused(card, monkeypatch):
    monkeypatch.setattr(library_module, "REGISTERS", 0)
    card()
    monkeypatch.setattr(compiled_backend, "_no_card", lambda device: None)
    assert "the driver loaded block_sparse_fwd_kernel without registers" in compiled_backend.refusal(make_call())


@pytest.mark.parametrize("step", ["cuModuleLoadDataEx", "cuFuncGetAttribute"])
def test_a_lack_of_memory_while_loading_is_tried_again_and_not_kept(card, monkeypatch, step):
    library, emptied = card(fail={step: 2}), []
    monkeypatch.setattr(compiled_backend, "_no_card", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    with pytest.raises(torch.OutOfMemoryError, match="free GPU memory"):
        compiled_backend.refusal(make_call())
    assert len(emptied) == 1 and [name for name, _ in library.calls].count(step) == 2
    library.fail = {}
    assert compiled_backend.refusal(make_call()) is None


def test_refusal_loads_all_that_the_call_needs(card, monkeypatch):
    library = card()
    monkeypatch.setattr(compiled_backend, "_no_card", lambda device: None)
    assert compiled_backend.refusal(make_call(int8=True)) is None
    assert library.entries == ["block_sparse_fwd_kernel", "quantize_tiles_kernel"]


def test_a_launch_that_fails_is_named(card):
    card(fail={"cuLaunchKernel": 700})
    with pytest.raises(RuntimeError, match="cuLaunchKernel failed: CUDA_ERROR_700; restart ComfyUI"):
        triton_backend.run(make_call(), "sm_90", compiled_backend.through_driver)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.skipif(not triton_backend.TRITON_FOUND, reason="Triton is not installed")
@pytest.mark.parametrize("int8", [False, True], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_compiled_is_triton_on_gpu(dtype, head_dim, int8):
    call = make_call(dtype, head_dim, int8, bias=True, device="cuda")
    options = {"key_bias": call.key_bias, "int8": int8}
    inputs = (call.q, call.k, call.v, call.lists, call.head_lists)
    compiled, triton = (sparse_attention(*inputs, name, **options) for name in ("compiled", "triton"))
    assert_close(compiled, triton)
