"""scan."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click

from headgate.cli.environment import use_stack
from headgate.cli.files import is_folder
from headgate.cli.output import json_option, print_json, say
from headgate.errors import UnsafeArtifactError


@click.command()
@click.argument("model")
@click.option("--allow", multiple=True, help="As image.allow: my_package.Class, or file:NAME; may be repeated.")
@click.option("--refuse-code", is_flag=True, help="As image.code: refused: no program of the author's own.")
@json_option
def scan(model: str, allow: tuple[str, ...], refuse_code: bool, as_json: bool) -> None:  # noqa: FBT001
    """Look for code in the files of MODEL, as a release does: a folder, runs:/…, models:/…, or an image of ours.

    Nothing of the model is loaded. Exits with another code than 0 where a release would be refused.
    """
    from images import model_in_image, scan_artifact
    from images.artifact import IN_MLFLOW, download

    if model.startswith(IN_MLFLOW):
        home = use_stack(required=False, prefect=False)
        from tasks.job import tracking_uri

        # Without a server MLflow would make a database of its own in the current folder, and look there.
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(home)
    with tempfile.TemporaryDirectory(prefix="headgate-scan-") as folder:
        if is_folder(model):
            path = Path(model)
        elif ":/" in model:
            path = download(model, Path(folder))
        else:
            path = model_in_image(model, Path(folder))
        try:
            notes = scan_artifact(path, "block", allow=allow, code="refused" if refuse_code else "trusted")
        except UnsafeArtifactError as error:
            if not as_json:
                raise
            print_json({"passes": False, "problem": error.message, "fix": error.fix, "notes": []})
            sys.exit(error.exit_code)
    if as_json:
        print_json({"passes": True, "notes": notes})
        return
    for note in notes:
        say(f"note: {note}")
    click.echo(f"{model}: nothing runs when it is loaded that is not known" + (", but for the notes" if notes else ""))
