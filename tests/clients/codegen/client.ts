// A typed client: its documents and its use of the results are checked against the schema at compile time.

import type { TypedDocumentNode } from '@graphql-typed-document-node/core';
import { print } from 'graphql';
import { graphql } from './generated';
import type { OperationState, SnapshotFilter } from './generated/graphql';

const SNAPSHOTS = graphql(`
  query Snapshots($filter: SnapshotFilter, $sort: [SnapshotSort!]) {
    snapshots(filter: $filter, sort: $sort, first: 2) {
      totalCount
      nodes { id sizeBytes createdAt machine { __typename name ... on Vm { host } ... on Instance { flavor } } }
    }
  }
`);
const CREATE = graphql(`
  mutation Create($input: CreateSnapshotInput!) {
    createSnapshot(input: $input) { operation { id state } errors { code path conflict { __typename id } } }
  }
`);
export const FOLLOW = graphql(`
  subscription Follow($id: ID!) { operationUpdated(id: $id) { state isDone error { code providerMessage } } }
`);

/** Executes `document` and returns its data. Data and variables have the types of the document. */
export async function ask<Result, Variables>(
  url: string, document: TypedDocumentNode<Result, Variables>, variables: Variables,
): Promise<Result> {
  const body = JSON.stringify({ query: print(document), variables });
  const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
  const { data } = (await response.json()) as { data: Result };
  return data;
}

/** The two largest snapshots of a machine: sizes in GiB (null if unknown), and the host or flavor of the machine. */
export async function largest(url: string, machineId: string) {
  const filter: SnapshotFilter = { machineId: { eq: machineId }, sizeBytes: { gt: 0 } };
  const { snapshots } = await ask(url, SNAPSHOTS, { filter, sort: [{ field: 'SIZE_BYTES', direction: 'DESC' }] });
  return snapshots.nodes.map(({ id, sizeBytes, createdAt, machine }) => ({
    id,
    gib: sizeBytes === null || sizeBytes === undefined ? null : Number(BigInt(sizeBytes) >> 30n),
    year: Number(createdAt.slice(0, 4)),
    place: machine.__typename === 'Vm' ? machine.host : machine.flavor,
  }));
}

/** Creates a snapshot. Returns the state of the operation, or the error codes and paths if it was refused. */
export async function create(url: string, machineId: string, name: string): Promise<OperationState | string> {
  const { createSnapshot } = await ask(url, CREATE, { input: { machineId, name } });
  return createSnapshot.operation?.state ?? createSnapshot.errors.map(({ code, path }) => `${code} ${path}`).join();
}

// Each of these must be a compile-time error.
export const mistakes = [
  // @ts-expect-error: the name is required
  (url: string) => ask(url, CREATE, { input: { machineId: 'vm-11' } }),
  // @ts-expect-error: no such state
  (state: OperationState) => state === 'DONE',
  // @ts-expect-error: a BigInt is read as a decimal string
  async (url: string) => (await ask(url, SNAPSHOTS, {})).snapshots.nodes[0]?.sizeBytes satisfies number | undefined,
  // @ts-expect-error: `like` is for text
  { sizeBytes: { like: '1*' } } satisfies SnapshotFilter,
];
