"""Persisted documents: a request sends the id of a document instead of its text.

The documents come from manifests, which are written when a frontend is built. The id is in `documentId` (GraphQL over
HTTP, "Persisted Documents") or, as a hash, in `extensions.persistedQuery` (Apollo Client).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from graphql import GraphQLError

from gateway.config import Settings
from gateway.errors import StartupError
from gateway.graphql.error_format import RequestError
from gateway.graphql.requests import GraphQLRequest

NOT_FOUND = "PERSISTED_QUERY_NOT_FOUND"
NOT_SUPPORTED = "PERSISTED_QUERY_NOT_SUPPORTED"  # on this code, Apollo Client sends document texts from then on
NOT_LISTED = "QUERY_NOT_IN_SAFELIST"

_APOLLO = "apollo-persisted-query-manifest"
_SHA256 = "sha256:"


class PersistedDocuments:
    """The documents of all manifests, by their ids in the manifests and by `sha256:` and the hash of their text."""

    def __init__(self, settings: Settings) -> None:
        """Raises StartupError for a manifest that is unreadable or malformed, or whose ids conflict."""
        self._texts: dict[str, str] = {}
        self._only = settings.documents_only
        for file in settings.documents_files:
            for id, text in _manifest_documents(file):
                self._add(id, text, file)
        self._listed = frozenset(self._texts.values())

    def _add(self, id: str, text: str, file: str) -> None:
        digest = _SHA256 + hashlib.sha256(text.encode()).hexdigest()
        if id.startswith(_SHA256) and id != digest:
            raise StartupError(f"GATEWAY_DOCUMENTS_FILES: the id {id!r} in {file} is not the hash of its document.")
        if self._texts.setdefault(id, text) != text:
            raise StartupError(f"GATEWAY_DOCUMENTS_FILES: the id {id!r} in {file} is used for two different documents.")
        self._texts[digest] = text

    def text(self, request: GraphQLRequest) -> str:
        """The text of the document that `request` contains or names. Raises RequestError."""
        if request.query and not self._only:
            return request.query
        if request.query or not (ids := _ids(request)):
            if self._only and request.query not in self._listed:
                message = "Only persisted documents are accepted. Send the id of one in `documentId`."
                raise RequestError([GraphQLError(message)], NOT_LISTED)
            return request.query
        if not self._texts:
            message = "No persisted documents are configured. Send the document in `query`."
            raise RequestError([GraphQLError(message)], NOT_SUPPORTED)
        for id in ids:
            if id in self._texts:
                return self._texts[id]
        raise RequestError([GraphQLError("There is no persisted document with this id.")], NOT_FOUND)


def _ids(request: GraphQLRequest) -> tuple[str, ...]:
    if request.document_id is not None:
        return (request.document_id,)
    persisted_query = request.extensions.get("persistedQuery")
    digest = persisted_query.get("sha256Hash") if isinstance(persisted_query, dict) else None
    return (digest, _SHA256 + digest) if isinstance(digest, str) else ()


def _manifest_documents(file: str) -> Iterator[tuple[str, str]]:
    """The ids and texts of a manifest. Raises StartupError."""
    try:
        manifest = orjson.loads(Path(file).read_bytes())
    except OSError as error:
        reason = (error.strerror or "permission denied").lower()
        raise StartupError(f"GATEWAY_DOCUMENTS_FILES: {file} cannot be read ({reason}).") from None
    except orjson.JSONDecodeError as error:
        raise StartupError(f"GATEWAY_DOCUMENTS_FILES: {file} is not JSON ({error}).") from None
    for id, text in _pairs(manifest, file):
        if not (isinstance(id, str) and id and isinstance(text, str) and text):
            raise StartupError(f"GATEWAY_DOCUMENTS_FILES: a document in {file} has no id or no text.")
        yield id, text


def _pairs(manifest: Any, file: str) -> Iterable[tuple[Any, Any]]:
    """Relay and GraphQL Code Generator write an object of texts by id; Apollo's manifest has `format` and `version`."""
    if isinstance(manifest, dict) and "format" not in manifest:
        return manifest.items()
    if not isinstance(manifest, Mapping) or (manifest["format"], manifest.get("version")) != (_APOLLO, 1):
        raise StartupError(
            f"GATEWAY_DOCUMENTS_FILES: {file} is not a manifest of persisted documents. It must be an object of"
            f" documents by id, or an {_APOLLO} of version 1."
        )
    operations = manifest.get("operations")
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise StartupError(f"GATEWAY_DOCUMENTS_FILES: `operations` in {file} must be a list of objects.")
    return [(operation.get("id"), operation.get("body")) for operation in operations]
