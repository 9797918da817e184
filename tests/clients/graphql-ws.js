// graphql-ws: everything over one connection that speaks graphql-transport-ws.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';
import {
  CANCEL, CHANGES, CREATE, HELD, INVALID, INVALID_ANSWER, MALFORMED, OPERATION, QUIET, SNAPSHOTS, THREE, VM, all, begin,
  line, socketUrl,
} from './gateway.js';

const client = createClient({ url: socketUrl, webSocketImpl: WebSocket });
after(() => client.dispose());

test('a query answers once and completes', async () => {
  assert.deepEqual(await all(client, SNAPSHOTS, { id: VM }), [{ data: THREE }]);
});

test('a mutation answers once, and its operation is followed to its end', async () => {
  const [{ data }] = await all(client, CREATE, { input: { machineId: VM, name: 'by graphql-ws' } });
  const { snapshot, operation, errors } = data.createSnapshot;
  assert.deepEqual([snapshot.name, errors], ['by graphql-ws', []]);
  const updates = (await all(client, OPERATION, { id: operation.id })).map((answer) => answer.data.operationUpdated);
  assert.deepEqual(updates.at(-1), { id: operation.id, state: 'SUCCEEDED', isDone: true, snapshotId: snapshot.id });
  assert.deepEqual(updates.filter(({ isDone }) => isDone).length, 1);
});

test('a subscription that the client ends leaves the connection to the others', async () => {
  const changes = client.iterate({ query: CHANGES, variables: { id: QUIET } });
  const first = changes.next();
  await all(client, '{ __typename }'); // the subscription, sent before, has begun
  const [{ data }] = await all(client, CREATE, { input: { machineId: QUIET, name: 'seen' } });
  const snapshotId = data.createSnapshot.snapshot.id;
  const change = { kind: 'CREATED', snapshotId, deletedSnapshotId: null };
  assert.deepEqual((await first).value.data, { snapshotChanged: change });
  await changes.return();
  assert.deepEqual(await all(client, '{ __typename }'), [{ data: { __typename: 'Query' } }]);
});

test('a request error ends the operation, an execution error comes with the data', async () => {
  await assert.rejects(all(client, INVALID), (errors) => {
    assert.deepEqual(errors.map(({ extensions, message }) => [extensions.code, message]), [INVALID_ANSWER]);
    return true;
  });
  const [{ data, errors }] = await all(client, MALFORMED);
  assert.deepEqual(data, { vm: null, __typename: 'Query' });
  assert.deepEqual(errors.map(({ path, extensions }) => [path, extensions.code]), [[['vm'], 'BAD_USER_INPUT']]);
});

test('a subscription goes on over a new connection when the old one breaks', async () => {
  const cable = await line();
  let connections = 0;
  const reconnecting = createClient({
    url: cable.socketUrl,
    webSocketImpl: WebSocket,
    retryWait: async () => {},
    shouldRetry: () => true,
    on: { connected: () => { connections += 1; } },
  });
  const id = await begin(HELD);
  let last;
  for await (const { data } of reconnecting.iterate({ query: OPERATION, variables: { id } })) {
    last = data.operationUpdated;
    if (connections === 1) cable.cut();
    else if (!last.isDone) await all(client, CANCEL, { id });
  }
  assert.deepEqual([connections, last.state], [2, 'CANCELED']);
  await reconnecting.dispose();
  await cable.close();
});
