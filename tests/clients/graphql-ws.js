// graphql-ws: all operations over one graphql-transport-ws connection.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';
import {
  CANCEL, CHANGES, CREATE, HELD, INVALID, INVALID_ANSWER, MALFORMED, OPERATION, QUIET, SNAPSHOTS, THREE, VM, all,
  startOperation, startProxy, socketUrl,
} from './gateway.js';

const client = createClient({ url: socketUrl, webSocketImpl: WebSocket });
after(() => client.dispose());

test('a query has one result and completes', async () => {
  assert.deepEqual(await all(client, SNAPSHOTS, { id: VM }), [{ data: THREE }]);
});

test('a mutation has one result, and its operation is followed until it is complete', async () => {
  const [{ data }] = await all(client, CREATE, { input: { machineId: VM, name: 'by graphql-ws' } });
  const { snapshot, operation, errors } = data.createSnapshot;
  assert.deepEqual([snapshot.name, errors], ['by graphql-ws', []]);
  const updates = (await all(client, OPERATION, { id: operation.id })).map((answer) => answer.data.operationUpdated);
  assert.deepEqual(updates.at(-1), { id: operation.id, state: 'SUCCEEDED', isDone: true, snapshotId: snapshot.id });
  assert.deepEqual(updates.filter(({ isDone }) => isDone).length, 1);
});

test('completing a subscription does not affect other operations on the connection', async () => {
  const changes = client.iterate({ query: CHANGES, variables: { id: QUIET } });
  const first = changes.next();
  await all(client, '{ __typename }'); // the subscription, which was sent earlier, has started
  const [{ data }] = await all(client, CREATE, { input: { machineId: QUIET, name: 'seen' } });
  const snapshotId = data.createSnapshot.snapshot.id;
  const change = { kind: 'CREATED', snapshotId, deletedSnapshotId: null };
  assert.deepEqual((await first).value.data, { snapshotChanged: change });
  await changes.return();
  assert.deepEqual(await all(client, '{ __typename }'), [{ data: { __typename: 'Query' } }]);
});

test('a request error ends the operation; an execution error has partial data', async () => {
  await assert.rejects(all(client, INVALID), (errors) => {
    assert.deepEqual(errors.map(({ extensions, message }) => [extensions.code, message]), [INVALID_ANSWER]);
    return true;
  });
  const [{ data, errors }] = await all(client, MALFORMED);
  assert.deepEqual(data, { vm: null, __typename: 'Query' });
  assert.deepEqual(errors.map(({ path, extensions }) => [path, extensions.code]), [[['vm'], 'BAD_USER_INPUT']]);
});

test('a subscription continues over a new connection after a network failure', async () => {
  const proxy = await startProxy();
  let connections = 0;
  const reconnecting = createClient({
    url: proxy.socketUrl,
    webSocketImpl: WebSocket,
    retryWait: async () => {},
    shouldRetry: () => true,
    on: { connected: () => { connections += 1; } },
  });
  const id = await startOperation(HELD);
  let last;
  for await (const { data } of reconnecting.iterate({ query: OPERATION, variables: { id } })) {
    last = data.operationUpdated;
    if (connections === 1) proxy.cut();
    else if (!last.isDone) await all(client, CANCEL, { id });
  }
  assert.deepEqual([connections, last.state], [2, 'CANCELED']);
  await reconnecting.dispose();
  await proxy.close();
});
