"""Tasks from begin to verify: nothing of an earlier one changes by a bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graftgan.bank import tasks as tasks_module
from graftgan.bank.factorised import Factorised, materialise
from graftgan.bank.store import Bank
from graftgan.bank.tasks import (
    begin,
    environment,
    finish,
    fixed_inputs,
    fixed_outputs,
    load_task,
    smallest_side,
    verify,
)
from graftgan.errors import CheckpointError, ConfigError, MissingInput
from graftgan.gans.translation import TranslatorSpec, build_translator
from tests.bank.banks import SIZE_PX, TINY, TINY_BATCH, grown, shake


@pytest.fixture(scope="module")
def grown_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grown") / "bank"
    grown(folder, ["random", "warm:t1", "random"])
    return folder


@pytest.fixture
def bank(grown_once: Path, tmp_path: Path) -> Bank:
    return Bank(Path(shutil.copytree(grown_once, tmp_path / "bank")))


def train(network: nn.Module, steps: int = 20) -> None:
    """Learn to invert pictures; D plays no part in what a bank keeps."""
    adam = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-2)
    rng = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(steps):
        x = torch.rand(1, 3, 16, 16, generator=rng) * 2 - 1
        adam.zero_grad()
        F.l1_loss(network(x), -x).backward()
        adam.step()


@pytest.mark.parametrize("spec", [TINY, TINY_BATCH], ids=["instance", "batch"])
def test_training_later_tasks_changes_no_bit_of_earlier_ones(tmp_path: Path, spec: TranslatorSpec) -> None:
    """T-A4 of the method sheet."""
    bank = Bank.create(tmp_path / "bank", spec)
    seen: list[torch.Tensor] = []
    prefixes: list[dict[str, str]] = []
    for number, init in enumerate(("random", "random", "warm:t1"), 1):
        begun = begin(bank, f"t{number}", init, seed=number)
        constants = [m.bank.clone() for m in begun.generator.modules() if isinstance(m, Factorised)]
        before = fixed_outputs(materialise(begun.generator), spec, SIZE_PX)
        train(begun.generator)
        after = fixed_outputs(materialise(begun.generator), spec, SIZE_PX)
        assert not torch.equal(before, after)
        kept = [m.bank for m in begun.generator.modules() if isinstance(m, Factorised)]
        assert all(torch.equal(a, b) for a, b in zip(constants, kept, strict=True))
        finish(bank, begun, size_px=SIZE_PX)
        seen.append(after)
        prefixes.append(bank.tasks[-1].prefix_sha256)
        again = Bank(bank.folder)
        for earlier, wanted in enumerate(seen):
            loaded = load_task(again, f"t{earlier + 1}")
            assert torch.equal(fixed_outputs(loaded, spec, SIZE_PX), wanted)
        assert [task.prefix_sha256 for task in again.tasks] == prefixes
    assert verify(Bank(bank.folder)) == ()


def test_warm_start_from_the_first_task_is_that_task(bank: Bank) -> None:
    """T-A3 of the method sheet, of the stored task."""
    begun = begin(bank, "t4", "warm:t1", seed=9)
    wanted = fixed_outputs(load_task(bank, "t1"), TINY, SIZE_PX)
    assert torch.equal(fixed_outputs(materialise(begun.generator), TINY, SIZE_PX), wanted)
    task = finish(bank, begun, size_px=SIZE_PX)
    assert task.outputs.sha256 == bank.task("t1").outputs.sha256
    assert task.init == "warm:t1"


def test_warm_start_from_a_later_task_is_close_to_it(bank: Bank) -> None:
    begun = begin(bank, "t4", "warm:t3")
    wanted = fixed_outputs(load_task(bank, "t3"), TINY, SIZE_PX)
    made = fixed_outputs(materialise(begun.generator), TINY, SIZE_PX)
    assert float((made - wanted).abs().max()) < 1e-5


def test_a_loaded_task_is_an_ordinary_network(bank: Bank) -> None:
    network = load_task(bank, "t3")
    assert type(network) is type(build_translator(TINY))
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert set(network.state_dict()) == set(build_translator(TINY).state_dict())


def test_batch_norms_and_biases_come_back(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path / "bank", TINY_BATCH)
    for name in ("t1", "t2"):
        begun = begin(bank, name)
        shake(begun.generator)
        begun.generator.train()(torch.rand(2, 3, 16, 16))
        kept = materialise(begun.generator).state_dict()
        finish(bank, begun, size_px=SIZE_PX)
        loaded = load_task(bank, name).state_dict()
        assert any("running_mean" in key for key in kept) and any(key.endswith("bias") for key in kept)
        for key, value in kept.items():
            assert torch.equal(loaded[key], value), key


def test_what_a_task_stores_has_the_names_of_the_format(bank: Bank) -> None:
    tensors = bank.task_tensors(bank.task("t2"))
    layers = {layer.name: layer for layer in bank.layers}
    *hidden, last = layers
    assert {name for name in tensors if name.startswith("A/")} == {f"A/{name}" for name in hidden}
    assert {name for name in tensors if name.startswith("bias/")} == {f"bias/{name}" for name in layers}
    for name in hidden:
        layer = layers[name]
        assert tuple(tensors[f"A/{name}"].shape) == (layer.co, layer.co - layer.n_u)
    assert layers[last].n_u == 3


def test_an_average_can_be_kept_instead_of_the_trained_network(bank: Bank) -> None:
    begun = begin(bank, "t4")
    wanted = fixed_outputs(materialise(begun.generator), TINY, SIZE_PX)
    import copy

    average = copy.deepcopy(begun.generator)
    shake(begun.generator)
    finish(bank, begun, average, size_px=SIZE_PX, data_fingerprint="d", config_hash="c", scores={"l1": 0.5})
    task = Bank(bank.folder).task("t4")
    assert torch.equal(fixed_outputs(load_task(bank, "t4"), TINY, SIZE_PX), wanted)
    assert (task.data_fingerprint, task.config_hash, task.scores) == ("d", "c", {"l1": 0.5})


def test_a_seed_gives_one_start_and_leaves_the_global_state(bank: Bank) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    starts = [begin(bank, "t4", seed=seed).generator.state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
    assert any(not torch.equal(starts[0][key], starts[2][key]) for key in starts[0])


def test_wrong_beginnings_are_refused(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a task 't1'"):
        begin(bank, "t1")
    with pytest.raises(ConfigError, match="init is 'cold'"):
        begin(bank, "t4", "cold")
    with pytest.raises(MissingInput, match="no task 'x'"):
        begin(bank, "t4", "warm:x")
    with pytest.raises(ConfigError, match="bank has no task"):
        begin(Bank.create(tmp_path / "new", TINY), "t1", "warm:t0")


def test_a_task_begun_on_another_bank_is_refused(bank: Bank) -> None:
    late = begin(bank, "late")
    finish(bank, begin(bank, "t4"), size_px=SIZE_PX)
    with pytest.raises(ConfigError, match="has changed since late was begun"):
        finish(bank, late, size_px=SIZE_PX)
    assert [task.name for task in Bank(bank.folder).tasks] == ["t1", "t2", "t3", "t4"]


def test_outputs_are_the_same_in_another_process_and_in_a_copy(bank: Bank, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(bank.folder, tmp_path / "copy"))
    script = """
