"""Class-embedding tuning (Li, Mai, Alcorn, Nguyen, ACCV 2020): one vector a class moves, all else stays.

The images come from the source's averaged generator in evaluation mode, whose weights are never touched; the
vectors that are found go into the class tables of both generators. Restarts follow each other inside one run,
each on the same latents, and the looks of the run choose among them as among other checkpoints: the row that
the run begins with is the first of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graftgan.config import Finetune
from graftgan.device import send
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, draw_latents
from graftgan.gans.class_table import PLACES, class_table, generate, take_classes, write_row
from graftgan.training.loop import total_images
from graftgan.transfer.base import Method
from graftgan.transfer.class_game import NewClass
from graftgan.transfer.class_goals import make_objective, targets_of
from graftgan.transfer.class_objectives import Classifier, Objective, Reconstruction, diversity, random_pairs
from graftgan.transfer.class_settings import Preset, preset, refuse, table_place
from graftgan.transfer.direct import DirectTrainer, Task

TOP_SAMPLES = 10
LATENT_RIDGE = 0.01
LATENT_RATE = 0.05
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Turn:
    """Whose step it is.

    Attributes:
        start: Which restart.
        target: Which class, as a place among the targets.
        step: Steps that this pair has made.
    """

    start: int
    target: int
    step: int


class ClassTuner(DirectTrainer):
    """Moves the vectors of some classes by Adam.

    Args:
        task: `gan` has a row for every class to tune, `source` the whole table.

    Raises:
        ConfigError: The source has no class table, the settings do not suit it, or there are fewer steps than
            starts.
        DataError: A class to tune has no images, and the objective needs some.
    """

    def __init__(self, task: Task) -> None:
        self.section = task.settings.class_embedding
        self.preset: Preset = preset(self.section)
        self.source = (task.source or task.gan).to(task.device)
        for network in (self.source.generator_ema, self.source.discriminator):
            network.eval().requires_grad_(False)
        # Of the source as it is, before rows are written where both share their networks.
        self.table = class_table(self.source.generator_ema)
        self.low, self.high = float(self.table.min()), float(self.table.max())
        self.targets = targets_of(task)
        self.objectives = [make_objective(task, self.source, target) for target in self.targets]
        self.vectors = self._first_vectors(task)
        self.codes = self._first_codes(task)
        self.rows = self._first_rows()
        rate, decay = self.preset.lr, self.preset.weight_decay
        groups: list[dict[str, Any]] = [{"params": self.vectors, "lr": rate, "weight_decay": decay}]
        if self.codes:
            groups.append({"params": self.codes, "lr": LATENT_RATE, "weight_decay": 0.0})
        if self.rows:
            groups.append({"params": self.rows, "lr": task.settings.lr_discriminator, "weight_decay": 0.0})
        super().__init__(task, groups)
        batch = task.settings.batch
        steps = total_images(task.settings.budget, len(task.images), batch) // batch
        if steps < (wanted := self.section.starts * len(self.targets)):
            raise ConfigError(
                f"finetune.class_embedding.starts={self.section.starts} for {len(self.targets)} rows takes "
                f"{wanted} steps, finetune.budget has {steps}",
                "lower finetune.class_embedding.starts, or raise finetune.budget",
            )
        self.steps_per_start = int(steps // self.section.starts)

    def _first_vectors(self, task: Task) -> list[nn.Parameter]:
        """Return where each start of each target begins; starts of a target stand together."""
        rng = torch.Generator().manual_seed(task.settings.seed)
        found = []
        for target, objective in zip(self.targets, self.objectives, strict=True):
            best = self._best_classes(objective, rng) if "top" in self.preset.init else []
            for start in range(self.section.starts):
                turn, place = divmod(start, len(self.preset.init))
                kind = self.preset.init[place]
                picked = int(torch.randint(len(self.table), (), generator=rng))
                noise = self.section.noise * torch.randn(self.table.shape[1], generator=rng).to(self.table)
                # All are made, so that no start's random numbers depend on how others begin.
                vectors = {
                    "mean": self.table.mean(dim=0) + noise,
                    "random": self.table[picked],
                    "target": self.table[target.source_row or 0] + noise,
                    "top": self.table[best[turn % len(best)]] if best else self.table[0],
                }
                vector = vectors[kind]
                found.append(nn.Parameter(vector.clone()))
        return found

    def _best_classes(self, objective: Objective, rng: torch.Generator) -> list[int]:
        z = draw_latents(self.source.spec, TOP_SAMPLES, rng)[0].to(self.table.device)
        with torch.no_grad():
            losses = [float(objective(self.draw(z, vector))) for vector in self.table]
        return [int(i) for i in np.argsort(losses, kind="stable")]

    def _first_codes(self, task: Task) -> list[nn.Parameter]:
        """Return the latents of given images, for each start of each target; none without inversion."""
        if self.section.objective != "inversion":
            return []
        codes = []
        for objective in self.objectives:
            assert isinstance(objective, Reconstruction)
            rng = torch.Generator().manual_seed(task.settings.seed)
            z = draw_latents(self.source.spec, len(objective.real), rng)[0].to(self.table.device)
            codes += [nn.Parameter(z.clone()) for _ in range(self.section.starts)]
        return codes

    def _first_rows(self) -> list[nn.Parameter]:
        """Return the rows of D's head that learn new classes, for each start of each; else none."""
        games = [objective for objective in self.objectives if isinstance(objective, NewClass)]
        return [nn.Parameter(game.start.clone()) for game in games for _ in range(self.section.starts)]

    def turn(self) -> Turn:
        """Return whose step comes next: targets take turns within a start."""
        start = min(self.step_index // self.steps_per_start, self.section.starts - 1)
        within = self.step_index - start * self.steps_per_start
        return Turn(start, within % len(self.targets), within // len(self.targets))

    def _place(self, turn: Turn) -> int:
        return turn.target * self.section.starts + turn.start

    def clipped(self, vector: Tensor) -> Tensor:
        """Return a vector within the table's range, with no slope where it is cut."""
        return vector.clamp(self.low, self.high) if self.section.clip else vector

    def draw(self, z: Tensor, vector: Tensor) -> Tensor:
        """Return the images of latents with one class vector [D], as it is used: clipped."""
        return generate(self.source.generator_ema, z, self.clipped(vector).expand(len(z), -1))

    def _own_rng(self, salt: int, number: int) -> torch.Generator:
        # Of the step alone and not of the start, so that all starts see the same.
        return torch.Generator().manual_seed(self.settings.seed * SEED_STRIDE + 2 * number + salt)

    def batch_latents(self, step: int) -> Tensor:
        """Return the latents [batch, z_dim] of a start's step, the same for `steps_per_latents` steps."""
        rng = self._own_rng(0, step // self.section.steps_per_latents)
        return send(draw_latents(self.source.spec, self.settings.batch, rng)[0], self.device)

    def loss(self) -> Tensor:
        """Return the objective of the active class less `alpha` times the diversity."""
        turn = self.turn()
        objective, vector = self.objectives[turn.target], self.vectors[self._place(turn)]
        if isinstance(objective, Reconstruction):
            return self._reconstruction(turn, objective, vector)
        z = self.batch_latents(turn.step)
        images = self.draw(z, vector)
        loss = self._played(turn, objective, images) if isinstance(objective, NewClass) else objective(images)
        if not isinstance(objective, NewClass):
            self.meter.add("loss_objective", loss)
        if self.preset.alpha:
            pairs = send(random_pairs(len(z), self._own_rng(1, turn.step)), self.device)
            spread = diversity(self.compared(objective, images), z, pairs)
            self.meter.add("class_diversity", spread)
            loss = loss - self.preset.alpha * spread
        return loss

    def _played(self, turn: Turn, objective: NewClass, images: Tensor) -> Tensor:
        """Return the vector's loss and the row's, each of which moves its own side alone."""
        row = self.rows[self._place(turn)]
        fool, judge = objective.fool(images, row.detach()), objective.judge(images.detach(), row)
        self.meter.add("loss_objective", fool)
        self.meter.add("loss_class_judge", judge)
        return fool + judge

    def compared(self, objective: Objective, images: Tensor) -> Tensor:
        """Return what the diversity term compares images by, [N, ...]."""
        if self.section.diversity == "pixelwise":
            return images
        if self.section.diversity == "softmax":
            assert isinstance(objective, Classifier)
            return objective.logits(images).softmax(dim=1)
        rows: Tensor = self.features(images)
        return rows

    @property
    def features(self) -> Any:
        """The network of features."""
        return self.targets[0].features()

    def _reconstruction(self, turn: Turn, objective: Reconstruction, vector: Tensor) -> Tensor:
        codes = self.codes[self._place(turn)]
        count = min(self.settings.batch, len(codes))
        order = torch.randperm(len(codes), generator=self._own_rng(0, turn.step))
        chosen = send(order[:count], self.device)
        z = codes[chosen]
        loss = objective.of(self.draw(z, vector), chosen)
        self.meter.add("loss_objective", loss)
        return loss + LATENT_RIDGE * z.square().mean()

    def whole(self) -> tuple[Gan, list[int]]:
        """Return a copy of the source with room for the tuned rows, and where each of these belongs."""
        known = list(range(len(self.table)))
        rows = [
            len(known) + place_ if target.source_row is None else target.source_row
            for place_, target in enumerate(self.targets)
        ]
        return take_classes(self.source, known + [0] * sum(row >= len(known) for row in rows)), rows

    def after_step(self) -> None:
        """Write the rows that the step's start has reached into both tables; no average is taken."""
        start = min((self.step_index - 1) // self.steps_per_start, self.section.starts - 1)
        for place_, target in enumerate(self.targets):
            vector = self.clipped(self.vectors[place_ * self.section.starts + start].detach())
            for network in (self.gan.generator, self.gan.generator_ema):
                write_row(network, target.row, vector)

    def part_done(self) -> bool:
        """Tell whether a start but the last ended with this step: the next one replaces its rows."""
        done, rest = divmod(self.step_index, self.steps_per_start)
        return rest == 0 and 0 < done < self.section.starts

    def set_rate(self, share_done: float) -> None:
        """Set the learning rates, with a cooldown at the end of each start."""
        within = self.step_index - self.turn().start * self.steps_per_start
        super().set_rate(within / self.steps_per_start)

    def _own(self) -> tuple[nn.Parameter, ...]:
        return (*self.vectors, *self.codes, *self.rows)

    def own_state(self) -> dict[str, Any]:
        """Return the vectors, and the latents or rows if there are any."""
        return {"moving": [p.detach().clone() for p in self._own()]}

    @torch.no_grad()
    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go back to saved vectors."""
        for parameter, saved in zip(self._own(), state["moving"], strict=True):
            parameter.copy_(saved)


def table_name(gan: Gan, settings: Finetune) -> set[str]:
    """Return the name of the table that rows move in."""
    return {table_place(gan.generator).name}


METHOD = Method(
    name="class_embedding",
    help="Rows of the class table alone move, without D: repair, repurpose, debias (Li et al. 2020).",
    trainable_generator=table_name,
    trainable_discriminator=lambda gan, settings: set(),
    check=refuse,
    families=tuple(PLACES),
    direct=ClassTuner,
)
