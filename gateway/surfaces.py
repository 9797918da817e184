"""What can be asked, and where: GraphQL, the ManageIQ routes and the pages, as one ASGI application."""

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, WebSocketRoute

from gateway.access.admission import Admission
from gateway.access.authentication import Authenticator
from gateway.api.connection import WebSocketLimits
from gateway.api.execution import GraphQLExecutor
from gateway.api.http import GraphQLEndpoint
from gateway.api.middleware import middleware
from gateway.api.requests import Executor
from gateway.api.sse import EventStreams
from gateway.api.streams import Streams
from gateway.api.websocket import WebSocketEndpoint
from gateway.config import Settings
from gateway.health import Health
from gateway.operations.service import Operations
from gateway.pages import page_routes
from gateway.rest.endpoint import rest_routes
from gateway.store.database import Database
from gateway.telemetry.measures import Measures
from gateway.telemetry.observing import LoggedRequests, ObservedExecutor, ObservedRest
from gateway.telemetry.spans import Spans
from gateway.web import routes as web_routes


@dataclass(frozen=True, slots=True)
class Surfaces:
    """The parts that requests are answered by."""

    settings: Settings
    database: Database
    operations: Operations
    executor: GraphQLExecutor
    authenticator: Authenticator
    admission: Admission
    streams: Streams
    health: Health
    measures: Measures
    spans: Spans

    def application(self) -> Starlette:
        """Raises StartupError for an origin in the settings that is none."""
        named, *others = middleware(self.settings, self.admission.guarded(self._http()))
        log_requests = [Middleware(LoggedRequests)] if self.settings.log_requests else []
        return Starlette(
            routes=[
                WebSocketRoute("/graphql", self._websocket()),
                *self._rest(),
                *web_routes(),
                *page_routes(self.health, schema=self.settings.introspection),
            ],
            middleware=[*self.spans.middleware(), named, *log_requests, *others],
        )

    def _executor(self, transport: str) -> Executor:
        observed = ObservedExecutor(self.executor, transport, self.measures, self.settings.log_slower_than)
        return self.spans.executor(observed, self.executor.documents)

    def _http(self) -> GraphQLEndpoint:
        return GraphQLEndpoint(
            self._executor("http"),
            self.authenticator.authenticate,
            self.admission,
            EventStreams(self.streams, recheck_after=self.settings.credentials_trusted),
            max_body_bytes=self.settings.max_body_bytes,
            body_timeout=self.settings.body_timeout,
            refused=lambda status: self.measures.refused.add((str(status),)),
        )

    def _websocket(self) -> WebSocketEndpoint:
        return WebSocketEndpoint(
            self._executor("websocket"),
            self.authenticator.authenticate,
            self.admission.callers,
            self.streams,
            max_message_bytes=self.settings.max_body_bytes,
            limits=WebSocketLimits(recheck_after=self.settings.credentials_trusted),
        )

    def _rest(self) -> list[BaseRoute]:
        return rest_routes(
            self.database,
            self.operations,
            self.authenticator,
            self.admission,
            public_url=self.settings.public_url or None,
            max_body_bytes=self.settings.max_body_bytes,
            body_timeout=self.settings.body_timeout,
            middleware=[Middleware(ObservedRest, self.measures)],
        )