import sys
from pathlib import Path
from graftgan.bank.store import Bank
from graftgan.bank.tasks import verify
print(len(verify(Bank(Path(sys.argv[1])))))
"""
    command = [sys.executable, "-c", script, str(copied)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0"


def test_verify_names_a_changed_byte_and_judges_no_images_then(bank: Bank) -> None:
    layer = bank.layers[3]
    path = bank.filter_path(layer.name)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    (only,) = verify(bank)
    assert (only.file, only.layer, only.task) == (f"filters/{layer.name}.safetensors", layer.name, "t3")


def test_verify_finds_a_network_that_computes_something_else(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks_module.compose
    monkeypatch.setattr(tasks_module, "compose", lambda *given: real(*given) * 1.01)
    found = verify(bank)
    assert {finding.task for finding in found} == {"t1", "t2", "t3"}
    assert all(finding.layer == "outputs" and "differ by" in finding.what for finding in found)


def test_another_processor_may_change_last_bits_but_no_more(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks_module.compose
    monkeypatch.setattr(tasks_module, "compose", lambda *given: real(*given) * (1 + 1e-6))
    assert len(verify(bank)) == 3
    monkeypatch.setattr(tasks_module, "environment", lambda: {"torch": "another"})
    assert verify(bank) == ()
    monkeypatch.setattr(tasks_module, "compose", lambda *given: real(*given) * 1.1)
    assert len(verify(bank)) == 3


def test_a_task_file_of_another_network_is_refused(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Bank.task_tensors

    def without(self: Bank, task: object) -> dict[str, torch.Tensor]:
        return {k: v for k, v in real(self, task).items() if k != "bias/model.1"}  # type: ignore[arg-type]

    monkeypatch.setattr(Bank, "task_tensors", without)
    with pytest.raises(CheckpointError, match="does not hold the tensors of a resnet_6"):
        load_task(bank, "t1")


def test_fixed_inputs_are_what_they_always_were() -> None:
    images = fixed_inputs(TINY, 16)
    assert images.shape == (2, 3, 16, 16)
    assert images.min() >= -1 and images.max() <= 1
    assert float(images[0, 0, 0, 0]) == -1.0
    wanted = (5 * 7 + 3 * 9 + 7 * 9 // 8 + 61 * 2 + 97) % 256 / 127.5 - 1
    assert float(images[1, 2, 9, 7]) == pytest.approx(wanted, abs=1e-6)
    assert smallest_side(TINY) == 32
    assert smallest_side(TranslatorSpec(kind="unet_128")) == 128
    assert set(environment()) == {"torch", "cpu", "processor"}


def test_a_unet_bank_holds_tasks(tmp_path: Path) -> None:
    spec = TranslatorSpec(kind="unet_128", ngf=2, norm="batch", dropout=True)
    bank = Bank.create(tmp_path / "bank", spec, 0.5)
    finish(bank, begin(bank, "a"))
    begun = begin(bank, "b", "warm:a")
    finish(bank, begun)
    assert bank.task("a").outputs == bank.task("b").outputs
    assert verify(bank) == ()
