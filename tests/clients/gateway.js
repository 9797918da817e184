// What the clients' programs share: where the gateway is, what they ask it for, and a line to it that can be cut.

import { connect, createServer } from 'node:net';

export const url = process.argv[2];
export const socketUrl = url.replace('http', 'ws');

export const VM = 'vm-11'; // has snapshots 3, 4 and 5, and work on it takes no time
export const QUIET = 'vm-13'; // nothing happens on it but what one test does
export const HELD = 'vm-12'; // work on it ends only when it is canceled

export const SNAPSHOTS = 'query Snapshots($id: ID!) { vm(id: $id) { name snapshots { totalCount nodes { id } } } }';
export const CREATE = `mutation Create($input: CreateSnapshotInput!) { createSnapshot(input: $input) {
  snapshot { id name } operation { id state } errors { code message path } } }`;
export const CANCEL = `mutation Cancel($id: ID!) { cancelOperation(input: { operationId: $id }) {
  errors { code message path } } }`;
export const OPERATION = `subscription Operation($id: ID!) { operationUpdated(id: $id) {
  id state isDone snapshotId } }`;
export const CHANGES = `subscription Changes($id: ID!) { snapshotChanged(machineId: $id) {
  kind snapshotId deletedSnapshotId } }`;

// What the snapshots of the VM answer at first.
const nodes = ['snapshot-5', 'snapshot-4', 'snapshot-3'].map((id) => ({ id }));
export const THREE = { vm: { name: 'web-01', snapshots: { totalCount: 3, nodes } } };

// Refused before anything ran; ran, but not all of it.
export const INVALID = '{ vm(id: "vm-11") { nmae } }';
export const INVALID_ANSWER = [
  'GRAPHQL_VALIDATION_FAILED', "Cannot query field 'nmae' on type 'Vm'. Did you mean 'name'?",
];
export const MALFORMED = '{ vm(id: "eleven") { name } __typename }';

/** The data of an answer over plain HTTP. */
export async function ask(query, variables) {
  const headers = { 'content-type': 'application/json', accept: 'application/graphql-response+json' };
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ query, variables }) });
  const { data, errors } = await answer.json();
  if (errors) throw new Error(JSON.stringify(errors));
  return data;
}

/** All that an operation answers over a client that iterates, to its completion. */
export async function all(client, query, variables) {
  const answers = [];
  for await (const answer of client.iterate({ query, variables })) answers.push(answer);
  return answers;
}

/** The id of an operation that has begun on a machine. */
export async function begin(machineId) {
  const { createSnapshot } = await ask(CREATE, { input: { machineId, name: 'from a client' } });
  return createSnapshot.operation.id;
}

/** A line to the gateway: `cut` ends it as a failing network does, and the next connection gets through again. */
export async function line() {
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
