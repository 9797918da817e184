// Apollo Client: HTTP for queries and mutations, graphql-ws for subscriptions, and one normalized cache.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, test } from 'node:test';
import { ApolloClient, ApolloLink, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { getMainDefinition, relayStylePagination } from '@apollo/client/utilities';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';
import { INVALID, INVALID_ANSWER, MALFORMED, VM, ask, socketUrl, url } from './gateway.js';

const socket = createClient({ url: socketUrl, webSocketImpl: WebSocket });

function connected() {
  return new ApolloClient({
    link: ApolloLink.split(
      ({ query }) => getMainDefinition(query).operation === 'subscription',
      new GraphQLWsLink(socket),
      new HttpLink({ uri: url }),
    ),
    cache: new InMemoryCache({
      possibleTypes: { Machine: ['Vm', 'Instance'], Node: ['Vm', 'Instance', 'Snapshot', 'Operation'] },
      typePolicies: { Vm: { fields: { snapshots: relayStylePagination(['filter', 'sort']) } } },
    }),
  });
}

const client = connected();
after(() => { client.stop(); return socket.dispose(); });

const PAGE = gql`
  query Page($id: ID!, $first: Int!, $after: String) {
    node(id: $id) {
      id
      ... on Machine {
        snapshots(first: $first, after: $after) {
          edges { cursor node { id name state } }
          pageInfo { startCursor endCursor hasNextPage hasPreviousPage }
        }
      }
    }
  }`;
const CREATE = gql`
  mutation Create($input: CreateSnapshotInput!) {
    createSnapshot(input: $input) {
      snapshotEdge { cursor node { id name state } }
      operation { id state idempotencyKey }
      errors { code message path }
    }
  }`;
const OWN_CHANGES = gql`subscription OwnChanges { operationChanged { id idempotencyKey snapshotId } }`;
const OPERATION = gql`
  subscription Operation($id: ID!) { operationUpdated(id: $id) { id state isDone snapshot { id state } } }`;
const CHANGES = gql`
  subscription Changes($id: ID!) { snapshotChanged(machineId: $id) { kind deletedSnapshotId } }`;
const DELETE = `mutation ($id: ID!) { deleteSnapshots(input: { ids: [$id] }) { acceptedCount } }`;

const page = { query: PAGE, variables: { id: VM, first: 2 } };
const list = () => client.readQuery(page).node.snapshots; // the cached data; watchers are notified later
const ids = () => list().edges.map(({ node }) => node.id);

test('relayStylePagination merges two pages', async () => {
  await client.query(page);
  assert.deepEqual([ids(), list().pageInfo.hasNextPage], [['snapshot-5', 'snapshot-4'], true]);
  await client.watchQuery(page).fetchMore({ variables: { after: list().pageInfo.endCursor } });
  assert.deepEqual([ids(), list().pageInfo.hasNextPage], [['snapshot-5', 'snapshot-4', 'snapshot-3'], false]);
});

/** Adds the edge of a payload, also of an optimistic one, to the beginning of the list. */
function addEdge(cache, { data: { createSnapshot: { snapshotEdge } } }) {
  if (snapshotEdge === null) return;
  cache.modify({
    id: cache.identify({ __typename: 'Vm', id: VM }),
    fields: {
      snapshots(before, { toReference }) {
        const edge = { ...snapshotEdge, node: toReference(snapshotEdge.node, true) };
        return { ...before, edges: [edge, ...before.edges] };
      },
    },
  });
}

let made;

test('a mutation adds its edge to the list', async () => {
  const { data } = await client.mutate({
    mutation: CREATE,
    variables: { input: { machineId: VM, name: 'by Apollo' } },
    update: addEdge,
  });
  made = data.createSnapshot;
  assert.deepEqual(made.errors, []);
  assert.deepEqual(ids(), [made.snapshotEdge.node.id, 'snapshot-5', 'snapshot-4', 'snapshot-3']);
});

test('a subscription follows the operation until it is complete and updates the list', async () => {
  const updates = [];
  await new Promise((complete, error) => {
    client.subscribe({ query: OPERATION, variables: { id: made.operation.id } }).subscribe({
      next: ({ data }) => updates.push(data.operationUpdated), error, complete,
    });
  });
  const { id, state, isDone, snapshot } = updates.at(-1);
  assert.deepEqual([id, state, isDone, snapshot.state], [made.operation.id, 'SUCCEEDED', true, 'READY']);
  assert.deepEqual(list().edges[0].node, { __typename: 'Snapshot', ...snapshot, name: 'by Apollo' });
});

test('a subscription removes a deleted snapshot from the list', async () => {
  const { id } = made.snapshotEdge.node;
  const gone = new Promise((resolve, error) => {
    client.subscribe({ query: CHANGES, variables: { id: VM } }).subscribe({
      next({ data: { snapshotChanged: { deletedSnapshotId } } }) {
        if (deletedSnapshotId === null) return;
        client.cache.evict({ id: client.cache.identify({ __typename: 'Snapshot', id: deletedSnapshotId }) });
        resolve(deletedSnapshotId);
      },
      error,
    });
  });
  await socket.iterate({ query: '{ __typename }' }).next(); // the subscription, which was sent earlier, has started
  assert.deepEqual(await ask(DELETE, { id }), { deleteSnapshots: { acceptedCount: 1 } });
  assert.equal(await gone, id);
  assert.deepEqual(ids(), ['snapshot-5', 'snapshot-4', 'snapshot-3']);
});

test('an optimistic snapshot is replaced by its own, which other sources recognize by the key', async () => {
  const key = randomUUID();
  const seen = new Promise((resolve, error) => {
    client.subscribe({ query: OWN_CHANGES }).subscribe({
      next({ data: { operationChanged: change } }) {
        if (change.idempotencyKey === key) resolve(change);
      },
      error,
    });
  });
  await socket.iterate({ query: '{ __typename }' }).next(); // the subscription, which was sent earlier, has started
  const answer = client.mutate({
    mutation: CREATE,
    variables: { input: { machineId: VM, name: 'optimistic', idempotencyKey: key } },
    optimisticResponse: {
      createSnapshot: {
        __typename: 'CreateSnapshotPayload',
        snapshotEdge: {
          __typename: 'SnapshotEdge',
          cursor: key,
          node: { __typename: 'Snapshot', id: key, name: 'optimistic', state: 'CREATING' },
        },
        operation: { __typename: 'Operation', id: key, state: 'QUEUED', idempotencyKey: key },
        errors: [],
      },
    },
    update: addEdge,
  });
  // Apollo shows the optimistic response before it sends the request.
  assert.equal(client.readQuery(page, true).node.snapshots.edges[0].node.id, key);
  const { data: { createSnapshot: { snapshotEdge, operation } } } = await answer;
  const change = await seen;
  assert.deepEqual([operation.idempotencyKey, change.id, change.snapshotId], [key, operation.id, snapshotEdge.node.id]);
  assert.deepEqual(client.readQuery(page, true), client.readQuery(page)); // nothing optimistic is left
  assert.equal(ids()[0], snapshotEdge.node.id);
});

test('errors have codes and paths, and partial data is kept', async () => {
  const refused = await client.query({ query: gql(INVALID), errorPolicy: 'all' });
  assert.ok(CombinedGraphQLErrors.is(refused.error), String(refused.error));
  assert.deepEqual(refused.error.errors.map(({ extensions, message }) => [extensions.code, message]), [INVALID_ANSWER]);
  const { data, error } = await client.query({ query: gql(MALFORMED), errorPolicy: 'all' });
  assert.deepEqual(data, { vm: null, __typename: 'Query' });
  assert.deepEqual(error.errors.map(({ path, extensions }) => [path, extensions.code]), [[['vm'], 'BAD_USER_INPUT']]);
});
