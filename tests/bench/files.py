"""Prints which modules of the gateway execute a `createSnapshot`, from the HTTP request to the driver and back.

    python -m tests.bench.files

Counts the modules with a function that is called between the request and the end of the operation, on SQLite with the
simulated driver. Periodic work of the same time is included if it happens to run.
"""

import asyncio
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import gateway
from gateway.app import opened_database
from gateway.config import Settings
from gateway.inventory.demo import load_demo
from gateway.store.migrate import migrate
from tests.serving import served
from tests.waiting import until

PACKAGE = Path(gateway.__file__).parent
CREATE = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "n"}) { operation { id } errors { message } } }'
STATE = "query ($id: ID!) { operation(id: $id) { isDone } }"


async def fill(settings: Settings) -> None:
    """Loads the demo world."""
    async with opened_database(settings) as database:
        await load_demo(database, settings.tenant)


def main() -> None:
    """Traces one request, after one that fills the caches."""
    files: set[str] = set()

    def trace(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/gateway.db"
        migrate(url)
        asyncio.run(fill(Settings(database_url=url)))
        threading.setprofile(trace)  # before the threads of the server begin
        with served(Settings(database_url=url)) as server:
            for _ in range(2):
                files.clear()
                number = server.ask(CREATE)["createSnapshot"]["operation"]["id"]
                until(lambda id_=number: server.ask(STATE, id=id_)["operation"]["isDone"])  # type: ignore[misc]
                executed = {Path(name) for name in files}
        threading.setprofile(None)
    modules = sorted(str(path.relative_to(PACKAGE)) for path in executed if path.is_relative_to(PACKAGE))
    sys.stdout.write("\n".join(modules) + f"\n{len(modules)} modules\n")


if __name__ == "__main__":
    main()
