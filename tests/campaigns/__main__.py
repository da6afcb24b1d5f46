"""The campaigns, as commands: `python -m tests.campaigns NAME` (see SECURITY.md and the README's table)."""

from __future__ import annotations

import argparse
import sys

from tests.campaigns import arm, batch, cluster, disk, fuzz, hostile, kill, sessions, takes

CAMPAIGNS = {
    "fuzz": fuzz,
    "kill": kill,
    "disk": disk,
    "batch": batch,
    "sessions": sessions,
    "hostile": hostile,
    "cluster": cluster,
    "arm": arm,
    "takes": takes,
}


def main() -> int:
    """Run the campaign that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns")
    names = parser.add_subparsers(required=True, dest="name")
    for name, module in CAMPAIGNS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        module.add_arguments(names.add_parser(name, help=summary, description=summary))
    chosen = parser.parse_args()
    return CAMPAIGNS[chosen.name].main(chosen)


if __name__ == "__main__":
    sys.exit(main())
