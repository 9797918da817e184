// graphql-sse in "distinct connections" mode: each operation has its own response.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createClient } from 'graphql-sse';
import {
  CANCEL, CHANGES, CREATE, HELD, INVALID, INVALID_ANSWER, MALFORMED, OPERATION, QUIET, SNAPSHOTS, THREE, VM, all, ask,
  startOperation, startProxy, url,
} from './gateway.js';

const client = createClient({ url });
after(() => client.dispose());

test('a query has one result and completes', async () => {
  assert.deepEqual(await all(client, SNAPSHOTS, { id: VM }), [{ data: THREE }]);
});

test('a mutation has one result, and its operation is followed until it is complete', async () => {
  const [{ data }] = await all(client, CREATE, { input: { machineId: VM, name: 'by graphql-sse' } });
  const { snapshot, operation, errors } = data.createSnapshot;
  assert.deepEqual([snapshot.name, errors], ['by graphql-sse', []]);
  const updates = (await all(client, OPERATION, { id: operation.id })).map((answer) => answer.data.operationUpdated);
  assert.deepEqual(updates.at(-1), { id: operation.id, state: 'SUCCEEDED', isDone: true, snapshotId: snapshot.id });
  assert.deepEqual(updates.filter(({ isDone }) => isDone).length, 1);
});

test('a subscription that the client ends', async () => {
  let started;
  const listening = new Promise((resolve) => { started = resolve; });
  async function fetchFn(...request) {
    const answer = await fetch(...request);
    started(); // the headers are sent when the source listens
    return answer;
  }
  const watching = createClient({ url, fetchFn });
  const changes = watching.iterate({ query: CHANGES, variables: { id: QUIET } });
  const first = changes.next();
  await listening;
  const { createSnapshot } = await ask(CREATE, { input: { machineId: QUIET, name: 'seen' } });
  const change = { kind: 'CREATED', snapshotId: createSnapshot.snapshot.id, deletedSnapshotId: null };
  assert.deepEqual((await first).value.data, { snapshotChanged: change });
  await changes.return();
  // A change that arrived before is still delivered; then the iterator ends.
  for await (const { data } of changes) assert.equal(data.snapshotChanged.kind, 'UPDATED');
});

test('a request error has no data; an execution error has partial data', async () => {
  const [refused] = await all(client, INVALID);
  assert.deepEqual(Object.keys(refused), ['errors']);
  assert.deepEqual(refused.errors.map(({ extensions, message }) => [extensions.code, message]), [INVALID_ANSWER]);
  const [{ data, errors }] = await all(client, MALFORMED);
  assert.deepEqual(data, { vm: null, __typename: 'Query' });
  assert.deepEqual(errors.map(({ path, extensions }) => [path, extensions.code]), [[['vm'], 'BAD_USER_INPUT']]);
});

test('a subscription continues in a new response after a network failure', async () => {
  const proxy = await startProxy();
  let responses = 0;
  async function fetchFn(...request) {
    responses += 1;
    return fetch(...request);
  }
  const reconnecting = createClient({ url: proxy.url, fetchFn, retry: async () => {} });
  const id = await startOperation(HELD);
  let last;
  for await (const { data } of reconnecting.iterate({ query: OPERATION, variables: { id } })) {
    last = data.operationUpdated;
    if (responses === 1) proxy.cut();
    else if (!last.isDone) await ask(CANCEL, { id });
  }
  assert.deepEqual([responses, last.state], [2, 'CANCELED']);
  await proxy.close();
});
