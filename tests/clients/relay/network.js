// Relay's network layer: queries and mutations over HTTP, subscriptions over graphql-ws.

import { createClient } from 'graphql-ws';
import { Environment, Network, Observable, RecordSource, Store } from 'relay-runtime';
import WebSocket from 'ws';
import { socketUrl, url } from '../gateway.js';

export const socket = createClient({ url: socketUrl, webSocketImpl: WebSocket });

/** The names of the operations sent so far. */
export const sent = [];

const byId = process.argv.includes('by-id');

/** The request for a compiled document: by text, or by id for a gateway that has the compiler's manifest. */
export function request({ name, text, id }, variables = {}) {
  sent.push(name);
  if (!byId) return { query: text, variables };
  // graphql-ws always requires `query`, which cannot be combined with `documentId`.
  return { query: '', extensions: { persistedQuery: { version: 1, sha256Hash: id } }, variables };
}

async function fetchOnce(document, variables) {
  const headers = { 'content-type': 'application/json', accept: 'application/graphql-response+json' };
  const body = JSON.stringify(request(document, variables));
  return (await fetch(url, { method: 'POST', headers, body })).json();
}

function subscribe(document, variables) {
  return Observable.create((sink) => socket.subscribe(request(document, variables), sink));
}

export const environment = new Environment({
  network: Network.create(fetchOnce, subscribe),
  store: new Store(new RecordSource()),
});
