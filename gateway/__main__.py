"""The command line: serve, migrate, schema, import, refresh, provider, token, simulate."""

import asyncio
import logging
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import click

from gateway.access.issuer import read_issuer
from gateway.access.lifetimes import parse_lifetime
from gateway.access.roles import Roles
from gateway.access.tokens import list_tokens
from gateway.app import opened_database, opened_drivers
from gateway.config import Settings, variable
from gateway.drivers.simulator.behavior import simulate as simulate_machine
from gateway.errors import GatewayError, StartupError
from gateway.graphql.schema.build import print_sdl
from gateway.inventory.counts import Progress
from gateway.inventory.imports.run import import_file
from gateway.inventory.provider_check import check_provider
from gateway.inventory.provider_configuration import SIMULATED, known, read_providers
from gateway.inventory.refresh import Inventory
from gateway.operations.api_tokens import give_token, take_token
from gateway.server import http_server
from gateway.server.supervisor import supervise
from gateway.store.migrate import migrate as migrate_database
from gateway.telemetry import logs


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
@_setting("workers", "Processes that serve, on one socket.", int)
@_setting("images", "A folder of qcow2 images to serve as a provider.")
@click.option("--demo", is_flag=True, help="Load the demo world if the database has no machines.")
def serve(demo: bool, **overrides: Any) -> None:
    """Serve the API until Ctrl-C or SIGTERM. Migrates the database first."""
    settings = Settings.from_environment(**overrides)
    logs.configure(settings)
    # Mistakes there are told before the database is touched.
    read_providers(settings)
    read_issuer(settings, Roles.read(settings.roles))
    migrate_database(settings.database_url)
    if settings.workers == 1:
        http_server.serve(settings, demo=demo, say=click.echo)
    else:
        sys.exit(supervise(settings, demo=demo, say=click.echo))


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


@main.group()
def token() -> None:
    """Give out, list and revoke API tokens: who may come in."""


@token.command("create")
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, help="What it may do; give several for all of them.")
@click.option("--expires", default="90d", show_default=True, metavar="90d|12h|never", help="When it ends.")
@_database
@_setting("tenant", "Whose machines it may see.")
def token_create(name: str, roles: tuple[str, ...], expires: str, **overrides: Any) -> None:
    """Make a token called NAME and print it, once: nobody can find it out again."""
    settings = Settings.from_environment(**overrides)
    lifetime = parse_lifetime(expires)
    migrate_database(settings.database_url)

    async def create() -> str:
        async with opened_database(settings) as database:
            return await give_token(database, Roles.read(settings.roles), name, roles, settings.tenant, lifetime)

    click.echo(asyncio.run(create()))


@token.command("list")
@_database
def token_list(**overrides: Any) -> None:
    """Show all tokens that there have been, but not what would let anybody in."""
    settings = Settings.from_environment(**overrides)
    migrate_database(settings.database_url)

    async def read() -> list[str]:
        async with opened_database(settings) as database:
            return [str(known) for known in await list_tokens(database)]

    for line in asyncio.run(read()):
        click.echo(line)


@token.command("revoke")
@click.argument("name")
@_database
def token_revoke(name: str, **overrides: Any) -> None:
    """End the token NAME, and what was begun with it."""
    settings = Settings.from_environment(**overrides)
    migrate_database(settings.database_url)

    async def revoke() -> None:
        async with opened_database(settings) as database:
            await take_token(database, name)

    asyncio.run(revoke())
    click.echo(f"{name}: revoked; gateways that run refuse it within {settings.credentials_trusted:g} seconds")


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
