"""Persisted documents: requests that name a document of a manifest, written when a frontend was built.

GraphQL-over-HTTP, "Persisted Documents"; and `extensions.persistedQuery`, in which Apollo Client sends the same.
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
NOT_SUPPORTED = "PERSISTED_QUERY_NOT_SUPPORTED"  # Apollo Client sends the document itself from then on
NOT_LISTED = "QUERY_NOT_IN_SAFELIST"

_APOLLO = "apollo-persisted-query-manifest"
_SHA256 = "sha256:"


class PersistedDocuments:
    """The documents of all manifests by their ids: those that the manifests give them, and `sha256:…`."""

    def __init__(self, settings: Settings) -> None:
        """Raises StartupError for a manifest that cannot be read, or contradicts itself or another."""
        self._texts: dict[str, str] = {}
        self._only = settings.documents_only
        for file in settings.documents_files:
            for id, text in _documents(file):
                self._add(id, text, file)
        self._listed = frozenset(self._texts.values())

    def _add(self, id: str, text: str, file: str) -> None:
        digest = _SHA256 + hashlib.sha256(text.encode()).hexdigest()
        if id.startswith(_SHA256) and id != digest:
            raise StartupError(f"{file}: {id} is not the hash of its document")
        if self._texts.setdefault(id, text) != text:
            raise StartupError(f"{file}: {id} is the id of two different documents")
        self._texts[digest] = text

    def text(self, request: GraphQLRequest) -> str:
        """The document that `request` sends or names. Raises RequestError."""
        if request.query and not self._only:
            return request.query
        if request.query or not (ids := _ids(request)):
            if self._only and request.query not in self._listed:
                message = "Only persisted documents are served: name one of them in `documentId`."
                raise RequestError([GraphQLError(message)], NOT_LISTED)
            return request.query
        if not self._texts:
            message = "No persisted documents are configured: send the document in `query`."
            raise RequestError([GraphQLError(message)], NOT_SUPPORTED)
        for id in ids:
            if id in self._texts:
                return self._texts[id]
        raise RequestError([GraphQLError("There is no persisted document with this id.")], NOT_FOUND)


def _ids(request: GraphQLRequest) -> tuple[str, ...]:
    if request.document_id is not None:
        return (request.document_id,)
    named = request.extensions.get("persistedQuery")
    found = named.get("sha256Hash") if isinstance(named, dict) else None
    return (found, _SHA256 + found) if isinstance(found, str) else ()


def _documents(file: str) -> Iterator[tuple[str, str]]:
    """Every id with its document. Raises StartupError."""
    try:
        manifest = orjson.loads(Path(file).read_bytes())
    except OSError as error:
        raise StartupError(f"cannot read {file} ({(error.strerror or 'refused').lower()})") from None
    except orjson.JSONDecodeError as error:
        raise StartupError(f"{file} is not JSON: {error}") from None
    for id, text in _pairs(manifest, file):
        if not (isinstance(id, str) and id and isinstance(text, str) and text):
            raise StartupError(f"{file}: every document needs an id and a text")
        yield id, text


def _pairs(manifest: Any, file: str) -> Iterable[tuple[Any, Any]]:
    """Relay's is an object of documents by id, GraphQL Code Generator's too; Apollo's says what it is."""
    if isinstance(manifest, dict) and "format" not in manifest:
        return manifest.items()
    if not isinstance(manifest, Mapping) or (manifest["format"], manifest.get("version")) != (_APOLLO, 1):
        raise StartupError(
            f"{file} is no manifest of persisted documents: neither documents by id nor {_APOLLO}, version 1"
        )
    operations = manifest.get("operations")
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise StartupError(f"{file}: `operations` is not a list of objects")
    return [(operation.get("id"), operation.get("body")) for operation in operations]
