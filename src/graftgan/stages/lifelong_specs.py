"""The stages that learn a list of tasks, described as those of the transfer pipeline are.

Two stages a task form a chain: `learn-NAME` adds the task to what the stages before it learnt, and
`evaluate-NAME` scores every task of the bank as it then is. Nothing here imports anything heavier than the
standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graftgan.stages.specs import READABLE, Port, StageSpec

GROUP = "lifelong"
BANK, BACK, TASKS = "bank", "bank-back", "tasks"
LEARNT = Port("learnt", "model", "the bank so far, that of the ways back, and what each task has to tell")
SCORES = Port("scores", "artifact", "scores of every task after each addition", folder=False)
VERIFIED = (
    Port("bank", "model", "the task bank"),
    Port("back", "model", "the bank of unpaired tasks' ways back"),
    Port("tasks", "artifact", "scores, costs, curves and example pictures of each task", tracked=READABLE),
    SCORES,
    Port("proof", "artifact", "what shows that no task has changed", folder=False),
)
KINDS = ("create", "learn", "evaluate", "verify", "report", "register")


def lifelong_stages(tasks: Sequence[str]) -> tuple[StageSpec, ...]:
    """Return the stages that learn the named tasks one after another.

    A stage reads the keys of its own tasks only, so a task put at the end of the list reruns no earlier one.
    """
    create = StageSpec(
        name="create",
        help="Make the bank without tasks.",
        outputs=(LEARNT, SCORES),
        params=("bank",),
        module="lifelong_create",
        group=GROUP,
    )
    stages, before, scored = [create], "create", "create"
    for number, task in enumerate(tasks, 1):
        learn = _learn(task, before)
        evaluate = _evaluate(tuple(tasks[:number]), learn.name, scored)
        stages += [learn, evaluate]
        before, scored = learn.name, evaluate.name
    return (*stages, *_closing(before, scored))


def _learn(task: str, before: str) -> StageSpec:
    return StageSpec(
        name=f"learn-{task}",
        help=f"Learn the task {task} and add it to the bank.",
        inputs={"before": f"{before}.learnt"},
        outputs=(LEARNT,),
        params=(f"tasks.{task}", "train", "scores"),
        external=(f"tasks.{task}.data.input", f"tasks.{task}.data.target"),
        pictures=(f"{LEARNT.name}/{TASKS}/{task}/*.png",),
        module="lifelong_learn",
        item=task,
        group=GROUP,
    )


def _evaluate(tasks: tuple[str, ...], learn: str, scored: str) -> StageSpec:
    return StageSpec(
        name=f"evaluate-{tasks[-1]}",
        help=f"Score every task of the bank after {tasks[-1]} was added.",
        inputs={"learnt": f"{learn}.learnt", "before": f"{scored}.scores"},
        outputs=(SCORES,),
        params=(*(f"tasks.{task}.data" for task in tasks), "scores"),
        external=tuple(f"tasks.{task}.data.{key}" for task in tasks for key in ("input", "target")),
        module="lifelong_evaluate",
        item=tasks[-1],
        group=GROUP,
    )


def _closing(learn: str, evaluate: str) -> tuple[StageSpec, ...]:
    verify = StageSpec(
        name="verify",
        help="Prove that no task has changed, and put the bank in place.",
        inputs={"learnt": f"{learn}.learnt", "table": f"{evaluate}.scores"},
        outputs=VERIFIED,
        pictures=(f"{TASKS}/*/*.png",),
        module="lifelong_verify",
        group=GROUP,
    )
    found = {name: f"verify.{name}" for name in ("bank", "tasks", "scores", "proof")}
    report = StageSpec(
        name="report",
        help="Write the one-file HTML report of the bank, and the verdict.",
        inputs=found,
        outputs=(
            Port("report", "html", "self-contained HTML report", folder=False),
            Port("verdict", "markdown", "scores, storage and forgetting as Markdown", folder=False),
        ),
        params=("registry.name",),
        module="lifelong_report",
        group=GROUP,
    )
    register = StageSpec(
        name="register",
        help="Register the bank as a model; it becomes champion if it has every task of the present one.",
        inputs=found,
        outputs=(
            Port("package", "model", "the registered model: bank, card and examples", tracked=READABLE),
        ),
        params=("tasks", "registry"),
        module="lifelong_register",
        group=GROUP,
    )
    return verify, report, register


def lifelong_stage(tasks: Sequence[str], kind: str, task: str = "") -> StageSpec:
    """Return one stage of the list by its kind, and its task where it has one.

    Raises:
        KeyError: There is no such stage.
    """
    name = f"{kind}-{task}" if task else kind
    for spec in lifelong_stages(tasks):
        if spec.name == name:
            return spec
    raise KeyError(f"no stage {name!r}")


def lifelong_paths(spec: StageSpec, out: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the input and output paths of a stage.

    What is of use to people lies right below `out`; what the chain hands on lies in `out/steps/STAGE`.
    """
    ports = {port.name: port for port in (LEARNT, *VERIFIED)}
    inputs = {}
    for name, origin in spec.inputs.items():
        writer, port = origin.split(".")
        inputs[name] = _place(writer, ports[port], out)
    outputs = {port.name: _place(spec.name, port, out) for port in spec.outputs}
    return inputs, outputs | {"result": _folder(spec.name, out) / "result.json"}


def _place(stage_name: str, port: Port, out: Path) -> Path:
    if stage_name != "verify":
        return _folder(stage_name, out) / port.file_name
    return out / (BACK if port.name == "back" else port.file_name)


def _folder(stage_name: str, out: Path) -> Path:
    return out / stage_name if stage_name in KINDS[3:] else out / "steps" / stage_name
