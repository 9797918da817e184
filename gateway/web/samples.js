// The operations of a first visit. They fit every inventory: lists instead of ids, and a machine that is looked up.
// They have no list literals, which the explorer does not know.

import { useEffect, useRef } from 'react';
import { pick, useGraphiQL } from '@graphiql/react';
import { useCredentials } from './credentials.js';

const MACHINE_ID = 'MACHINE_ID'; // a placeholder until a machine is found

const MACHINES = `\
# The machines with the most snapshots. Press
# Ctrl-Enter to run the query. The next tabs
# create a snapshot and subscribe to operations.
# Documentation, history and explorer are in the
# sidebar.

query Machines {
  machines(
    sort: { field: SNAPSHOT_COUNT, direction: DESC }
    first: 3
  ) {
    totalCount
    nodes {
      id
      name
      powerState
      snapshots(first: 3) {
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
  }
}
`;

const TAKE_SNAPSHOT = `\
# Creates a snapshot of the machine with this id.
# Returns at once, while the operation runs. To
# see its progress, run the next tab in a second
# window.

mutation TakeSnapshot {
  createSnapshot(
    input: { machineId: "${MACHINE_ID}", name: "from GraphiQL" }
  ) {
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
# Stays open and lists each change of an
# operation, the newest first. It ends when the
# tab is closed or another one is opened.

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

export const SAMPLES = [MACHINES, TAKE_SNAPSHOT, WATCH_OPERATIONS];

// Prefers a machine of which the caller can create a snapshot now.
const FIND_MACHINE = `\
query FindMachine {
  machines(sort: { field: SNAPSHOT_COUNT, direction: DESC }, first: 20) {
    nodes {
      id
      capability(action: CREATE) {
        supported
      }
    }
  }
}
`;

// Replaces the placeholder by a machine's id: when GraphiQL opens, or as soon as a token is accepted.
export function SampleMachine({ credentials, fetcher }) {
  const { accepted } = useCredentials(credentials);
  const state = useRef(null);
  state.current = useGraphiQL(pick('tabs', 'activeTabIndex', 'queryEditor'));
  const isLoaded = Boolean(state.current.queryEditor);
  useEffect(() => {
    if (accepted && isLoaded && state.current.tabs.some(({ query }) => query?.includes(MACHINE_ID))) {
      findMachine(fetcher, credentials.current().headers)
        .then((id) => id && fill(state.current, id))
        .catch(() => {}); // the placeholder stays, and its comment says what belongs there
    }
  }, [accepted, isLoaded, credentials, fetcher]);
  return null;
}

async function findMachine(fetcher, headers) {
  const response = await fetcher({ query: FIND_MACHINE, operationName: 'FindMachine' }, { headers });
  const machines = response.data?.machines.nodes ?? [];
  return (machines.find(({ capability }) => capability.supported) ?? machines[0])?.id;
}

function fill({ tabs, activeTabIndex, queryEditor }, id) {
  tabs.forEach((tab, index) => {
    if (index === activeTabIndex) {
      // Only the placeholder is replaced, because the user may be typing in this tab.
      const found = queryEditor.getModel().findMatches(MACHINE_ID, false, false, true, null, false);
      queryEditor.executeEdits('samples', found.map(({ range }) => ({ range, text: id })));
    } else {
      // GraphiQL has no action that changes another tab than the active one. It reads this when the tab is opened.
      tab.query = tab.query?.replaceAll(MACHINE_ID, id);
    }
  });
}
