"""The command line: `gateway serve`, `migrate`, `schema`, `import`, `refresh`, `provider`, `token` and `simulate`."""

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from gateway.access.issuer import read_jwt_verifier
from gateway.access.roles import Roles
from gateway.access.tokens import NewToken, TokenInfo, list_tokens, parse_lifetime
from gateway.app import opened_database, opened_drivers
from gateway.columns import MAX_NAME_LENGTH, is_name
from gateway.config import Settings, environment_value, environment_variable, unknown_variables
from gateway.drivers.simulator.behavior import simulate as simulate_machine
from gateway.errors import GatewayError, StartupError
from gateway.graphql.schema.build import print_sdl
from gateway.inventory.counts import ImportProgress
from gateway.inventory.imports.importer import import_files
from gateway.inventory.provider_check import check_provider
from gateway.inventory.provider_configuration import SIMULATED, provider_names, read_providers, secret_variables
from gateway.inventory.refresh import InventoryRefresher
from gateway.operations.api_tokens import create_audited_token, revoke_audited_token
from gateway.server import http_server
from gateway.server.supervisor import supervise
from gateway.store.migrate import migrate as migrate_database
from gateway.telemetry import logs
from gateway.version import VERSION

log = logging.getLogger(__name__)

_IMPORTED_WITH_PROBLEMS = 3  # exit code


class _Commands(click.Group):
    """Prints the errors that prevent a command from running to standard error, one per line, and exits with code 2.

    `--help` shows the whole first sentence of each command, which click would cut off in a narrow terminal.
    """

    group_class = type  # the class of its groups

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=1_000)) for name, command in commands if command is not None]
            )

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except StartupError as error:
            _exit_with(*error.problems)
        except GatewayError as error:
            _exit_with(error.message)
        except click.UsageError as error:
            _exit_with(f"{error.format_message()} (see {error.ctx.command_path if error.ctx else 'gateway'} --help)")


def _exit_with(*messages: str) -> NoReturn:
    logs.report_problems(messages)
    sys.exit(2)


def _setting_option(name: str, help_text: str, type_: Any = str) -> Callable[[Any], Any]:
    """Return the decorator that adds an option which overrides the setting `name`."""
    option = "--" + name.replace("_", "-")
    return click.option(option, name, type=type_, default=None, help=f"{help_text} [{environment_variable(name)}]")


_providers = _setting_option("providers_file", "TOML file that configures the providers.")
_database = _setting_option("database_url", "Database to use: sqlite:///FILE or postgresql://USER@HOST/NAME.")


def _read_settings(**overrides: Any) -> Settings:
    """Return the settings in the environment with `overrides`, and warn of variables that are ignored."""
    settings = Settings.from_environment(**overrides)
    _warn_of_unknown_variables(settings)
    return settings


def _warn_of_unknown_variables(settings: Settings) -> None:
    for variable, nearest in unknown_variables(secret_variables(settings)).items():
        log.warning("Unknown environment variable was ignored name=%s nearest=%s", variable, nearest or "-")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="gateway")
def main() -> None:
    """Manage snapshots of virtual machines and cloud instances over GraphQL and REST."""


@main.command()
@_setting_option("host", "Address to listen on.")
@_setting_option("port", "Port to listen on. 0 selects a free port.", int)
@_database
@_providers
@_setting_option("workers", "Number of processes that serve requests on one socket.", int)
@_setting_option("images", "Directory of qcow2 images to serve as a provider.")
@click.option("--demo", is_flag=True, help="Load the demo world if the database has no machines.")
def serve(demo: bool, **overrides: Any) -> None:
    """Migrate the database and serve the API until SIGINT or SIGTERM."""
    if environment_value(environment_variable("log_format")) == "json":
        logs.configure(Settings(log_format="json"))  # now, so that errors of the settings are JSON too
    settings = Settings.from_environment(**overrides)
    logs.configure(settings)
    _warn_of_unknown_variables(settings)
    # Validate these settings before the migration, so that an invalid one leaves the database unchanged.
    read_providers(settings)
    read_jwt_verifier(settings, Roles.read(settings.roles))
    migrate_database(settings.database_url)
    if settings.workers == 1:
        http_server.serve(settings, demo=demo, echo=click.echo)
    else:
        sys.exit(supervise(settings, demo=demo, echo=click.echo))


