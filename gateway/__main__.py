"""The command line: serve, migrate, schema, import, refresh, simulate."""

import asyncio
import logging
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import click

from gateway import serving
from gateway.api.schema import print_sdl
from gateway.app import open_drivers, opened_database
from gateway.config import Settings, variable
from gateway.errors import GatewayError, StartupError
from gateway.inventory.counts import Progress
from gateway.inventory.importing import import_file
from gateway.inventory.refresh import Inventory
from gateway.inventory.simulating import simulate as simulate_machine
from gateway.store.migrate import migrate as migrate_database


class _Commands(click.Group):
    """Shows what keeps a command from running as one line, with exit code 2."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (StartupError, GatewayError) as error:
            _refuse(str(error))
        except click.UsageError as error:
            _refuse(f"{error.format_message()} (see {error.ctx.command_path if error.ctx else 'gateway'} --help)")


def _refuse(message: str) -> NoReturn:
    click.echo(f"gateway: {' '.join(message.split())}", err=True)
    sys.exit(2)


def _version() -> str:
    try:
        return metadata.version("snapshot-gateway")
    except metadata.PackageNotFoundError:
        return "from a checkout"


def _setting(name: str, help_text: str, type_: Any = str) -> Callable[[Any], Any]:
    option = "--" + name.replace("_", "-")
    return click.option(option, name, type=type_, default=None, help=f"{help_text} [{variable(name)}]")


_database = _setting("database_url", "Where the data is: sqlite:///FILE or postgresql://USER@HOST/NAME.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="gateway")
def main() -> None:
    """Snapshots of virtual machines and cloud instances over GraphQL."""


@main.command()
@_setting("host", "Address to listen on.")
@_setting("port", "Port to listen on; 0 takes a free one.", int)
@_database
@click.option("--demo", is_flag=True, help="Load the demo world if the database has no machines.")
def serve(demo: bool, **overrides: Any) -> None:
    """Serve the API until Ctrl-C or SIGTERM. Migrates the database first."""
    settings = Settings.from_environment(**overrides)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in ("uvicorn", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
    serving.check_loopback(settings.host)
    migrate_database(settings.database_url)
    serving.serve(settings, demo=demo, say=click.echo)


@main.command()
@_database
def migrate(**overrides: Any) -> None:
    """Bring the database to the schema of this version."""
    settings = Settings.from_environment(**overrides)
    before, after = migrate_database(settings.database_url)
    click.echo(f"the database is at {after}" + ("" if before == after else f", was at {before or 'nothing'}"))


@main.command()
def schema() -> None:
    """Print the GraphQL schema."""
    click.echo(print_sdl(), nl=False)


@main.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_database
@_setting("tenant", "Whose machines they become.")
@click.option("--provider", default="manageiq", show_default=True, help="What their `provider` is called.")
def import_(file: Path, provider: str, **overrides: Any) -> None:
    """Import what ManageIQ answers to GET /api/vms?expand=resources,snapshots, or the same for instances.

    May be run again, and while the gateway serves. A bad file changes nothing.
    """
    settings = Settings.from_environment(**overrides)
    migrate_database(settings.database_url)
    counts = import_file(settings.database_url, file, tenant=settings.tenant, provider=provider, report=_show_progress)
    click.echo(str(counts))


def _show_progress(progress: Progress) -> None:
    percent = 100 * progress.bytes_read // max(progress.bytes_total, 1)
    doing = "merging" if progress.merging else f"{percent:3} %"
    click.echo(f"{doing}  {progress.machines:,} machines, {progress.snapshots:,} snapshots", err=True)


@main.command()
@click.argument("provider", required=False)
@_database
def refresh(provider: str | None, **overrides: Any) -> None:
    """Read the machines of PROVIDER, or of every provider, again."""
    settings = Settings.from_environment(**overrides)
    migrate_database(settings.database_url)
    asyncio.run(_refresh(settings, provider))


async def _refresh(settings: Settings, provider: str | None) -> None:
    async with opened_database(settings) as database:
        drivers = await open_drivers(database)
        if provider is not None and provider not in drivers:
            known = ", ".join(sorted(drivers)) or "none"
            raise StartupError(f"there is no provider {provider!r} with a driver; there are: {known}")
        inventory = Inventory(database, drivers, settings)
        for name in [provider] if provider is not None else sorted(drivers):
            click.echo(f"{name}: {await inventory.refresh_provider(name)}")


@main.command()
@click.argument("machine_id")
@click.option("--latency", type=float, metavar="SECONDS", help="How long each piece of work takes from now on.")
@click.option("--fault", metavar="JSON|none", help="What goes wrong from now on; `none` takes the fault away.")
@_database
@_setting("tenant", "Whose machine it is.")
def simulate(machine_id: str, latency: float | None, fault: str | None, **overrides: Any) -> None:
    """Show or set how MACHINE_ID, a machine of a simulated provider such as vm-11, behaves.

    A fault is {"on": create|revert|delete|any|read, "kind": refuse|unavailable|busy|lost|hang, "message": TEXT,
    "times": NUMBER}; without `times` it stays. May be set while the gateway serves.
    """
    settings = Settings.from_environment(**overrides)
    migrate_database(settings.database_url)
    asyncio.run(_simulate(settings, machine_id, latency, fault))


async def _simulate(settings: Settings, machine_id: str, latency: float | None, fault: str | None) -> None:
    async with opened_database(settings) as database:
        behaviour = await simulate_machine(database, settings.tenant, machine_id, latency, fault)
    click.echo(f"{machine_id}: {behaviour}")


if __name__ == "__main__":
    main()
