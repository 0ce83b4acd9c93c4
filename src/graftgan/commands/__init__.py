"""Groups of commands: a new one is a file here and a name in `GROUPS`. What one needs it imports when run."""

from __future__ import annotations

from graftgan.commands.adapter import adapter_group
from graftgan.commands.classes import classes_group
from graftgan.commands.config import config_group
from graftgan.commands.lifelong import lifelong_group
from graftgan.commands.registry import COMMANDS
from graftgan.commands.source import source_group
from graftgan.commands.store import store_group
from graftgan.commands.study import study_group
from graftgan.commands.tasks import tasks_group

GROUPS = (
    adapter_group,
    classes_group,
    config_group,
    lifelong_group,
    source_group,
    store_group,
    study_group,
    tasks_group,
    *COMMANDS,
)
