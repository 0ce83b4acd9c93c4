"""The schema of `params.yaml`: types, ranges and help texts; unknown keys are errors with a suggestion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from graftgan.method_config import (
    AdaFM,
    BatchStatisticsAdaptation,
    ClassEmbedding,
    CrossDomainCorrespondence,
    FilterTransfer,
    GanMemory,
    Inversion,
    MineGAN,
    TargetClass,
    TargetMixture,
)
from graftgan.section import Count, Fraction, Positive, Section


class Split(Section):
    """Shares of the images for choosing checkpoints and for final scores; the rest trains."""

    validation: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.1, description="Share of images that choose the checkpoint."
    )
    test: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.2, description="Share of images kept for the final scores."
    )

    @model_validator(mode="after")
    def _leave_training(self) -> Split:
        if self.validation + self.test >= 1.0:
            raise ValueError("validation and test together leave no training images")
        return self


class Expectations(Section):
    """What the manifest must satisfy; Great Expectations checks it and builds the Data Docs."""

    min_images: Count = Field(10, description="Fewest good images, after bad ones are dropped.")
    max_images: Count = Field(1_000_000, description="Most images.")
    min_side_px: Count = Field(16, description="Shortest allowed side of an original image, in pixels.")
    max_bad_share: Fraction = Field(
        0.2, description="Largest share of unreadable files, with on_bad_image: skip."
    )
    max_duplicate_share: Fraction = Field(0.1, description="Largest share of exact duplicates.")
    max_near_duplicate_share: Fraction = Field(0.5, description="Largest share of near duplicates.")
    max_blank_share: Fraction = Field(0.01, description="Largest share of images of a single colour.")
    max_label_imbalance: Annotated[float, Field(ge=1.0)] = Field(
        20.0, description="Largest ratio of the most to the least frequent label."
    )


class Data(Section):
    """The image set and how it is packed."""

    path: str = Field(
        "data/micah.parquet",
        description="Folder, zip, StyleGAN2-ADA dataset zip, or parquet file with an image column.",
    )
    resolution: Literal[32, 64, 128, 256, 512, 1024] = Field(32, description="Working resolution in pixels.")
    channels: Literal[1, 3, 4] = Field(3, description="1 grey, 3 RGB, 4 RGBA.")
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="How a non-square image becomes square."
    )
    resize_filter: Literal["box", "bicubic", "lanczos"] = Field(
        "lanczos", description="Antialiasing filter; box is exact averaging for whole ratios."
    )
    background: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = Field(
        "#ffffff", description="Colour behind transparent pixels."
    )
    on_bad_image: Literal["fail", "skip"] = Field("fail", description="What an unreadable file does.")
    seed: int = Field(0, ge=0, description="Seed of the split.")
    split: Split = Field(default_factory=Split, description="Shares of the split.")
    train_images: Count | None = Field(None, description="Use only so many training images; null means all.")
    near_duplicate_bits: int = Field(
        6,
        ge=0,
        le=16,
        description="Near duplicates differ in at most so many bits of a hash, and hardly in pixels.",
    )
    max_pixels: Count = Field(100_000_000, description="Images with more pixels are refused as bombs.")
    max_file_bytes: Count = Field(200_000_000, description="Files larger than this are refused.")
    expectations: Expectations = Field(default_factory=Expectations, description="Checks of the manifest.")


class Rank(Section):
    """How the source checkpoint is chosen."""

    catalogue: str = Field("zoo/catalogue.yaml", description="File that lists the source checkpoints.")
    sources: list[str] | None = Field(None, description="Names to rank; null means the whole catalogue.")
    choose: str = Field("recommended", description="recommended, the name of a source, or scratch.")
    selector: Literal["recall", "precision", "density", "coverage", "kid", "fd"] = Field(
        "kid", description="Measure that recommends; recall is the paper's."
    )
    samples: Annotated[int, Field(ge=10)] = Field(1000, description="Images sampled from each source.")
    neighbours: Count = Field(
        10, description="k of the k-th neighbour radius; at 3, samples of small sources cover nothing."
    )
    extractor: str = Field("efflite0", description="Feature extractor.")
    seed: int = Field(0, ge=0, description="Seed of the samples.")
    low_recall: Fraction = Field(0.05, description="Warn when no source reaches this recall.")


class Budget(Section):
    """When training ends: whichever of the given limits is reached first."""

    kimg: Positive | None = Field(None, description="Thousands of real images shown to D.")
    epochs: Positive | None = Field(None, description="Passes over the training images.")
    minutes: Positive | None = Field(None, description="Wall-clock minutes; not reproducible.")

    @model_validator(mode="after")
    def _one_given(self) -> Budget:
        if self.kimg is None and self.epochs is None and self.minutes is None:
            raise ValueError("give at least one of kimg, epochs, minutes")
        return self


class Network(Section):
    """Widths of a network trained from scratch; an adapted one takes its source's."""

    z_dim: Count = Field(128, description="Latent size.")
    w_dim: Count = Field(128, description="Size of the intermediate latent.")
    mapping_layers: Count = Field(2, description="Layers of the mapping network.")
    channel_base: Count = Field(
        1024, description="Width at resolution r is min(channel_base / r, channel_max)."
    )
    channel_max: Count = Field(64, description="Largest width.")


