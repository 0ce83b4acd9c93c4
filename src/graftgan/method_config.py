"""Sections of `finetune` that one method, prior or penalty reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from graftgan.section import Count, Fraction, Positive, Section

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class CrossDomainCorrespondence(Section):
    """Penalty and method cdc: images stay as alike as in the source, and few of them are judged whole."""

    weight: Annotated[float, Field(ge=0.0)] = Field(1000.0, description="Weight, the published code's.")
    batch: Annotated[int, Field(ge=3)] = Field(4, description="Latents that are compared, at each step.")
    layers: Count | None = Field(
        None, description="Convolutions of G that are compared, from the latent on; null is all."
    )
    patches: bool = Field(
        True,
        description="With method cdc: D judges fakes away from anchors by patches; false is the penalty.",
    )
    anchors: Count = Field(10, description="With patches: latents near which whole images are judged.")
    anchor_noise: Annotated[float, Field(ge=0.0)] = Field(
        0.05, description="With patches: deviation of latents around an anchor."
    )
    patch_px: tuple[Count, Count] | None = Field(
        None, description="With patches: least and largest side of a patch; null is 1/12 to 1/4 of the image."
    )


class MineGAN(Section):
    """Method minegan: the small network in front of G."""

    layers: Count = Field(2, description="Linear layers of the miner.")
    width: Count | None = Field(None, description="Units of its inner layers; null is the latent's length.")
    joint_from: Fraction | None = Field(
        0.5, description="Share of the budget after which G moves too; null is never, 0 from the start."
    )


class BatchStatisticsAdaptation(Section):
    """Method bsa: what stands beside the pixels in its loss, and how the result is sampled."""

    feature_weight: Annotated[float, Field(ge=0.0)] = Field(
        0.1, description="Weight of the distances of D's features, each layer's relative to its size."
    )
    latent_weight: Annotated[float, Field(ge=0.0)] = Field(
        0.1, description="Weight of matching the images' latents with normal ones."
    )
    scale_weight: Annotated[float, Field(ge=0.0)] = Field(
        0.02, description="Weight of the scales' and shifts' squared change."
    )
    lr: Positive = Field(0.03, description="Adam learning rate of scales, shifts and latents.")
    noise: Annotated[float, Field(ge=0.0)] = Field(
        0.01, description="Deviation of the noise on latents, at each step."
    )
    truncation: Positive = Field(
        0.3, description="Normal latents are cut off at this value when the model is sampled."
    )


class FilterTransfer(Section):
    """Methods filter_transfer and adafm: what stands in front of G's low-level blocks."""

    head: Literal["source", "small"] = Field(
        "source",
        description="source trains its high-level blocks on; small puts a fresh, smaller head there.",
    )
    head_grad_gain: Positive = Field(
        0.01, description="With head small: factor on gradients that reach it from the fixed blocks."
    )
    head_z_dim: Count | None = Field(
        None, description="With head small: latent size, 4 for few images; null is the source's."
    )
    calibration_samples: Annotated[int, Field(ge=2)] = Field(
        1000, description="With head small: source images that means and deviations at the cut are over."
    )


class AdaFM(Section):
    """Method adafm: when scales and shifts begin to move."""

    start_kimg: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Scales and shifts rest until so many thousand images were shown to D."
    )


class Compression(Section):
    """Method gan_memory: scales and shifts of large layers as few components, which later tasks build on."""

    enabled: bool = Field(False, description="Matrices of the large layers become sums of few components.")
    weight: Annotated[float, Field(ge=0.0)] = Field(
        0.01, description="Weight of the sum of singular values, the small ones counting up to ten times."
    )
    every: Count = Field(10, description="That term is added at every so many G steps.")
    keep: tuple[Share, Share, Share, Share, Share] = Field(
        (1.0, 1.0, 0.95, 0.9, 0.8),
        description="Share of the singular values that is kept in layers of up to 64, 128, 256, 512 and more "
        "filters; 1 leaves a layer whole.",
    )
    components: Count | None = Field(
        None, description="Most new components of a matrix; null is as many as `keep` asks for."
    )
    up_to_px: Count | None = Field(
        None, description="Blocks of G up to this size are compressed; null is an eighth of the image side."
    )
    earlier: tuple[str, ...] = Field(
        (), description="Compressed adapter files of the tasks before, in their order, to build on."
    )


