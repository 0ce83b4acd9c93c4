"""The one description of the stages: what each reads, writes and is configured by.

`dvc.yaml`, the Kubeflow components and the command line are made from this table or checked against it.
Nothing here imports anything heavier than the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PortKind = Literal["dataset", "model", "metrics", "html", "markdown", "artifact"]
SUFFIXES: dict[PortKind, str] = {"html": ".html", "markdown": ".md"}


@dataclass(frozen=True)
class Port:
    """One thing that a stage writes.

    Attributes:
        name: Name within the stage, also the file name under `out/STAGE/`.
        kind: What the Kubeflow artifact is typed as.
        help: One line for help texts.
        folder: Whether the path is a folder.
        volatile: True if its bytes may differ between equal runs; it has no digest and no stage may read it.
    """

    name: str
    kind: PortKind
    help: str
    folder: bool = True
    volatile: bool = False

    @property
    def file_name(self) -> str:
        """Name under `out/STAGE/`: a file has the suffix of its kind."""
        return self.name if self.folder else self.name + SUFFIXES.get(self.kind, ".json")


@dataclass(frozen=True)
class StageSpec:
    """One stage: its inputs (ports of earlier stages), its outputs and the configuration that matters to it.

    Attributes:
        name: Sub-command, DVC stage and Kubeflow component name.
        help: One line for help texts.
        inputs: Maps the stage's input name to `STAGE.PORT` of the stage that writes it.
        outputs: What it writes, besides `result.json`.
        params: Dotted configuration keys, whole sections or leaves, whose change must rerun the stage.
        external: Dotted keys whose values are paths read by the stage (the user's images, the catalogue).
        networks: Dotted keys that may name the file of a network, as ``torchscript:PATH?px=N``.
    """

    name: str
    help: str
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: tuple[Port, ...] = ()
    params: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """Dotted path of the module whose `run` does the work."""
        return f"graftgan.stages.{self.name}"

    def port(self, name: str) -> Port:
        """Return the output called `name`.

        Raises:
            KeyError: If the stage has no such output.
        """
        for port in self.outputs:
            if port.name == name:
                return port
        raise KeyError(f"stage {self.name} has no output {name!r}")


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="prepare",
        help="Read, check, split and pack the image set.",
        outputs=(
            Port("dataset", "dataset", "packed images, manifest and facts of the image set"),
            Port("data_docs", "artifact", "Great Expectations Data Docs", volatile=True),
        ),
        params=("data",),
        external=("data.path",),
    ),
    StageSpec(
        name="rank",
        help="Rank the source checkpoints by how well they cover the image set, and choose one.",
        inputs={"dataset": "prepare.dataset"},
        outputs=(Port("ranking", "artifact", "table of sources, the choice and contact sheets"),),
        params=("rank", "finetune.scratch"),
        external=("rank.catalogue",),
        networks=("rank.extractor",),
    ),
    StageSpec(
        name="finetune",
        help="Adapt the chosen source to the image set, beside its control runs.",
        inputs={"dataset": "prepare.dataset", "ranking": "rank.ranking"},
        outputs=(Port("models", "model", "one adapted model per run, with curves and samples"),),
        params=("finetune",),
        external=("rank.catalogue",),
        networks=(
            "finetune.target_class.classifier",
            "finetune.class_embedding.classifier",
            "finetune.class_embedding.features",
            "finetune.validation_extractor",
        ),
    ),
    StageSpec(
        name="evaluate",
        help="Score the adapted models on the held-out test images.",
        inputs={"dataset": "prepare.dataset", "models": "finetune.models"},
        outputs=(
            Port("scores", "artifact", "scores with intervals and floors, sample sheets, nearest pairs"),
        ),
        params=("evaluate",),
        networks=("evaluate.extractor",),
    ),
    StageSpec(
        name="report",
        help="Write the one-file HTML report.",
        inputs={
            "dataset": "prepare.dataset",
            "ranking": "rank.ranking",
            "models": "finetune.models",
            "scores": "evaluate.scores",
        },
        outputs=(
            Port("report", "html", "self-contained HTML report", folder=False),
            Port("verdict", "markdown", "the verdict and the scores as Markdown", folder=False),
        ),
        params=("data", "rank", "finetune", "evaluate", "report"),
    ),
    StageSpec(
        name="register",
        help="Register the model and move the champion alias if the new model is better.",
        inputs={
            "dataset": "prepare.dataset",
            "models": "finetune.models",
            "scores": "evaluate.scores",
            "report": "report.report",
        },
        outputs=(Port("package", "model", "the registered model: weights, card and signature"),),
        params=("registry", "evaluate"),
    ),
)

RESULT = Port("result", "metrics", "what the stage did: digests, metrics, warnings", folder=False)


def stage(name: str) -> StageSpec:
    """Return the stage called `name`.

    Raises:
        KeyError: If there is no such stage.
    """
    for spec in STAGES:
        if spec.name == name:
            return spec
    raise KeyError(f"no stage {name!r}; the stages are {', '.join(s.name for s in STAGES)}")
