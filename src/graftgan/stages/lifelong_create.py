"""The first stage of a list of tasks: makes the banks, without tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graftgan.bank.store import Bank
from graftgan.context import Context
from graftgan.contract import Outcome, write_json
from graftgan.gans.translation import TranslatorSpec
from graftgan.lifelong_config import BankOptions, LifelongParams
from graftgan.stages.lifelong_files import drop_locks
from graftgan.stages.lifelong_specs import BACK, BANK, TASKS


def run(
    inputs: Mapping[str, Path], params: LifelongParams, outputs: Mapping[str, Path], ctx: Context
) -> Outcome:
    """Make an empty bank, one for ways back, and an empty table of scores.

    Raises:
        ConfigError: `bank.share` does not fit the layers of the generator.
    """
    spec = translator(params.bank)
    for name in (BANK, BACK):
        Bank.create(outputs["learnt"] / name, spec, params.bank.share)
    (outputs["learnt"] / TASKS).mkdir()
    drop_locks(outputs["learnt"])
    write_json(outputs["scores"], {"rows": []})
    return Outcome()


def translator(chosen: BankOptions) -> TranslatorSpec:
    """Return the generator of all tasks of a bank."""
    return TranslatorSpec(kind=chosen.generator, ngf=chosen.ngf, norm=chosen.norm, dropout=chosen.dropout)
