"""The command line as a person meets it: in a process of its own."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from graftgan import __version__
from graftgan.checkpoints.store import WEIGHTS, save_gan
from graftgan.cli import cli, main
from graftgan.commands import LATER
from graftgan.commands.base import WHOLE, Later
from graftgan.contract import Result, digest_file
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.params import keys, load
from graftgan.stages.specs import CLUSTER_STAGES, STAGES

TASKS = [*(s.name for s in CLUSTER_STAGES), "finish"]
COMMANDS = [
    *(s.name for s in STAGES),
    "task",
    "run",
    "config",
    "doctor",
    "sample",
    "source",
    "weights",
    "sync",
]
HEAVY = {"torch", "mlflow", "kfp", "pandas", "numpy", "great_expectations", "onnxruntime", "bokeh", "pyarrow",
         "PIL", "scipy", "dvc"}  # fmt: skip
SIZES = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 4}


Call = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Place:
    """A working folder with parameters and images."""

    root: Path

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `graftgan` here."""
        own = {"GRAFTGAN_HOME": str(self.root / ".graftgan"), "GRAFTGAN_CACHE": str(self.root / ".cache")}
        return subprocess.run(
            [sys.executable, "-m", "graftgan", *command],
            cwd=self.root,
            env=os.environ | own | {"COLUMNS": "100"} | env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def fails(self, code: int, *command: str) -> str:
        """Run `graftgan`, expect an exit code, and return the one complaint."""
        done = self.run(*command)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def files(self) -> set[str]:
        """Return the files here, without state and caches."""
        paths = (p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file())
        return {p for p in paths if not p.startswith((".graftgan", ".cache"))}


def make_place(root: Path, image_folder: Path) -> Place:
    shutil.copytree(image_folder, root / "images")
    params = {
        "data": {"path": "images", "split": {"validation": 0.2, "test": 0.2}},
        "rank": {"catalogue": "catalogue.yaml", "samples": 16, "extractor": "efflite0-128"},
        "track": {"mode": "off"},
        "runtime": {"workers": 1, "device": "cpu"},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return Place(root)


@pytest.fixture
def place(tmp_path: Path, image_folder: Path) -> Place:
    return make_place(tmp_path, image_folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Place:
    """A folder in which `prepare` has run, with a source checkpoint; only to be read."""
    place = make_place(tmp_path_factory.mktemp("prepared"), image_folder)
    (place.root / "tiny").mkdir()
    save_gan(build(StyleGAN2Spec(resolution=32, **SIZES), seed=1), place.root / "tiny")
    write_catalogue(place)
    done = place.run("prepare")
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def ranking(prepared: Place, tmp_path: Path) -> Place:
    """A copy of that folder, free to be changed."""
    shutil.copytree(prepared.root, tmp_path / "copy")
    return Place(tmp_path / "copy")


def write_catalogue(place: Place, **changed: Any) -> None:
    sha256 = digest_file(place.root / "tiny" / WEIGHTS)
    entry = {"name": "tiny", "path": "tiny", "sha256": sha256, "resolution": 32} | changed
    (place.root / "catalogue.yaml").write_text(yaml.safe_dump([entry]))


def test_help_lists_every_command_whole(tmp_path: Path) -> None:
    text = Place(tmp_path).run("--help", COLUMNS="60").stdout
    listed = text.split("Commands:\n")[1]
    for name in COMMANDS:
        assert f"\n  {name} " in f"\n{listed}"
    assert "..." not in listed
    words = " ".join(listed.split())
    for spec in STAGES:
        assert f"{spec.name} {spec.help}" in words
    assert Place(tmp_path).run("--version").stdout.strip().endswith(__version__)


@pytest.mark.parametrize("later", LATER, ids=lambda later: later.name)
def test_a_command_that_is_imported_later_is_what_the_list_says(later: Later) -> None:
    command = later.load()
    assert command.name == later.name
    assert command.get_short_help_str(WHOLE) == later.summary


def test_listing_commands_imports_none_of_those_for_later() -> None:
    listed = "import sys; from graftgan.cli import cli; cli.main(['--help'], standalone_mode=False); "
    told = "print([name for name in sys.modules if name.startswith('graftgan.commands.')])"
    done = subprocess.run([sys.executable, "-c", listed + told], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['graftgan.commands.base']"


def test_what_only_a_cluster_runs_asks_for_its_input(tmp_path: Path) -> None:
    for name in TASKS:
        done = Place(tmp_path).run("task", name)
        assert done.returncode == 2 and "--kfp-executor-input" in done.stderr
        refused = Place(tmp_path).run("task", name, "--kfp-executor-input", "nonsense")
        assert refused.returncode == 2 and "--kfp-executor-input" in refused.stderr


def test_every_stage_has_the_same_options_and_help(tmp_path: Path) -> None:
    for name in ("prepare", "register", "run"):
        text = Place(tmp_path).run(name, "--help").stdout
        for option in ("--params", "--set KEY=VALUE", "--out", "--dry-run", "--force", "--resume"):
            assert option in text


def test_profile_is_short_for_its_key_and_makes_finetune_run(tmp_path: Path) -> None:
    from graftgan.cli import Options
    from graftgan.params import load

    plain = Options(Path("params.yaml"), ("runtime.threads=2",), tmp_path, False, False, "auto")
    assert plain.profiled(None) is plain
    for folder in ("profile", "null", "a: b, {c}", "it's"):
        given = plain.profiled(folder)
        runtime = load(None, given.assignments).runtime
        assert (runtime.profile, runtime.threads, given.force) == (folder, 2, True)
    assert "--profile FOLDER" in Place(tmp_path).run("finetune", "--help").stdout
    refused = Place(tmp_path).run("rank", "--profile", "x")
    assert refused.returncode == 2 and "--profile" in refused.stderr


LOADED = """
import sys
import graftgan.cli
sys.argv = ["graftgan", *sys.argv[1:]]
try:
    if sys.argv[1:]:
        graftgan.cli.main()
except SystemExit:
    pass
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        ("", ""),
        ("--help", ""),
        ("config show", ""),
        ("prepare --set data.x=1", ""),
        # It opens the image set.
        ("prepare --dry-run", "PIL numpy pyarrow"),
    ],
)
def test_nothing_heavy_is_imported_before_a_stage_runs(place: Place, command: str, allowed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *command.split()],
        cwd=place.root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split("LOADED ")[1].split())
    assert "graftgan" in loaded
    assert not loaded & HEAVY - set(allowed.split())


def test_prepare_writes_its_outputs_and_a_second_run_does_nothing(ranking: Place) -> None:
    out = ranking.root / "out" / "prepare"
    result = Result.read(out / "result.json")
    assert result.metrics["images"] == 40
    assert sorted(p.name for p in out.iterdir()) == ["data_docs", "dataset", "result.json", "run.json"]
    before = (out / "result.json").stat().st_mtime_ns
    again = ranking.run("prepare")
    assert again.returncode == 0
    assert again.stderr.startswith("prepare: up to date")
    assert (out / "result.json").stat().st_mtime_ns == before


def test_a_dry_run_says_what_would_happen_and_writes_nothing(place: Place) -> None:
    (place.root / "catalogue.yaml").write_text("[]")
    before = place.files()
    done = place.run("run", "--dry-run", "--set", "rank.choose=scratch")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("prepare: would run")
    assert "register: would run after" in done.stdout
    assert place.files() == before
    assert not (place.root / ".graftgan").exists() and not (place.root / ".cache").exists()


@pytest.mark.parametrize(
    ("code", "arguments", "parts"),
    [
        (2, "--set data.resoluton=64", ("unknown key 'data.resoluton'", "did you mean data.resolution")),
        (
            2,
            "--set data.resolution=big",
            ("data.resolution", "given 'big'", "config explain data.resolution"),
        ),
        (2, "--set finetune.batch=1", ("finetune.batch", "given 1")),
        (2, "--set data.seed", ("no '='", "--set key=value")),
        (2, "--no-such-option", ("No such option",)),
        (2, "--resume maybe", ("'maybe' is not one of",)),
        (4, "--params absent.yaml", ("absent.yaml does not exist", "--params")),
        (4, "--set data.path=absent", ("data.path: absent does not exist", "correct data.path")),
    ],
)
def test_wrong_calls_are_refused_before_anything_happens(
    place: Place, code: int, arguments: str, parts: tuple[str, ...]
) -> None:
    before = place.files()
    complaint = place.fails(code, "prepare", *arguments.split())
    for part in parts:
        assert part in complaint
    assert place.files() == before


def test_unknown_keys_and_wrong_types_in_the_file_are_refused(place: Place) -> None:
    path = place.root / "params.yaml"
    path.write_text("data: {pth: images, channels: three}\n")
    complaint = place.fails(2, "prepare")
    for part in ("params.yaml", "'data.pth'", "did you mean data.path", "data.channels", "given 'three'"):
        assert part in complaint
    path.write_text("data: [")
    assert "params.yaml is not YAML" in place.fails(2, "prepare")


def test_unknown_commands_are_refused(place: Place) -> None:
    assert "No such command 'prepar'" in place.fails(2, "prepar")


def empty(images: Path) -> None:
    for file in images.iterdir():
        file.unlink()


def three(images: Path) -> None:
    for file in sorted(images.iterdir())[3:]:
        file.unlink()


def truncated(images: Path) -> None:
    Image.open(images / "001.png").resize((64, 64)).save(images / "cut.jpg")
    whole = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])


def identical(images: Path) -> None:
    for file in images.iterdir():
        file.write_bytes((images / "000.png").read_bytes())


def too_small(images: Path) -> None:
    Image.open(images / "001.png").resize((8, 8)).save(images / "tiny.png")


def zip_bomb(images: Path) -> None:
    with zipped(images) as archive, archive.open("bomb.png", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))


def traversal(images: Path) -> None:
    with zipped(images) as archive:
        archive.writestr("../../evil.png", (images / "001.png").read_bytes())


def zipped(images: Path) -> zipfile.ZipFile:
    """A zip of the images beside their folder, which the parameters name from now on."""
    archive = zipfile.ZipFile(images.parent / "set.zip", "w", zipfile.ZIP_DEFLATED)
    for file in images.glob("*.png"):
        archive.write(file, file.name)
    params = images.parent / "params.yaml"
    params.write_text(params.read_text().replace("path: images", "path: set.zip"))
    return archive


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (too_small, ("min_side_px", "1 of 41 images do not: 'tiny.png'", "offending.txt")),
        (zip_bomb, ("set.zip", "'bomb.png'", "decompression bomb")),
        (traversal, ("set.zip", "'../../evil.png' reaches outside")),
        (empty, ("images holds no image", "data.path")),
        (three, ("min_images", "observed 3", "data.expectations")),
        (truncated, ("1 of 41 images", "'cut.jpg'", "data.on_bad_image: skip")),
        (identical, ("duplicate", "data.expectations")),
    ],
)
def test_bad_images_are_refused_by_name_and_nothing_is_half_written(
    place: Place, spoil: Callable[[Path], None], parts: tuple[str, ...]
) -> None:
    spoil(place.root / "images")
    before = place.files()
    complaint = place.fails(3, "prepare")
    for part in (*parts, "fix: "):
        assert part in complaint
    assert place.files() == before
    assert list((place.root / "out" / "prepare").iterdir()) == []
    assert not list(place.root.parent.rglob("evil.png"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_means_try_again(place: Place, small_disk: Path) -> None:
    complaint = place.fails(75, "prepare", "--out", str(small_disk / "out"))
    assert "no space left on the disk of" in complaint
    assert "free some space" in complaint
    assert [p for p in small_disk.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(("code", "number"), [(75, errno.EDQUOT), (75, errno.ENOSPC), (1, errno.EIO)])
def test_errors_of_the_disk_outside_stages_have_their_codes(
    place: Place, call: Call, monkeypatch: pytest.MonkeyPatch, code: int, number: int
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), "samples.png")

    monkeypatch.setattr("graftgan.sampling.draw", fail)
    found, said = call(place, "sample", "models/chosen")
    assert found == code
    assert "error: [Errno" in said and "samples.png" in said


@pytest.mark.parametrize(
    ("code", "changed", "parts"),
    [
        (4, {"path": "absent"}, ("source tiny", "absent/gan.safetensors does not exist", "catalogue.yaml")),
        (5, {"sha256": "0" * 64}, ("source tiny", "has sha256", f"not {'0' * 64}", "fetch the file again")),
    ],
)
def test_bad_sources_are_refused_by_name(
    ranking: Place, code: int, changed: dict[str, Any], parts: tuple[str, ...]
) -> None:
    write_catalogue(ranking, **changed)
    before = ranking.files()
    complaint = ranking.fails(code, "rank")
    for part in parts:
        assert part in complaint
    assert ranking.files() == before


def test_a_missing_catalogue_or_earlier_stage_is_named(ranking: Place) -> None:
    (ranking.root / "catalogue.yaml").unlink()
    assert "rank.catalogue: catalogue.yaml does not exist" in ranking.fails(4, "rank")
    shutil.rmtree(ranking.root / "out")
    write_catalogue(ranking)
    complaint = ranking.fails(4, "rank")
    assert "out/prepare/dataset does not exist" in complaint
    assert "run `graftgan prepare`" in complaint


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `graftgan` in this process, which spares the start-up, and give exit code and output."""
    logger = logging.getLogger("graftgan")
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))

    def run(place: Place, *command: str) -> tuple[int, str]:
        monkeypatch.chdir(place.root)
        monkeypatch.setattr(sys, "argv", ["graftgan", *command])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    return run


def test_a_source_that_is_no_checkpoint_is_refused(ranking: Place, call: Call) -> None:
    weights = ranking.root / "tiny" / WEIGHTS
    weights.write_bytes(b"\x80\x04" + weights.read_bytes())
    write_catalogue(ranking)
    code, said = call(ranking, "source", "verify", "--catalogue", "catalogue.yaml")
    assert code == 5
    assert f"tiny/{WEIGHTS}" in said


def test_an_entry_with_an_unknown_key_is_refused(ranking: Place, call: Call) -> None:
    write_catalogue(ranking, colour="red")
    code, said = call(ranking, "source", "list", "--catalogue", "catalogue.yaml")
    assert code == 2
    assert "catalogue.yaml, entry 1" in said
    assert "colour" in said


def test_sources_are_listed_and_verified(prepared: Place, call: Call) -> None:
    code, said = call(prepared, "source", "list", "--catalogue", "catalogue.yaml")
    assert (code, said.split()[:3]) == (0, ["tiny", "32", "px"])
    verified = call(prepared, "source", "verify", "--catalogue", "catalogue.yaml")
    assert verified == (0, "tiny: whole, stylegan2 32 px\n")


def test_parameters_are_shown_so_that_they_can_be_read_back(place: Place) -> None:
    shown = place.run("config", "show", "--set", "data.seed=9")
    (place.root / "again.yaml").write_text(shown.stdout)
    expected = load(place.root / "params.yaml", ["data.seed=9"])
    assert load(place.root / "again.yaml") == expected
    as_json = place.run("config", "show", "--set", "data.seed=9", "--json").stdout
    assert as_json.count("\n") == 1
    assert json.loads(as_json) == expected.model_dump(mode="json")


def test_parameters_are_explained_and_described(tmp_path: Path, call: Call) -> None:
    place = Place(tmp_path)
    assert "minimum: 0" in call(place, "config", "explain", "data.seed")[1]
    code, said = call(place, "config", "explain", "data.sed")
    assert (code, "unknown key 'data.sed'" in said) == (2, True)
    schema = json.loads(call(place, "config", "schema")[1])
    assert set(schema["properties"]) == {key for key, _ in keys() if "." not in key}
    assert "freeze_d" in call(place, "config", "methods")[1]


def test_pictures_are_drawn_from_a_checkpoint(ranking: Place, call: Call) -> None:
    how = ("--seeds", "0-3", "--columns", "2", "--scale-px", "32")
    assert call(ranking, "sample", "tiny", *how) == (0, "samples.png: 4 samples\n")
    assert Image.open(ranking.root / "samples.png").width >= 64
    for code, wrong, part in ((2, ("tiny", "--seeds", "x"), "not a list of seeds"),
                              (2, ("tiny", "--psi", "1.5"), "--psi"),
                              (4, ("images",), "holds neither")):  # fmt: skip
        found, said = call(ranking, "sample", *wrong)
        assert found == code
        assert part in said


def test_doctor_leaves_with_one_if_something_is_missing(prepared: Place, call: Call) -> None:
    whole = prepared.run("doctor")
    assert whole.returncode == 0, whole.stdout
    assert "ok       python" in whole.stdout
    code, said = call(prepared, "doctor", "--params", "absent.yaml")
    assert code == 1
    assert "missing  parameters       absent.yaml does not exist; the defaults" in said


def test_weights_of_unknown_names_are_refused(tmp_path: Path, call: Call) -> None:
    code, said = call(Place(tmp_path), "weights", "fetch", "vgg")
    assert (code, "'vgg' is not" in said) == (2, True)


def test_no_command_hides_another() -> None:
    names = [*cli.commands, *(later.name for later in LATER)]
    assert len(names) == len(set(names))
    assert not {spec.name for spec in CLUSTER_STAGES} & {spec.name for spec in STAGES}
