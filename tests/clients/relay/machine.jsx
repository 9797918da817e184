// A screen for one machine: its snapshots in pages, a button to create one, and the progress of the operation.

import { Suspense, useMemo, useState } from 'react';
import { graphql, useLazyLoadQuery, useMutation, usePaginationFragment, useSubscription } from 'react-relay';

export function Screen({ id }) {
  return <Suspense fallback="loading"><Machine id={id} /></Suspense>;
}

function Machine({ id }) {
  const { node } = useLazyLoadQuery(
    graphql`
      query machineQuery($id: ID!) {
        node(id: $id) {
          ... on Machine { name }
          ...machine_snapshots @alias(as: "machine")
        }
      }
    `,
    { id },
  );
  return <><h1>{node.name}</h1><Snapshots machine={node.machine} /></>;
}

function Snapshots({ machine }) {
  const { data, hasNext, loadNext } = usePaginationFragment(
    graphql`
      fragment machine_snapshots on Machine
      @argumentDefinitions(count: { type: "Int", defaultValue: 2 }, cursor: { type: "String" })
      @refetchable(queryName: "machineNextQuery") {
        id
        snapshots(first: $count, after: $cursor) @connection(key: "machine_snapshots") {
          __id
          edges { node { id name state } }
        }
      }
    `,
    machine,
  );
  const { __id: list, edges } = data.snapshots;
  const [operation, setOperation] = useState(null);
  const [refusal, setRefusal] = useState('');
  const create = useCreate(data.id, list, ({ operation, errors }) => {
    setOperation(operation);
    setRefusal(errors.map(({ code, path }) => `${code} ${path.join('.')}`).join());
  });
  useDeletions(data.id, list);
  return (
    <>
      <ul>{edges.map(({ node }) => <li key={node.id}>{`${node.id} ${node.name} ${node.state}`}</li>)}</ul>
      {hasNext && <button id="more" onClick={() => loadNext(2)} />}
      <button id="create" onClick={() => create('by Relay')} />
      <button id="blank" onClick={() => create(' ')} />
      <p>{refusal}</p>
      {operation && <Operation key={operation.id} id={operation.id} />}
    </>
  );
}

function useCreate(machineId, list, onPayload) {
  const [commit] = useMutation(graphql`
    mutation machineCreateMutation($input: CreateSnapshotInput!, $lists: [ID!]!) {
      createSnapshot(input: $input) {
        snapshotEdge @prependEdge(connections: $lists) { cursor node { id name state } }
        operation { id state }
        errors { code path }
      }
    }
  `);
  return (name) => commit({
    variables: { input: { machineId, name }, lists: [list] },
    onCompleted: ({ createSnapshot }) => onPayload(createSnapshot),
  });
}

function useDeletions(machineId, list) {
  useSubscription(useMemo(() => ({
    subscription: graphql`
      subscription machineDeletionsSubscription($machineId: ID!, $lists: [ID!]!) {
        snapshotChanged(machineId: $machineId) {
          deletedSnapshotId @deleteEdge(connections: $lists)
        }
      }
    `,
    variables: { machineId, lists: [list] },
  }), [machineId, list]));
}

function Operation({ id }) {
  const [states, setStates] = useState([]);
  useSubscription(useMemo(() => ({
    subscription: graphql`
      subscription machineOperationSubscription($id: ID!) {
        operationUpdated(id: $id) {
          id
          state
          snapshot { id state }
        }
      }
    `,
    variables: { id },
    onNext: ({ operationUpdated: { state } }) => setStates((before) => [...before, state]),
    onCompleted: () => setStates((before) => [...before, 'completed']),
  }), [id]));
  return <output>{states.join(' ')}</output>;
}
