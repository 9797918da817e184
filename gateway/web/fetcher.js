// Sends queries and mutations over HTTP, and subscriptions over WebSocket.

import { getOperationAST, parse } from 'graphql';
import { createClient } from 'graphql-ws';
import { EventList } from './event_list.js';

const REJECTED = 4403; // graphql-ws closes with this code when the credentials of a connection are rejected

// Reports to `credentials` whether the headers of each request were accepted.
export function createFetcher(endpoint, credentials) {
  const socket = new URL(endpoint);
  socket.protocol = endpoint.protocol === 'https:' ? 'wss:' : 'ws:';
  // The content of the headers editor. WebSockets send it in `connection_init`, as they have no headers.
  let headers = {};
  const client = createClient({
    url: socket.href, // connects with the first subscription
    connectionParams: () => headers,
    shouldRetry: ({ code }) => code !== undefined && code !== REJECTED, // show the reason instead of retrying
  });

  function subscribe(parameters, observer) {
    const events = new EventList();
    const unsubscribe = client.subscribe(parameters, {
      next(event) {
        credentials.report(true, headers);
        observer.next(events.add(event));
      },
      error(error) {
        if (error.code === REJECTED) credentials.report(false, headers);
        const reason = closeReason(error);
        if (events.isEmpty) {
          observer.error(reason);
        } else {
          observer.next(events.add({ errors: [reason].flat().map(({ message }) => ({ message })) }));
          observer.complete();
        }
      },
      complete: () => observer.complete(),
    });
    return { unsubscribe };
  }

  return async (parameters, options) => {
    headers = options?.headers ?? {};
    const operation = operationOf(parameters);
    const request = operation ? { ...parameters, operationName: operation.name?.value } : parameters;
    if (operation?.operation === 'subscription') {
      return { subscribe: (observer) => subscribe(request, observer) };
    }
    const response = await fetch(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json', ...headers },
      body: JSON.stringify(request),
    });
    credentials.report(response.status !== 401, headers);
    return response.json();
  };
}

// The operation that runs. Null if that is ambiguous or the document is invalid, which the gateway reports. After a change
// of the tab, GraphiQL sends the name of the previous tab's operation until it has parsed the document.
function operationOf({ query, operationName }) {
  try {
    const document = parse(query);
    return getOperationAST(document, operationName) ?? getOperationAST(document);
  } catch {
    return null;
  }
}

// The error of a subscription as GraphiQL can show it: one error or a list.
function closeReason(error) {
  return error instanceof CloseEvent
    ? new Error(`Socket closed with event ${error.code} ${error.reason}`.trim())
    : error;
}