@main.command()
@_database
def migrate(**overrides: Any) -> None:
    """Migrate the database to the schema of this version."""
    settings = _read_settings(**overrides)
    before, after = migrate_database(settings.database_url)
    change = "" if before == after else f" (was {before or 'empty'})"
    click.echo(f"The database is at revision {after}{change}.")


@main.command()
def schema() -> None:
    """Print the GraphQL schema in SDL."""
    click.echo(print_sdl(), nl=False)


@main.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@_database
@_setting_option("tenant", "Tenant of the imported machines.")
@click.option("--provider", default="manageiq", show_default=True, help="Provider name of the imported machines.")
def import_(files: tuple[Path, ...], provider: str, **overrides: Any) -> None:
    """Import machines and snapshots from responses of ManageIQ.

    Each FILE contains responses to GET /api/vms?expand=resources,snapshots, or to the same query of /api/instances:
    all pages, in one file or in several. The import can be repeated, and can run while the gateway serves.

    Exits with code 3 after an import that left out invalid records, or of files that do not have all machines, and
    with code 2 if nothing was imported.
    """
    settings = _read_settings(**overrides)
    if not is_name(provider):
        raise StartupError(f"--provider must be 1 to {MAX_NAME_LENGTH} printable characters.")
    migrate_database(settings.database_url)
    result = import_files(
        settings.database_url, files, tenant=settings.tenant, provider=provider, report=_show_progress
    )
    click.echo(str(result))
    if result.problems:
        for line in result.problems.lines():
            click.echo(f"gateway: {line}", err=True)
        sys.exit(_IMPORTED_WITH_PROBLEMS)


def _show_progress(progress: ImportProgress) -> None:
    percent = 100 * progress.bytes_read // max(progress.bytes_total, 1)
    phase = "merging" if progress.merging else f"{percent:3} %"
    click.echo(f"{phase}  {progress.machines:,} machines, {progress.snapshots:,} snapshots", err=True)


@main.command()
@click.argument("provider", required=False)
@_database
@_providers
def refresh(provider: str | None, **overrides: Any) -> None:
    """Refresh the inventory of PROVIDER, or of all providers."""
    settings = _read_settings(**overrides)
    migrate_database(settings.database_url)
    asyncio.run(_refresh(settings, provider))


async def _refresh(settings: Settings, provider: str | None) -> None:
    providers = read_providers(settings)
    async with opened_database(settings) as database, opened_drivers(database, providers) as drivers:
        if provider is not None and provider not in drivers:
            raise StartupError(
                f"Provider {provider!r} does not exist or has no driver."
                f" Providers with a driver: {provider_names(drivers)}."
            )
        inventory = InventoryRefresher(database, drivers, settings)
        for name in [provider] if provider is not None else sorted(drivers):
            click.echo(f"{name}: {await inventory.refresh_provider(name)}")


@main.group()
def provider() -> None:
    """List and check the configured providers."""


@provider.command("list")
@_providers
def provider_list(**overrides: Any) -> None:
    """Validate the configuration of the providers and list them."""
    for configured in read_providers(_read_settings(**overrides)):
        click.echo(f"{configured.name}: driver {configured.driver}, tenant {configured.tenant}")


