// Operates the screen in a DOM without a browser, with unmodified React and Relay, against a running gateway.

import './document.js'; // first, because React reads `document` when it is loaded
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { RelayEnvironmentProvider, commitMutation, graphql } from 'react-relay';
import { VM } from '../gateway.js';
import { Screen } from './machine.jsx';
import { environment, request, sent, socket } from './network.js';

// The payload selects no snapshot, so it does not change Relay's store.
const DELETE = graphql`
  mutation scenarioDeleteMutation($id: ID!) { deleteSnapshots(input: { ids: [$id] }) { acceptedCount } }
`;
const VIEWER = graphql`
  query scenarioViewerQuery { viewer { name } }
`;
const OLD = [
  'snapshot-5 test-new-driver READY', 'snapshot-4 test-before-upgrade READY', 'snapshot-3 test-base READY',
];

const main = document.querySelector('main');
const root = createRoot(main);
after(() => { root.unmount(); return socket.dispose(); });

const items = () => [...main.querySelectorAll('li')].map((item) => item.textContent);
const text = (selector) => main.querySelector(selector)?.textContent;
const click = (selector) => main.querySelector(selector).click();

/** Waits until `find` returns a truthy value, checked after every change of the document, and returns it. */
function appeared(find) {
  return new Promise((resolve) => {
    const observer = new window.MutationObserver(check);
    function check() {
      const found = find();
      if (found) { observer.disconnect(); resolve(found); }
    }
    observer.observe(main, { childList: true, subtree: true, characterData: true });
    check();
  });
}

let createdId;

test('a fragment on Machine shows its first page', async () => {
  root.render(createElement(RelayEnvironmentProvider, { environment }, createElement(Screen, { id: VM })));
  await appeared(() => items().length);
  assert.deepEqual([text('h1'), items()], ['web-01', OLD.slice(0, 2)]);
});

test('the next page is fetched by node(id:) and appended', async () => {
  click('#more');
  await appeared(() => items().length > 2);
  assert.deepEqual([items(), main.querySelector('#more')], [OLD, null]);
  assert.ok(sent.includes('machineNextQuery'), sent.join());
});

test('a create adds its edge to the list, and its operation is followed until it is complete', async () => {
  click('#create');
  await appeared(() => items().length > 3);
  const [id, ...rest] = items()[0].split(' ');
  createdId = id;
  assert.deepEqual([rest.slice(0, 2).join(' '), items().slice(1)], ['by Relay', OLD]);
  const states = await appeared(() => text('output')?.endsWith('completed') && text('output').split(' '));
  assert.deepEqual(states.slice(-2), ['SUCCEEDED', 'completed']);
  assert.equal(items()[0], `${createdId} by Relay READY`);
});

test('a refused create shows the error and leaves the list unchanged', async () => {
  click('#blank');
  await appeared(() => text('p'));
  assert.deepEqual([text('p'), items().length], ['INVALID input.name', 4]);
});

test('the edge of a deleted snapshot is removed by the subscription', async () => {
  assert.ok(sent.includes('machineDeletionsSubscription'));
  await socket.iterate(request(VIEWER.params)).next(); // the subscription, which was sent earlier, has started
  commitMutation(environment, { mutation: DELETE, variables: { id: createdId } });
  await appeared(() => items().length < 4);
  assert.deepEqual(items(), OLD);
});