class GanMemory(Section):
    """Method gan_memory: what is modulated."""

    modulate_d: bool = Field(
        True, description="D is modulated like G, and its head moves; false moves all of a plain D."
    )
    normalise: bool = Field(
        True, description="Filters are brought to mean 0 and deviation 1 before they are modulated."
    )
    classes: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Classes of the images, each with a bias of its own in a residual GAN; null is none.",
    )
    compress: Compression = Field(
        default_factory=Compression, description="Smaller adapters that build on those of earlier tasks."
    )


class Inversion(Section):
    """How the latents of the target images are found, for a prior other than normal."""

    epochs: Count = Field(2000, description="Adam steps that each image's latent makes.")
    lr: Positive = Field(0.005, description="Learning rate; a high one leaves where latents usually lie.")
    drop_at: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.75, description="Share of the epochs after which the rate is a tenth."
    )
    batch: Count = Field(32, description="Images at a time; it does not change the latents.")
    ridge: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Weight of |z|^2 / z_dim beside the squared error; not in the paper."
    )
    learn_class: bool = Field(False, description="The class embedding of a source with classes moves too.")


class TargetMixture(Section):
    """The mixture of Gaussians that is fitted to those latents, and its way to the normal law."""

    components: Count | None = Field(
        None, description="Gaussians; null is 3 for up to 25 training images and 5 for more."
    )
    schedule: Literal["linear", "cosine", "constant_step"] = Field(
        "linear",
        description="With prior gmm_to_normal: lambda over the run; constant_step moves the law evenly.",
    )
    reach: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="With prior gmm_to_normal: share of the budget at which the law is normal."
    )


class ClassEmbedding(Section):
    """Method class_embedding: which rows of the source's class table move, and by which loss."""

    use: Literal["repair", "repurpose", "debias"] = Field(
        "repurpose",
        description="repair a collapsed class, debias a narrow one, or repurpose the source for new classes.",
    )
    classes: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="With repair and debias: ids of the source's classes whose rows move."
    )
    objective: Literal["classifier", "probe", "discriminator", "mmd", "inversion", "realism"] = Field(
        "mmd", description="What is optimised; all but classifier need no classifier file."
    )
    classifier: str | None = Field(
        None, description="With objective classifier: torchscript:PATH?px=N, from images to class logits."
    )
    classifier_classes: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="Its output for each class that moves; empty takes `classes`."
    )
    features: str = Field(
        "efflite0-128", description="Network of features: efflite0, efflite0-128 or torchscript:PATH?px=N."
    )
    diversity: Literal["softmax", "features", "pixelwise"] = Field(
        "features", description="What two images are compared by, for the diversity term."
    )
    alpha: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="Weight of the diversity term; null is a preset of use and objective."
    )
    init: tuple[Literal["mean", "top", "random", "target"], ...] = Field(
        (), description="Where starts begin, taken in turn; empty is a preset of use."
    )
    noise: Annotated[float, Field(ge=0.0)] = Field(
        0.1, description="Deviation of what is added to mean and target."
    )
    starts: Count = Field(3, description="Restarts, which share the budget evenly.")
    steps_per_latents: Count = Field(20, description="Steps on the same latents.")
    lr: Positive | None = Field(None, description="Adam learning rate of a row; null is a preset of use.")
    weight_decay: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="Added to the gradient, times the row; null is a preset of use and objective."
    )
    clip: bool = Field(True, description="Rows stay between the least and the largest value of the table.")
    report_samples: Annotated[int, Field(ge=8)] = Field(
        128, description="Images a class for the report before and after."
    )
    judge: str = Field(
        "efflite0",
        description="Feature extractor of that report; best another than `features`, which are optimised.",
    )
    judge_classifier: str | None = Field(
        None,
        description="Classifier of that report: torchscript:PATH?px=N or onnx:PATH; null is `classifier`.",
    )


class TargetClass(Section):
    """What the classes of a run start as where they are not those of a source with classes."""

    rows: Literal["mean", "nearest", "soft"] = Field(
        "mean",
        description="mean of all the source's, those nearest to the images, or all by their probabilities.",
    )
    classifier: str | None = Field(
        None,
        description="torchscript:PATH?px=N or onnx:PATH, to logits of the source's classes; null is none.",
    )
    samples: Annotated[int, Field(ge=2)] = Field(
        16, description="Without a classifier: samples of each of the source's classes to compare with."
    )
