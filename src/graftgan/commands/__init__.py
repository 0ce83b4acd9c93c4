"""Commands beside the stages: a new one is a file here and a line in `LATER`; imports wait until it runs."""

from __future__ import annotations

from graftgan.commands.base import Later

LATER = (
    Later(
        "adapter",
        "adapter:adapter_group",
        "Adapters: what a run added to its source, as a small file of its own.",
    ),
    Later(
        "classes",
        "classes:classes_group",
        "Classes of a conditional source: which are collapsed, narrow or alike.",
    ),
    Later("config", "config:config_group", "Show, check and explain the parameters."),
    Later(
        "lifelong",
        "lifelong:lifelong_group",
        "Learn a list of image-to-image tasks one after another into one bank.",
    ),
    Later("source", "source:source_group", "Source checkpoints: the catalogue, and files of other projects."),
    Later(
        "store",
        "store:store_group",
        "Files in an object store: s3://bucket/key, with keys and address from the environment.",
    ),
    Later("study", "study:study_group", "Study why a source helps and how to choose one."),
    Later("tasks", "tasks:tasks_group", "Image-to-image tasks that share filters in a bank."),
    Later(
        "versions",
        "registry:versions_command",
        "List the versions of a registered MODEL with aliases, package digest and reason.",
    ),
    Later(
        "promote",
        "registry:promote_command",
        "Move an alias of the registered MODEL to VERSION, a number or another alias.",
    ),
    Later(
        "rollback",
        "registry:rollback_command",
        "Give the alias champion of the registered MODEL back to the version that bore it before.",
    ),
    Later(
        "compare",
        "registry:compare_command",
        "Compare two versions of the registered MODEL, each a number or an alias: origin and scores.",
    ),
    Later(
        "gallery",
        "registry:gallery_command",
        "Write one HTML page of pictures of MODEL: a package folder, or NAME@ALIAS or NAME/VERSION.",
    ),
    Later(
        "serve", "registry:serve_command", "Serve MODEL over HTTP: a package folder, or models:/NAME@ALIAS."
    ),
)
