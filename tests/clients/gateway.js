// Shared by the client programs: the URL of the gateway, documents, and a TCP proxy whose connections can be cut.

import { connect, createServer } from 'node:net';

export const url = process.argv[2];
export const socketUrl = url.replace('http', 'ws');

export const VM = 'vm-11'; // has snapshots 3, 4 and 5, and its operations finish immediately
export const QUIET = 'vm-13'; // used by one test of each client only
export const HELD = 'vm-12'; // its operations end only when they are canceled

export const SNAPSHOTS = 'query Snapshots($id: ID!) { vm(id: $id) { name snapshots { totalCount nodes { id } } } }';
export const CREATE = `mutation Create($input: CreateSnapshotInput!) { createSnapshot(input: $input) {
  snapshot { id name } operation { id state } errors { code message path } } }`;
export const CANCEL = `mutation Cancel($id: ID!) { cancelOperation(input: { operationId: $id }) {
  errors { code message path } } }`;
export const OPERATION = `subscription Operation($id: ID!) { operationUpdated(id: $id) {
  id state isDone snapshotId } }`;
export const CHANGES = `subscription Changes($id: ID!) { snapshotChanged(machineId: $id) {
  kind snapshotId deletedSnapshotId } }`;

// The initial data of SNAPSHOTS for VM.
const nodes = ['snapshot-5', 'snapshot-4', 'snapshot-3'].map((id) => ({ id }));
export const THREE = { vm: { name: 'web-01', snapshots: { totalCount: 3, nodes } } };

// INVALID fails validation. MALFORMED is executed, with an error in one field.
export const INVALID = '{ vm(id: "vm-11") { nmae } }';
export const INVALID_ANSWER = [
  'GRAPHQL_VALIDATION_FAILED', "Cannot query field 'nmae' on type 'Vm'. Did you mean 'name'?",
];
export const MALFORMED = '{ vm(id: "eleven") { name } __typename }';

/** Executes a document over HTTP and returns its data. */
export async function ask(query, variables) {
  const headers = { 'content-type': 'application/json', accept: 'application/graphql-response+json' };
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ query, variables }) });
  const { data, errors } = await response.json();
  if (errors) throw new Error(JSON.stringify(errors));
  return data;
}

/** All results of an operation, with a client that has `iterate`. */
export async function all(client, query, variables) {
  const results = [];
  for await (const result of client.iterate({ query, variables })) results.push(result);
  return results;
}

/** Creates a snapshot on a machine and returns the id of the operation. */
export async function startOperation(machineId) {
  const { createSnapshot } = await ask(CREATE, { input: { machineId, name: 'from a client' } });
  return createSnapshot.operation.id;
}

/** Starts a TCP proxy to the gateway. `cut` drops all its connections, like a network failure; new ones succeed. */
export async function startProxy() {
  const { hostname, port } = new URL(url);
  const sockets = new Set();
  const server = createServer((near) => {
    const far = connect({ host: hostname, port });
    near.pipe(far).pipe(near);
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on('error', () => {}).on('close', () => { sockets.delete(one); other.destroy(); });
    }
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const cut = () => { for (const socket of sockets) socket.destroy(); };
  const through = new URL(url);
  through.port = server.address().port;
  return {
    url: through.href,
    socketUrl: through.href.replace('http', 'ws'),
    cut,
    close: () => new Promise((closed) => { server.close(closed); cut(); }),
  };
}
