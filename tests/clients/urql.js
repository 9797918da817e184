// urql: queries by POST and GET; subscriptions through its own fetch, graphql-ws and graphql-sse.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Client, cacheExchange, fetchExchange, subscriptionExchange } from '@urql/core';
import { createClient as createSseClient } from 'graphql-sse';
import { getIntrospectionQuery } from 'graphql';
import { createClient as createSocketClient } from 'graphql-ws';
import WebSocket from 'ws';
import {
  CREATE, INVALID, INVALID_ANSWER, MALFORMED, OPERATION, SNAPSHOTS, THREE, VM, ask, startOperation, socketUrl, url,
} from './gateway.js';

const plain = (options) => new Client({ url, exchanges: [fetchExchange], preferGetMethod: false, ...options });

/** A client whose subscriptions use the client `forward`, as in urql's documentation. */
function through(forward) {
  const forwardSubscription = ({ query, variables }) => ({
    subscribe: (sink) => ({ unsubscribe: forward.subscribe({ query, variables }, sink) }),
  });
  return new Client({ url, exchanges: [subscriptionExchange({ forwardSubscription })], preferGetMethod: false });
}

/** Collects the results of a subscription until urql reports that there are no more. */
function followed(client, query, variables) {
  return new Promise((resolve, reject) => {
    const updates = [];
    client.subscription(query, variables).subscribe(({ data, error, hasNext }) => {
      if (error) reject(error);
      updates.push(data.operationUpdated);
      if (!hasNext) resolve(updates);
    });
  });
}

async function checkSubscription(client) {
  const id = await startOperation(VM);
  const updates = await followed(client, OPERATION, { id });
  assert.deepEqual([updates.at(-1).id, updates.at(-1).state, updates.at(-1).isDone], [id, 'SUCCEEDED', true]);
}

for (const [method, preferGetMethod] of [['POST', false], ['GET', 'force']]) {
  test(`a query by ${method}`, async () => {
    const methods = [];
    const recording = (place, options) => { methods.push(options.method); return fetch(place, options); };
    const { data, error } = await plain({ preferGetMethod, fetch: recording }).query(SNAPSHOTS, { id: VM });
    assert.deepEqual([error, data, methods], [undefined, THREE, [method]]);
  });
}

test('the cache refetches lists that a mutation has changed', async () => {
  const client = new Client({ url, exchanges: [cacheExchange, fetchExchange], preferGetMethod: false });
  const counts = [];
  const nodes = 'nodes { id __typename }'; // urql uses the type names to decide what to refetch
  const watched = client.query(`query ($id: ID!) { vm(id: $id) { id snapshots { totalCount ${nodes} } } }`, { id: VM });
  const four = new Promise((resolve) => {
    const { unsubscribe } = watched.subscribe(({ data, stale }) => {
      if (!stale) counts.push(data.vm.snapshots.totalCount);
      if (counts.length === 2) resolve(unsubscribe);
    });
  });
  await watched;
  const { data } = await client.mutation(CREATE, { input: { machineId: VM, name: 'by urql' } });
  assert.deepEqual(data.createSnapshot.errors, []);
  (await four)();
  assert.deepEqual(counts, [3, 4]);
});

test('a subscription to all operations recognizes that of its own mutation by the key', async () => {
  const socket = createSocketClient({ url: socketUrl, webSocketImpl: WebSocket });
  const client = through(socket);
  const key = randomUUID();
  const own = new Promise((resolve, reject) => {
    client.subscription('subscription { operationChanged { id idempotencyKey } }', {}).subscribe(({ data, error }) => {
      if (error) reject(error);
      else if (data.operationChanged.idempotencyKey === key) resolve(data.operationChanged.id);
    });
  });
  await socket.iterate({ query: '{ __typename }' }).next(); // the subscription, which was sent earlier, has started
  const create = `mutation ($input: CreateSnapshotInput!) {
    createSnapshot(input: $input) { operation { id idempotencyKey } errors { message } } }`;
  const { data } = await plain().mutation(create, { input: { machineId: VM, name: 'own', idempotencyKey: key } });
  assert.deepEqual(data.createSnapshot, {
    ...data.createSnapshot, errors: [], operation: { ...data.createSnapshot.operation, id: await own, idempotencyKey: key },
  });
  await socket.dispose();
});

test('the keys of Graphcache, as the documentation derives them from the schema', async () => {
  const text = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8');
  const [code] = text.match(/^ {4}const keyless = [^]*?^ {4}const keys = .*$/m);
  const keys = new Function('schema', `${code}\nreturn keys;`)(await ask(getIntrospectionQuery()));
  assert.equal(keys.Provider({ name: 'lab' }), 'lab');
  assert.deepEqual([keys.OperationError(), keys.PageInfo()], [null, null]);
  assert.deepEqual(['Vm', 'Instance', 'Snapshot', 'Operation', 'AuditEntry'].filter((name) => name in keys), []);
});

test('a refusal is in the payload', async () => {
  const { data, error } = await plain().mutation(CREATE, { input: { machineId: VM, name: ' ' } });
  const message = 'The name is blank. It must have 1 to 255 characters.';
  const refusal = { code: 'INVALID', message, path: ['input', 'name'] };
  assert.equal(error, undefined);
  assert.deepEqual(data.createSnapshot, { ...data.createSnapshot, snapshot: null, operation: null, errors: [refusal] });
});

test('errors have codes and paths, and partial data is kept', async () => {
  const refused = await plain().query(INVALID, {});
  assert.equal(refused.error.networkError, undefined);
  assert.deepEqual(refused.error.graphQLErrors.map((e) => [e.extensions.code, e.message]), [INVALID_ANSWER]);
  assert.equal(refused.error.response.status, 400);
  const partial = await plain().query(MALFORMED, {});
  assert.deepEqual(partial.data, { vm: null, __typename: 'Query' });
  assert.deepEqual(partial.error.graphQLErrors.map((e) => [e.path, e.extensions.code]), [[['vm'], 'BAD_USER_INPUT']]);
});

test('a subscription through its own fetch', () => checkSubscription(plain({ fetchSubscriptions: true })));

test('a subscription through graphql-ws', async () => {
  const socket = createSocketClient({ url: socketUrl, webSocketImpl: WebSocket });
  await checkSubscription(through(socket));
  await socket.dispose();
});

test('a subscription through graphql-sse', () => checkSubscription(through(createSseClient({ url }))));
