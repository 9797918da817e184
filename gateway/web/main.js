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
# Snapshots of virtual machines and cloud instances, live from this gateway.
#
# Run with Ctrl-Enter. The next tabs take a snapshot and watch the work on it;
# the bar on the left has the documentation, the history and the explorer.

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
# Answers at once; the operation goes on. Watch it in the next tab.

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
# Stays open: every change of an operation appears here as it happens.

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

createRoot(page).render(
  createElement(GraphiQL, {
    fetcher: createGraphiQLFetcher({
      url: endpoint.href,
      wsClient: createClient({ url: socket.href }), // connects with the first subscription
    }),
    plugins: [HISTORY_PLUGIN, explorerPlugin()],
    defaultTabs: [DEMO_WORLD, TAKE_SNAPSHOT, WATCH_OPERATIONS].map((query) => ({ query })),
  }),
);