@provider.command("check")
@click.argument("name")
@_providers
def provider_check(name: str, **overrides: Any) -> None:
    """Check the connection to the provider NAME. Changes nothing. Exits with code 1 if a check fails."""
    providers = {configured.name: configured for configured in read_providers(_read_settings(**overrides))}
    if name not in providers:
        raise StartupError(f"Provider {name!r} is not configured. Configured providers: {provider_names(providers)}.")
    if providers[name].driver == SIMULATED:
        raise StartupError(f"Provider {name!r} is simulated, so it has no connection to check.")
    logging.basicConfig(
        level=logging.CRITICAL
    )  # the check reports errors itself, more precisely than the client libraries log them
    sys.exit(0 if asyncio.run(check_provider(providers[name].make(), click.echo)) else 1)


@main.group()
def token() -> None:
    """Create, list and revoke API tokens."""


@token.command("create")
@click.argument("name")
@click.option(
    "--role", "roles", multiple=True, required=True, help="Role of the token. Repeat the option for several roles."
)
@click.option("--expires", default="90d", show_default=True, metavar="90d|12h|never", help="Lifetime of the token.")
@_database
@_setting_option("tenant", "Tenant of the token.")
def token_create(name: str, roles: tuple[str, ...], expires: str, **overrides: Any) -> None:
    """Create an API token with the name NAME and print it. It is shown only once."""
    settings = _read_settings(**overrides)
    new = NewToken(name, roles, settings.tenant, parse_lifetime(expires))
    migrate_database(settings.database_url)

    async def create() -> str:
        async with opened_database(settings) as database:
            return await create_audited_token(database, Roles.read(settings.roles), new)

    click.echo(asyncio.run(create()))


@token.command("list")
@_database
@click.option("--rights", is_flag=True, help="Also print the rights that the roles of each token have now.")
def token_list(rights: bool, **overrides: Any) -> None:
    """List all API tokens ever created, without their secrets."""
    settings = _read_settings(**overrides)
    roles = Roles.read(settings.roles)
    migrate_database(settings.database_url)

    def describe(info: TokenInfo) -> list[str]:
        names = roles.rights(info.roles).names
        return [str(info), *([f"  rights: {', '.join(names) or 'none'}"] if rights else [])]

    async def read() -> list[str]:
        async with opened_database(settings) as database:
            return [line for info in await list_tokens(database) for line in describe(info)]

    for line in asyncio.run(read()):
        click.echo(line)


@token.command("revoke")
@click.argument("name")
@_database
def token_revoke(name: str, **overrides: Any) -> None:
    """Revoke the API token NAME and end its sessions."""
    settings = _read_settings(**overrides)
    migrate_database(settings.database_url)

    async def revoke() -> None:
        async with opened_database(settings) as database:
            await revoke_audited_token(database, name)

    asyncio.run(revoke())
    click.echo(f"Revoked token {name!r}. Running gateways reject it within {settings.credentials_trusted:g} seconds.")


@main.command()
@click.argument("machine_id")
@click.option("--latency", type=float, metavar="SECONDS", help="Duration of each task of the machine.")
@click.option("--fault", metavar="JSON|none", help="Fault to inject, or `none` to remove it.")
@_database
@_setting_option("tenant", "Tenant of the machine.")
def simulate(machine_id: str, latency: float | None, fault: str | None, **overrides: Any) -> None:
    """Show or change the behavior of a simulated machine.

    MACHINE_ID is the id of a machine of a simulated provider, such as vm-11. A fault is {"on":
    create|revert|delete|any|read, "kind": refuse|unavailable|busy|lost|hang, "message": TEXT, "times": NUMBER}; without
    "times" it applies until it is removed. The command can run while the gateway serves.
    """
    settings = _read_settings(**overrides)
    migrate_database(settings.database_url)
    asyncio.run(_simulate(settings, machine_id, latency, fault))


async def _simulate(settings: Settings, machine_id: str, latency: float | None, fault: str | None) -> None:
    async with opened_database(settings) as database:
        behavior = await simulate_machine(database, settings.tenant, machine_id, latency, fault)
    click.echo(f"{machine_id}: {behavior}")


if __name__ == "__main__":
    main()
