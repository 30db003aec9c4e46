"""gateway: what a Kubernetes namespace needs once, before the first release."""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from headgate.cli.output import say
from headgate.errors import BadInputError
from headgate.home import Home
from headgate.release_file import load_release


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("release.yaml"))
@click.option("--apply", "is_applied", is_flag=True, help="Make it in the cluster, and wait until it is ready.")
@click.option("--replicas", type=click.IntRange(1), default=2, show_default=True, help="Pods with an Envoy each.")
@click.option(
    "--image", default="", help="That was made before; by default it is made, and pushed to image.repository."
)
def gateway(path: Path, is_applied: bool, replicas: int, image: str) -> None:  # noqa: FBT001
    """Print the manifests of the gateway for the namespace that a release file names, or apply them."""
    from deploy_targets.kubernetes import gateway as made
    from deploy_targets.kubernetes.settings import KubernetesSettings
    from images import build_gateway

    spec = load_release(path)
    settings = spec.target
    if not isinstance(settings, KubernetesSettings):
        raise BadInputError(
            f"target.kind is {settings.kind}, and only kubernetes has a gateway in a cluster",
            fix="name a release file for Kubernetes",
        )
    if not image:
        say("making the gateway's image")
        image = build_gateway(Home.from_env().ensure(), spec.image)
    if not is_applied:
        click.echo(yaml.safe_dump_all(made.manifests(settings, image, replicas), sort_keys=False), nl=False)
        return
    made.install(settings, image, replicas)
    say(
        f"the gateway of {settings.namespace} is ready: {settings.url or made.address(settings)}/<endpoint>/invocations"
    )
