import { createRoot } from 'react-dom/client';
import { Client, Provider, cacheExchange, fetchExchange, gql, useMutation, useQuery, useSubscription } from 'urql';

const exchanges = [cacheExchange, fetchExchange];
const client = new Client({ url: import.meta.env.VITE_GATEWAY, exchanges, fetchSubscriptions: true });
const LIST = gql`query ($id: ID!) { vm(id: $id) { name snapshots { nodes { id name state } } } }`;
const CREATE = gql`mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input) { operation { id } } }`;
const FOLLOW = gql`subscription ($id: ID!) { operationUpdated(id: $id) { state } }`;
const context = { additionalTypenames: ['Snapshot'] }; // results with this type make urql refetch its lists

function Machine({ id }) {
  const [{ data: list }] = useQuery({ query: LIST, variables: { id } });
  const [{ data: made }, create] = useMutation(CREATE);
  const operation = made?.createSnapshot.operation?.id;
  const [{ data: live }] = useSubscription({ query: FOLLOW, variables: { id: operation }, pause: !operation, context });
  const take = () => create({ input: { machineId: id, name: 'from a browser' } }, context);
  const items = list?.vm.snapshots.nodes.map(({ id, name, state }) => <li key={id}>{`${id} ${name} ${state}`}</li>);
  const title = <h1>{list?.vm.name} <button onClick={take}>Create</button></h1>;
  return <>{title}<output>{live?.operationUpdated.state}</output><ul>{items}</ul></>;
}

createRoot(document.querySelector('main')).render(<Provider value={client}><Machine id="vm-11" /></Provider>);
