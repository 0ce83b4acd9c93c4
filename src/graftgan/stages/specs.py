"""The one description of the stages: what each reads, writes and is configured by.

`dvc.yaml`, the Kubeflow components and the command line are made from this table or checked against it.
Nothing here imports anything heavier than the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PortKind = Literal["dataset", "model", "metrics", "html", "markdown", "artifact"]
SUFFIXES: dict[PortKind, str] = {"html": ".html", "markdown": ".md"}
# Tables, texts and pictures; whatever holds weights, images or features has another suffix.
READABLE = tuple(f"**/*.{suffix}" for suffix in ("json", "csv", "md", "html", "png", "gif"))


@dataclass(frozen=True)
class Port:
    """One thing that a stage writes.

    Attributes:
        name: Name within the stage, also the file name under `out/STAGE/`.
        kind: What the Kubeflow artifact is typed as.
        help: One line for help texts.
        folder: Whether the path is a folder.
        volatile: True if its bytes may differ between equal runs; it has no digest and no stage may read it.
        tracked: Patterns of the files of a folder that the tracker gets; what is one file it gets always.
    """

    name: str
    kind: PortKind
    help: str
    folder: bool = True
    volatile: bool = False
    tracked: tuple[str, ...] = ()

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
        many: Inputs that come as a list, one of each task of a fan-out; the stage finds `NAME/0` and on.
        warm: Like `inputs`, but only to save time: lists of feature files that another task computed.
        told: Maps an output parameter, for other tasks, to the text file `PORT/FILE` that holds it.
        pictures: Patterns `PORT/PATH` of the pictures on the stage's card in the Kubeflow UI.
        module: Module below `graftgan.stages` that does the work, where it is not called as the stage.
        item: What the stage does it for, such as one task of a list; `run` is given it.
        group: Group of commands that the sub-command is in.
        context: What the stage uses the image set for: training, test or reporting; where it is empty, the
            image set is no input of the stage's run in MLflow.
    """

    name: str
    help: str
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: tuple[Port, ...] = ()
    params: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    many: tuple[str, ...] = ()
    warm: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    module: str = ""
    item: str = ""
    group: str = ""
    context: str = ""

    @property
    def entry(self) -> str:
        """Dotted path of the module whose `run` does the work."""
        return f"graftgan.stages.{self.module or self.name.replace('-', '_')}"

    def origin(self, name: str) -> str:
        """Return `STAGE.PORT` of an input, of one entry `NAME/0` of a list, or of a warm input."""
        return (self.inputs | self.warm)[name.partition("/")[0]]

    def writer(self, name: str) -> str:
        """Return the sub-command that writes the input called `name`."""
        stage_name = self.origin(name).split(".")[0]
        return " ".join((self.group, *stage_name.split("-", 1))) if self.group else stage_name

    def port(self, name: str) -> Port:
        """Return the output called `name`.

        Raises:
            KeyError: If the stage has no such output.
        """
        for port in (*self.outputs, RESULT):
            if port.name == name:
                return port
        raise KeyError(f"stage {self.name} has no output {name!r}")


RESULT = Port("result", "metrics", "what the stage did: digests, metrics, warnings", folder=False)

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="prepare",
        help="Read, check, split and pack the image set.",
        outputs=(
            Port(
                "dataset",
                "dataset",
                "packed images, manifest and facts of the image set",
                tracked=("dataset.json",),
            ),
            Port(
                "data_docs",
                "artifact",
                "Great Expectations Data Docs",
                volatile=True,
                tracked=("**/*.html", "**/*.css"),
            ),
        ),
        params=("data",),
        external=("data.path",),
        context="training",
    ),
    StageSpec(
        name="rank",
        help="Rank the source checkpoints by how well they cover the image set, and choose one.",
        inputs={"dataset": "prepare.dataset"},
        outputs=(
            Port("ranking", "artifact", "table of sources, the choice and contact sheets", tracked=READABLE),
        ),
        params=("rank", "finetune.scratch"),
        external=("rank.catalogue",),
        warm={"features": "rank-source.features"},
        pictures=("ranking/target.png", "ranking/sheets/*.png"),
        context="training",
    ),
    StageSpec(
        name="finetune",
        help="Adapt the chosen source to the image set, beside its control runs.",
        inputs={"dataset": "prepare.dataset", "ranking": "rank.ranking"},
        outputs=(
            Port("models", "model", "one adapted model per run, with curves and samples", tracked=READABLE),
        ),
        params=("finetune",),
        external=("rank.catalogue",),
        pictures=("models/*/samples.png", "models/*/timeline.png"),
        context="training",
    ),
    StageSpec(
        name="evaluate",
        help="Score the adapted models on the held-out test images.",
        inputs={"dataset": "prepare.dataset", "models": "finetune.models"},
        outputs=(
            Port(
                "scores",
                "artifact",
                "scores with intervals and floors, sample sheets, nearest pairs",
                tracked=READABLE,
            ),
        ),
        params=("evaluate",),
        pictures=("scores/real.png", "scores/samples/*.png", "scores/pairs/*.png"),
        context="test",
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
        context="reporting",
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
        outputs=(
            Port("package", "model", "the registered model: weights, card and signature", tracked=READABLE),
        ),
        params=("registry", "evaluate"),
        context="test",
    ),
)

# Stages of a fan-out over a cluster's tasks; on one machine `run_all` and `graftgan study` do their work.
CLUSTER_STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="rank-source",
        help="Compute the features of some sources' samples, so that rank finds them ready.",
        inputs={"dataset": "prepare.dataset"},
        outputs=(Port("features", "artifact", "feature files of the sources' samples"),),
        params=("rank.sources", "rank.samples", "rank.extractor", "rank.seed"),
        external=("rank.catalogue",),
    ),
    StageSpec(
        name="compare",
        help="Compare trained and scored models of several methods and seeds, and hand on the best one.",
        inputs={
            "models": "finetune.models",
            "trained": "finetune.result",
            "scores": "evaluate.scores",
            "scored": "evaluate.result",
        },
        outputs=(
            Port("best_models", "model", "the models of the best method and seed, as finetune wrote them"),
            Port("best_scores", "artifact", "their scores, as evaluate wrote them", tracked=READABLE),
            Port(
                "table", "artifact", "the comparison as JSON and CSV, and the winner's name", tracked=READABLE
            ),
            Port("comparison", "html", "the comparison as a page with sample sheets", folder=False),
            Port("verdict", "markdown", "the comparison as Markdown", folder=False),
        ),
        params=("finetune",),
        many=("models", "trained", "scores", "scored"),
        told={"winner": "table/winner.txt"},
    ),
)


def stage(name: str) -> StageSpec:
    """Return the stage called `name`.

    Raises:
        KeyError: If there is no such stage.
    """
    known = {spec.name: spec for spec in (*STAGES, *CLUSTER_STAGES)}
    if name not in known:
        raise KeyError(f"no stage {name!r}; the stages are {', '.join(known)}")
    return known[name]
