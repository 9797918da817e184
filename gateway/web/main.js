// GraphiQL for the gateway's endpoint: queries and mutations over HTTP, subscriptions over WebSocket.

import 'graphiql/setup-workers/vite'; // must be first: Monaco starts its workers when it is loaded
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
# Machines and their snapshots. Press Ctrl-Enter to
# run the query. The next tabs create a snapshot and
# subscribe to operations. Documentation, history and
# the explorer are on the left.

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
# Returns at once, while the operation runs. To see
# its progress, run the next tab in a second window.

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
# Stays open and shows each change of an operation.
# Closing this tab ends the subscription.

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

// The content of the headers editor, such as a token. WebSockets send it in `connection_init`, as they have no headers.
let headers = {};

const send = createGraphiQLFetcher({
  url: endpoint.href,
  wsClient: createClient({
    url: socket.href, // connects with the first subscription
    connectionParams: () => headers,
    shouldRetry: ({ code }) => code !== undefined && code !== 4403, // show the reason instead of retrying
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
