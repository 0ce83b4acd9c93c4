"""Serves a model over HTTP: MLflow's model server with a guard before it."""

from __future__ import annotations

from pathlib import Path

import mlflow
import uvicorn
from mlflow.pyfunc import scoring_server

from graftgan.config import Track
from graftgan.connections import PunctualProtocol
from graftgan.errors import ConfigError
from graftgan.guard import Guard
from graftgan.packages import FACTS
from graftgan.registry_answers import MODELS, fetching, split
from graftgan.serving_limits import timeout_s
from graftgan.tracking import Connection, save_pyfunc

MAX_CONNECTIONS = 64
KEEP_ALIVE_S = 5


def serve(model: str, track: Track, host: str, port: int) -> None:
    """Serve until a signal ends it.

    Args:
        model: A package folder, an MLflow model folder, or `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        track: Where the registry is.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        CheckpointError: If the registry's answers lead to files that are not its own.
        ConfigError: If the model is of no such kind, the registry has none of the name, or the limit of a
            request's time cannot be used.
        TryAgain: If the registry does not answer.
    """
    # The code stored with a model may be older, and ask in every request only.
    timeout_s()
    with fetching() as scratch:
        app = scoring_server.init(mlflow.pyfunc.load_model(_place(model, track, scratch)))
        uvicorn.run(
            Guard(app),
            host=host,
            port=port,
            # Neither is there anything to upgrade to, nor would its connections count.
            ws="none",
            http=PunctualProtocol,
            log_level="warning",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
        )


def _place(model: str, track: Track, scratch: Path) -> str:
    """Return the folder of the MLflow model."""
    if model.startswith(MODELS):
        return _fetched(model, track, scratch)
    folder = Path(model)
    if (folder / "MLmodel").is_file():
        return model
    if (folder / FACTS).is_file():
        save_pyfunc(folder, scratch / "model")
        return str(scratch / "model")
    raise ConfigError(
        f"{model} is no package and no MLflow model",
        "give out/register/package, or a registered model as models:/NAME@ALIAS",
    )


def _fetched(model: str, track: Track, scratch: Path) -> str:
    from graftgan.registry import MlflowRegistry
    from graftgan.versions import named

    # Before a server that may be away is waited for.
    split(model)
    registry = MlflowRegistry(Connection(track), run=str)
    return str(registry.download_model(named(registry, model), scratch))