class Finetune(Section):
    """How the chosen source is adapted."""

    method: str = Field("full", description="Transfer method, or auto; `graftgan config methods` lists them.")
    budget: Budget = Field(default_factory=lambda: Budget(kimg=24.0), description="Length of training.")
    controls: tuple[Literal["worst", "scratch"], ...] = Field(
        ("worst", "scratch"),
        description="Runs at the same budget beside the chosen one.",
    )
    seed: int = Field(0, ge=0, description="Seed of initialisation, latents, augmentation and data order.")
    batch: Annotated[int, Field(ge=2)] = Field(16, description="Images a step.")
    lr_generator: Positive = Field(0.002, description="Adam learning rate of G.")
    lr_discriminator: Positive = Field(0.002, description="Adam learning rate of D.")
    lr_cooldown: Fraction = Field(
        0.3,
        description="Last share of the budget over which both learning rates fall to zero; 0 is none.",
    )
    r1_gamma: Annotated[float, Field(ge=0.0)] = Field(
        0.5, description="R1 weight, in the gamma/2 convention."
    )
    r1_interval: Count = Field(16, description="R1 is applied every so many D steps, and scaled by it.")
    r1_on_fakes: bool = Field(False, description="R1 on fakes too, for very few images.")
    path_length_weight: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Path length weight; 0 turns it off."
    )
    path_length_interval: Count = Field(4, description="Path length is applied every so many G steps.")
    style_mixing: Fraction = Field(0.0, description="Probability that a sample mixes two styles.")
    ema_half_life_kimg: Positive = Field(2.0, description="Half-life of the averaged generator.")
    gradient_clip: Positive | None = Field(
        None, description="Largest gradient norm; null leaves gradients alone."
    )
    flip: bool = Field(True, description="Mirror half of the real images.")
    augment: Literal["none", "ada", "diffaugment"] = Field("ada", description="What D sees.")
    ada_target: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.6, description="Target of ADA's over-fitting signal."
    )
    ada_speed_kimg: Positive = Field(100.0, description="Images in which ADA's p can go from 0 to 1.")
    ada_p_max: Fraction = Field(0.85, description="Largest p of ADA.")
    freeze_d_layers: Annotated[int, Field(ge=0)] = Field(
        4, description="With method freeze_d: D's layers from the image side that stay fixed (4, 7, 10, ...)."
    )
    freeze_d_blocks: Annotated[int, Field(ge=0)] | None = Field(
        None, description="The same in whole blocks, instead of freeze_d_layers; null goes by layers."
    )
    freeze_g_blocks: Annotated[int, Field(ge=0)] = Field(
        2,
        description="With method freeze_g: how many of G's sizes stay fixed, from the smallest.",
    )
    low_level_from_px: Count | None = Field(
        None,
        description="With filter_transfer and adafm: G's blocks of this size or more are low-level; "
        "null is a quarter of the image side.",
    )
    low_level_d_from_px: Count | None = Field(
        None,
        description="The same for D, lower where there are fewer images; null is the image side.",
    )
    adapter_rank: Count = Field(4, description="With method lora: rank of what is added to each convolution.")
    filter_transfer: FilterTransfer = Field(
        default_factory=FilterTransfer, description="With filter_transfer and adafm."
    )
    adafm: AdaFM = Field(default_factory=AdaFM, description="With method adafm.")
    gan_memory: GanMemory = Field(default_factory=GanMemory, description="With method gan_memory.")
    class_embedding: ClassEmbedding = Field(
        default_factory=ClassEmbedding, description="With method class_embedding: rows of the class table."
    )
    fresh_discriminator: bool = Field(
        False, description="Train a fresh D beside a source that was published without one."
    )
    penalties: tuple[str, ...] = Field(
        (), description="Terms added to the losses; `graftgan config penalties` lists them."
    )
    bsd_weight: Annotated[float, Field(ge=0.0)] = Field(1.0, description="With penalty bsd: its weight.")
    bsd_k: Count = Field(
        10, description="With penalty bsd: smallest singular values that count, at most batch."
    )
    bsd_on_d: bool = Field(
        True, description="With penalty bsd: D has the term too, as in the published code."
    )
    bsd_floor: Positive = Field(
        1e-6,
        description="With penalty bsd: alarm, and no gradient, where the mean of sigma^2 is not above it.",
    )
    bsd_clip: Positive | None = Field(
        None, description="With penalty bsd: largest norm of its own gradient on D's features; null is none."
    )
    bsd_normalise_rows: bool = Field(
        False, description="With penalty bsd: features count as directions; not in the paper."
    )
    l2_sp_weight: Annotated[float, Field(ge=0.0)] = Field(
        0.001, description="With penalty l2_sp: weight of the squared distance to the source."
    )
    l2_sp_on_d: bool = Field(False, description="With penalty l2_sp: D is held near its source too.")
    ewc_weight: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="With penalty ewc: weight; penalty_ewc in the curves should be 0.1 to 1 of loss_g."
    )
    ewc_samples: Count = Field(
        256, description="With penalty ewc: images that the Fisher information is over."
    )
    minegan: MineGAN = Field(default_factory=MineGAN, description="With method minegan.")
    bsa: BatchStatisticsAdaptation = Field(
        default_factory=BatchStatisticsAdaptation, description="With method bsa."
    )
    cdc: CrossDomainCorrespondence = Field(
        default_factory=CrossDomainCorrespondence, description="With penalty or method cdc."
    )
    prior: Literal["normal", "gmm", "gmm_to_normal"] = Field(
        "normal",
        description="Latents of an adapted source: gmm is where it resembles the images already.",
    )
    target_class: TargetClass = Field(
        default_factory=TargetClass, description="Classes of an adapted source with classes."
    )
    inversion: Inversion = Field(
        default_factory=Inversion, description="With prior gmm or gmm_to_normal: latents of the images."
    )
    mixture: TargetMixture = Field(
        default_factory=TargetMixture, description="With prior gmm or gmm_to_normal: the law of latents."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto is bf16 where the device computes in it, else fp32."
    )
    evaluate_every_kimg: Positive = Field(
        6.0, description="KID on the validation images, every so many kimg."
    )
    validation_samples: Annotated[int, Field(ge=16)] = Field(256, description="Samples for that KID.")
    validation_extractor: str = Field("efflite0-128", description="Feature extractor for that KID.")
    scratch: Network = Field(default_factory=Network, description="Network of the scratch run.")


