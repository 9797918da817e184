"""The command line: serve, migrate, schema, import, refresh, provider, simulate."""

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
from gateway.app import opened_database, opened_drivers
from gateway.config import Settings, variable
from gateway.errors import GatewayError, StartupError
from gateway.inventory.counts import Progress
from gateway.inventory.examining import check_provider
from gateway.inventory.importing import import_file
from gateway.inventory.refresh import Inventory
from gateway.inventory.simulating import simulate as simulate_machine
from gateway.providers import SIMULATED, known, read_providers
from gateway.store.migrate import migrate as migrate_database


class _Commands(click.Group):
    """Shows what keeps a command from running, a line per fault, with exit code 2."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except StartupError as error:
            _refuse(*error.faults)
        except GatewayError as error:
            _refuse(error.message)
        except click.UsageError as error:
            _refuse(f"{error.format_message()} (see {error.ctx.command_path if error.ctx else 'gateway'} --help)")


def _refuse(*messages: str) -> NoReturn:
    for message in messages:
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


_providers = _setting("providers_file", "TOML file that names the providers.")
_database = _setting("database_url", "Where the data is: sqlite:///FILE or postgresql://USER@HOST/NAME.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="gateway")
def main() -> None:
    """Snapshots of virtual machines and cloud instances over GraphQL."""


@main.command()
@_setting("host", "Address to listen on.")
@_setting("port", "Port to listen on; 0 takes a free one.", int)
@_database
@_providers
@_setting("images", "A folder of qcow2 images to serve as a provider.")
@click.option("--demo", is_flag=True, help="Load the demo world if the database has no machines.")
def serve(demo: bool, **overrides: Any) -> None:
    """Serve the API until Ctrl-C or SIGTERM. Migrates the database first."""
    settings = Settings.from_environment(**overrides)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    # What libraries tell for debugging holds whole requests, with what they authenticate by.
    logging.basicConfig(level=max(level, logging.INFO), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("gateway").setLevel(level)
    for library in ("uvicorn", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
    serving.check_loopback(settings.host)
    read_providers(settings)  # a mistake there is told before the database is touched
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
@_providers
def refresh(provider: str | None, **overrides: Any) -> None:
    """Read the machines of PROVIDER, or of every provider, again."""
    settings = Settings.from_environment(**overrides)
    migrate_database(settings.database_url)
    asyncio.run(_refresh(settings, provider))


async def _refresh(settings: Settings, provider: str | None) -> None:
    providers = read_providers(settings)
    async with opened_database(settings) as database, opened_drivers(database, providers) as drivers:
        if provider is not None and provider not in drivers:
            raise StartupError(f"there is no provider {provider!r} with a driver; there are: {known(drivers)}")
        inventory = Inventory(database, drivers, settings)
        for name in [provider] if provider is not None else sorted(drivers):
            click.echo(f"{name}: {await inventory.refresh_provider(name)}")


@main.group()
def provider() -> None:
    """Look at the configured providers."""


@provider.command("list")
@_providers
def provider_list(**overrides: Any) -> None:
    """Check the configuration and list what it names."""
    for configured in read_providers(Settings.from_environment(**overrides)):
        click.echo(f"{configured.name}: driver {configured.driver}, tenant {configured.tenant}")


@provider.command("check")
@click.argument("name")
@_providers
def provider_check(name: str, **overrides: Any) -> None:
    """Talk to the provider NAME and tell what works. Changes nothing. Exit code 1 when something does not work."""
    providers = {configured.name: configured for configured in read_providers(Settings.from_environment(**overrides))}
    if name not in providers:
        raise StartupError(f"no provider {name!r} is configured; there are: {known(providers)}")
    if providers[name].driver == SIMULATED:
        raise StartupError(f"provider {name!r} is simulated: there is nothing to talk to")
    logging.basicConfig(level=logging.CRITICAL)  # what a client library complains of is told better here
    sys.exit(0 if asyncio.run(check_provider(providers[name].make(), click.echo)) else 1)


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
