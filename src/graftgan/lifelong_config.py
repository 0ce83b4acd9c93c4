"""Settings of image-to-image tasks: their images, how a translator is trained on them, and lists of tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from graftgan.config import Budget, Runtime, Split, Track
from graftgan.section import Count, Fraction, Positive, Section

Kind = Literal["paired", "unpaired"]
Make = Literal["edges", "grey", "lowres", "silhouette", "left", "right"]
GanLoss = Literal["bce", "lsgan"]
PatchPx = Literal[16, 34, 70]
NonNegative = Annotated[float, Field(ge=0.0)]


class TaskData(Section):
    """The images of one image-to-image task."""

    kind: Kind = Field(
        "paired", description="paired: each input has its target; unpaired: two sets of images."
    )
    input: str | None = Field(
        None, description="Folder, zip or parquet file of inputs; null makes them from the targets."
    )
    target: str = Field(description="Folder, zip or parquet file of targets, paired with inputs by name.")
    make: Make | None = Field(
        None,
        description="What is made of each target as its input: edges, grey, lowres or silhouette; or the "
        "half, left or right, of a side-by-side picture that is the input.",
    )
    lowres_factor: Annotated[int, Field(ge=2, le=16)] = Field(
        4, description="With make lowres: how many times smaller the input was."
    )
    resolution: Annotated[int, Field(ge=16, le=1024, multiple_of=4)] = Field(
        64, description="Side of the images in pixels."
    )
    background: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = Field(
        "#ffffff", description="Colour behind transparent pixels."
    )
    seed: int = Field(0, ge=0, description="Seed of the split; tasks with the same seed hold out alike.")
    split: Split = Field(default_factory=Split, description="Shares of the split, by base name.")
    train_images: Count | None = Field(None, description="Use only so many training images; null means all.")
    max_pixels: Count = Field(100_000_000, description="Images with more pixels are refused as bombs.")
    max_file_bytes: Count = Field(200_000_000, description="Files larger than this are refused.")

    @model_validator(mode="after")
    def _inputs_from_one_place(self) -> TaskData:
        if self.kind == "unpaired" and (self.make is not None or self.input is None):
            raise ValueError("an unpaired task needs input and target, and no make")
        if self.kind == "paired" and (self.input is None) == (self.make is None):
            raise ValueError("a paired task needs either input or make, not both")
        if self.make == "lowres" and self.resolution % self.lowres_factor:
            raise ValueError("resolution must be a multiple of lowres_factor")
        return self


class Translate(Section):
    """How a translator is trained: pix2pix for paired tasks, CycleGAN for unpaired ones."""

    budget: Budget = Field(default_factory=lambda: Budget(epochs=20.0), description="Length of training.")
    seed: int = Field(0, ge=0, description="Seed of initialisation, dropout, mirroring, pool and data order.")
    batch: Count = Field(1, description="Images a step.")
    lr: Positive = Field(0.0002, description="Adam learning rate of all networks.")
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.5, description="Adam's decay of the mean.")
    lr_decay: Fraction = Field(
        0.5, description="Last share of the budget over which the learning rate falls linearly to zero."
    )
    gan_loss: GanLoss | None = Field(None, description="null is bce for paired and lsgan for unpaired tasks.")
    l1_weight: NonNegative = Field(100.0, description="Paired: weight of the L1 distance to the target.")
    cycle_weight: NonNegative = Field(10.0, description="Unpaired: weight of both cycles.")
    identity_weight: NonNegative = Field(
        0.5, description="Unpaired: weight of the identity terms, in multiples of cycle_weight."
    )
    pool_images: Annotated[int, Field(ge=0)] = Field(50, description="Unpaired: fakes kept to show D again.")
    patch_px: PatchPx | None = Field(
        None, description="Side of the patch that D judges; null is the largest within the images."
    )
    ndf: Count = Field(64, description="Feature maps of D's first layer.")
    norm_d: Literal["instance", "batch"] = Field("instance", description="Norm of D.")
    flip: bool = Field(True, description="Mirror half of the images, both of a pair alike.")
    jitter_px: Annotated[int, Field(ge=0)] = Field(
        0, description="Enlarge images by so many pixels and crop at random (30 at 256 px in pix2pix)."
    )
    ema_half_life_kimg: Positive | None = Field(
        None, description="Half-life of an averaged generator; null keeps the last weights."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto is bf16 where the device computes in it, else fp32."
    )
    evaluate_every_kimg: Positive = Field(5.0, description="Validation scores, every so many kimg.")
    choose: Literal["last", "best"] = Field(
        "last", description="Which weights are kept: the last, or those with the best validation score."
    )


class TranslationScores(Section):
    """How translators are scored on held-out images."""

    extractor: str = Field(
        "efflite0", description="efflite0, efflite0-128, inception, onnx:PATH or torchscript:PATH."
    )
    validation_extractor: str = Field(
        "efflite0-128", description="The same for the validation scores of unpaired tasks."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(0.95, description="Level of the intervals.")
    max_images: Annotated[int, Field(ge=16)] = Field(1000, description="Most test images used.")
    standalone: bool = Field(
        False,
        description="Train a model of its own for each task too, at the same budget, for the report.",
    )


Share = Annotated[float, Field(ge=0.0, le=1.0)]
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
WARM = "warm:"


class BankOptions(Section):
    """The bank that the tasks go into; it is made before the first one and cannot be changed."""

    generator: Literal["resnet_6", "resnet_9", "unet_128", "unet_256"] = Field(
        "resnet_9", description="Generator of all tasks."
    )
    ngf: Count = Field(64, description="Feature maps of the generator's first layer.")
    norm: Literal["instance", "batch"] = Field("instance", description="Norm of the generator.")
    dropout: bool = Field(False, description="Whether the generator drops feature maps while it trains.")
    share: Share | list[Share] | dict[str, Share] = Field(
        0.25,
        description="Lambda, the share of new filters of later tasks: one number, a list of one a layer, or "
        "a mapping from layer names.",
    )


class LifelongTask(Section):
    """One task of the list."""

    data: TaskData = Field(description="Its images.")
    init: Annotated[str, Field(pattern=r"^(random|auto|warm:[A-Za-z0-9][A-Za-z0-9_-]{0,63})$")] = Field(
        "random",
        description="random, warm:TASK to start as an earlier task, or auto for the start that ranks first.",
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="Keys of `train` that this task has otherwise."
    )


class BankRegistry(Section):
    """The model registry."""

    name: str = Field("graftgan-bank", description="Registered model name.", pattern=r"^[A-Za-z0-9][\w.-]*$")
    gate: Literal["off", "dry-run", "enforce"] = Field(
        "enforce",
        description="enforce: the champion gives way only to a bank with all its tasks, bit for bit; "
        "off always promotes; dry-run never does.",
    )


class LifelongParams(Section):
    """All of `lifelong/params.yaml`."""

    tasks: Annotated[dict[TaskName, LifelongTask], Field(min_length=1)] = Field(
        description="The tasks by name, in the order in which they are learnt."
    )
    bank: BankOptions = Field(default_factory=BankOptions)
    train: Translate = Field(default_factory=Translate)
    scores: TranslationScores = Field(default_factory=TranslationScores)
    registry: BankRegistry = Field(default_factory=BankRegistry)
    track: Track = Field(default_factory=Track)
    runtime: Runtime = Field(default_factory=Runtime)

    def recipe(self, name: str) -> Translate:
        """Return the recipe of a task: `train` with the task's own keys."""
        return Translate.model_validate({**self.train.model_dump(), **self.tasks[name].train})

    @model_validator(mode="after")
    def _tasks_fit(self) -> LifelongParams:
        earlier: list[str] = []
        for name, task in self.tasks.items():
            if task.init.startswith(WARM) and task.init.removeprefix(WARM) not in earlier:
                known = ", ".join(earlier) or "none"
                raise ValueError(f"tasks.{name}.init is {task.init}, and the earlier tasks are: {known}")
            if self.bank.generator.startswith("unet"):
                step = int(self.bank.generator.removeprefix("unet_"))
                if task.data.resolution % step:
                    raise ValueError(
                        f"tasks.{name}.data.resolution must be a multiple of {step} for {self.bank.generator}"
                    )
            self.recipe(name)
            earlier.append(name)
        return self