class Evaluate(Section):
    """The final scores, on test images."""

    extractor: str = Field(
        "efflite0", description="efflite0, efflite0-128, inception, onnx:PATH or torchscript:PATH."
    )
    samples: Annotated[int, Field(ge=16)] = Field(1000, description="Images sampled from each model.")
    max_test_images: Annotated[int, Field(ge=16)] = Field(5000, description="Most test images used.")
    neighbours: Count = Field(5, description="k of density and coverage.")
    recall_neighbours: Count = Field(3, description="k of precision and recall.")
    truncation_psi: Fraction = Field(1.0, description="Truncation; 1 is none, the honest setting.")
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(0.95, description="Level of the intervals.")
    seed: int = Field(0, ge=0, description="Seed of the samples.")


class Report(Section):
    """The HTML report."""

    title: str = Field("GraftGAN report", description="Heading of the report.")
    grid: Annotated[int, Field(ge=2, le=12)] = Field(8, description="Columns of the sample sheets.")


class Gate(Section):
    """When the new model takes the champion's place."""

    mode: Literal["off", "dry-run", "enforce"] = Field("enforce", description="off always promotes.")
    min_gain: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="KID the new model must gain at least, beyond the interval."
    )


class Registry(Section):
    """The model registry."""

    name: str = Field("graftgan", description="Registered model name.", pattern=r"^[A-Za-z0-9][\w.-]*$")
    gate: Gate = Field(default_factory=Gate, description="Champion gate.")


class Track(Section):
    """Where runs are logged. Never affects results."""

    mode: Literal["off", "journal", "live"] = Field("live", description="journal writes now and syncs later.")
    uri: str = Field("sqlite:///.graftgan/mlflow.db", description="MLflow tracking and registry URI.")
    artifacts: str = Field(".graftgan/mlartifacts", description="Artifact folder of a local store.")
    experiment: str = Field("graftgan", description="MLflow experiment.")
    timeout_s: Positive = Field(4.0, description="Longest wait for the server before runs are journalled.")
    system_metrics: bool = Field(True, description="Log CPU, memory and GPU use.")


class Runtime(Section):
    """How stages run on this machine. Never tracked by DVC."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    inception_weights: str | None = Field(
        None, description="File of the official FID weights; null searches."
    )
    threads: Count = Field(1, description="CPU threads a process; results are exact for equal numbers only.")
    workers: Count = Field(2, description="Processes for independent runs and for decoding.")
    compile: bool = Field(False, description="torch.compile the networks outside the penalty phases.")
    profile: str | None = Field(
        None, description="Folder for a trace and a table of phases of each training; null is none."
    )
    memory_mib: Annotated[float, Field(ge=1.0)] = Field(
        256.0, description="Working memory of a search for neighbours among features, besides the features."
    )
    keep_states: Count = Field(2, description="Training states kept for resuming.")
    save_every_s: Positive = Field(60.0, description="Seconds between training states.")


class Params(Section):
    """All of `params.yaml`."""

    data: Data = Field(default_factory=Data)
    rank: Rank = Field(default_factory=Rank)
    finetune: Finetune = Field(default_factory=Finetune)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    report: Report = Field(default_factory=Report)
    registry: Registry = Field(default_factory=Registry)
    track: Track = Field(default_factory=Track)
    runtime: Runtime = Field(default_factory=Runtime)
