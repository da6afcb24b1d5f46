"""`qmoe app`: open the dashboard."""

from __future__ import annotations

import os
import sys

import click

from qmoe_core.cli.common import Arguments, command, needs
from qmoe_core.errors import ConfigError


@command("app", help="open the dashboard", example="qmoe app --port 8600")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="TCP port")
@click.option("--address", default="localhost", help="where to listen (default: this machine only)")
@click.option(
    "--scheduler",
    "schedulers",
    multiple=True,
    metavar="ADDRESS",
    help="a Dask scheduler that the Train page offers; may be repeated (or $QMOE_SCHEDULERS)",
)
@click.option(
    "--host",
    multiple=True,
    metavar="NAME",
    help="a name by which browsers reach the lab, such as lab.example.org; may be repeated",
)
@click.option(
    "--public",
    is_flag=True,
    help="for visitors: no microphone of this machine, no folders, bounded jobs and uploads, each on "
    "their own; it still listens to this machine only: give --address, or put a proxy before it",
)
@click.option("--no-browser", is_flag=True, help="do not open a browser")
def app(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.runtime import system
    from qmoe_core.runtime.store import Store

    needs("streamlit")
    bundles.load()  # a damaged install says so here, not in a browser
    store = Store()  # and so does a bucket for which a package is missing
    if store.remote and arguments.public:
        raise ConfigError(
            f"--public: the store {store.address} is a bucket, in which visitors cannot be kept apart; "
            "set QMOE_STORE to a folder"
        )
    if arguments.schedulers:
        from qmoe_core.runtime import dask_cluster

        for address in arguments.schedulers:
            dask_cluster.check_address(address)
        os.environ["QMOE_SCHEDULERS"] = " ".join(arguments.schedulers)
    command = [
        sys.executable,
        "-m",
        "dashboard.launch",
        "--server.port",
        str(arguments.port),
        "--server.address",
        arguments.address,
        "--server.headless",
        "true" if arguments.no_browser else "false",
        *(part for name in arguments.host for part in ("--host", name)),
        *(["--public"] if arguments.public else []),
    ]
    if not arguments.public and arguments.address not in ("localhost", "127.0.0.1", "::1"):
        print(
            f"qmoe: whoever reaches {arguments.address} can use this machine’s microphone and read its "
            "folders of sounds; with --public they cannot",
            file=sys.stderr,
        )
    os.chdir(bundles.shipped().parent)  # where dashboard/ and .streamlit/config.toml lie
    return system.become(command)
