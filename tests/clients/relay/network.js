// Relay's network: queries and mutations over HTTP, subscriptions over graphql-ws.

import { createClient } from 'graphql-ws';
import { Environment, Network, Observable, RecordSource, Store } from 'relay-runtime';
import WebSocket from 'ws';
import { socketUrl, url } from '../gateway.js';

export const socket = createClient({ url: socketUrl, webSocketImpl: WebSocket });

/** The names of the operations sent so far. */
export const sent = [];

async function fetchOnce({ name, text: query }, variables) {
  sent.push(name);
  const headers = { 'content-type': 'application/json', accept: 'application/graphql-response+json' };
  return (await fetch(url, { method: 'POST', headers, body: JSON.stringify({ query, variables }) })).json();
}

function subscribe({ name, text: query }, variables) {
  sent.push(name);
  return Observable.create((sink) => socket.subscribe({ query, variables }, sink));
}

export const environment = new Environment({
  network: Network.create(fetchOnce, subscribe),
  store: new Store(new RecordSource()),
});
