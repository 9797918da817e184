"""An operation of a kind that the code does not handle changes nothing, least of all by deleting a snapshot."""

from collections.abc import Callable
from typing import cast

import pytest

from gateway.models import OperationKind
from gateway.operations.claims import Interrupted, claim
from gateway.operations.execution import Execution
from tests.operations.world import World

Run = Callable[..., None]

MADE_UP = cast("OperationKind", "ARCHIVE_SNAPSHOT")  # as if a kind had been added to the enum and forgotten elsewhere


def test_operation_of_an_unhandled_kind_deletes_nothing(run: Run) -> None:
    """Neither the row nor the provider's snapshot, whether the work is executed or its failure is recorded."""

    async def story(world: World) -> None:
        a, *_ = await world.tree()
        await world.delete(a)
        (claimed,) = await claim(world.database, "me", slots=1, providers=["sim"], lease=600.0)
        before = await world.picture(), await world.provider_picture()
        claimed.row = claimed.row._replace(kind=MADE_UP)
        with pytest.raises(Interrupted):  # the failure cannot be recorded either
            await Execution(world.drivers, world.settings, world.record_refresh).run(claimed)
        assert (await world.picture(), await world.provider_picture()) == before

    run(story)
