// Relay's network: queries and mutations over HTTP, subscriptions over graphql-ws.

import { createClient } from 'graphql-ws';
import { Environment, Network, Observable, RecordSource, Store } from 'relay-runtime';
import WebSocket from 'ws';
import { socketUrl, url } from '../gateway.js';

export const socket = createClient({ url: socketUrl, webSocketImpl: WebSocket });

/** The names of the operations sent so far. */
export const sent = [];

/** What is sent for a document of Relay's compiler: its text, or its id where the gateway has a manifest of them. */
export function request({ name, text, id }, variables = {}) {
  sent.push(name);
  return { ...(text === null ? { documentId: id } : { query: text }), variables };
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
