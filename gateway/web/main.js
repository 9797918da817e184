// GraphiQL on the gateway's own endpoint: queries and mutations over HTTP, subscriptions over WebSocket.

import 'graphiql/setup-workers/vite'; // first: Monaco asks for its workers as soon as it loads
import 'graphiql/style.css';
import '@graphiql/plugin-explorer/style.css';
import './page.css';
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { GraphiQL, HISTORY_PLUGIN } from 'graphiql';
import { explorerPlugin } from '@graphiql/plugin-explorer';
import { createGraphiQLFetcher } from '@graphiql/toolkit';
import { createClient } from 'graphql-ws';

const DEMO_WORLD = `\
# Machines and their snapshots, from this gateway.
# Ctrl-Enter runs it. The next tabs take a snapshot
# and watch the work; documentation, history and
# explorer are on the left.

query DemoWorld {
  vm(id: "vm-11") {
    name
    powerState
    snapshots(first: 5) {
      totalCount
      nodes {
        id
        name
        state
        isCurrent
        createdAt
        parent {
          id
        }
      }
    }
  }
  instance(id: "instance-201") {
    name
    snapshots {
      nodes {
        id
        name
      }
    }
  }
}
`;

const TAKE_SNAPSHOT = `\
# Answers at once; the operation goes on. To watch
# it, run the next tab in a second window first.

mutation TakeSnapshot {
  createSnapshot(input: { machineId: "vm-11", name: "from GraphiQL" }) {
    operation {
      id
      state
    }
    snapshot {
      id
      name
      state
    }
    errors {
      code
      message
    }
  }
}
`;

const WATCH_OPERATIONS = `\
# Stays open: each change of an operation appears
# as it happens. Leaving this tab ends it.

subscription WatchOperations {
  operationChanged {
    id
    kind
    state
    progressPercent
    snapshotName
  }
}
`;

const page = document.getElementById('graphiql');
const endpoint = new URL(page.dataset.endpoint, location.href);
const socket = new URL(endpoint);
socket.protocol = endpoint.protocol === 'https:' ? 'wss:' : 'ws:';

// What the headers editor holds, such as a token: the socket, which has no headers of its own, sends it first.
let headers = {};

const send = createGraphiQLFetcher({
  url: endpoint.href,
  wsClient: createClient({
    url: socket.href, // connects with the first subscription
    connectionParams: () => headers,
    shouldRetry: ({ code }) => code !== undefined && code !== 4403, // who is refused should see why
  }),
});

function fetcher(parameters, options) {
  headers = options?.headers ?? {};
  return send(parameters, options);
}

createRoot(page).render(
  createElement(
    GraphiQL,
    {
      fetcher,
      plugins: [HISTORY_PLUGIN, explorerPlugin()],
      defaultTabs: [DEMO_WORLD, TAKE_SNAPSHOT, WATCH_OPERATIONS].map((query) => ({ query })),
    },
    createElement(GraphiQL.Logo, null, document.title),
  ),
);
