// The screen in a document without a browser, as a person uses it: React and Relay as they are, the gateway for real.

import './document.js'; // first: React looks for a document when it is loaded
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { RelayEnvironmentProvider, commitMutation, graphql } from 'react-relay';
import { VM } from '../gateway.js';
import { Screen } from './machine.jsx';
import { environment, request, sent, socket } from './network.js';

// The answer names no snapshot, so it changes nothing in Relay's store.
const DELETE = graphql`
  mutation storyDeleteMutation($id: ID!) { deleteSnapshots(input: { ids: [$id] }) { acceptedCount } }
`;
const WHO = graphql`
  query storyWhoQuery { viewer { name } }
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

/** Waits until `look` sees something in the document; what it sees. */
function seen(look) {
  return new Promise((resolve) => {
    const observer = new window.MutationObserver(check);
    function check() {
      const found = look();
      if (found) { observer.disconnect(); resolve(found); }
    }
    observer.observe(main, { childList: true, subtree: true, characterData: true });
    check();
  });
}

let made;

test('a fragment on Machine shows its first page', async () => {
  root.render(createElement(RelayEnvironmentProvider, { environment }, createElement(Screen, { id: VM })));
  await seen(() => items().length);
  assert.deepEqual([text('h1'), items()], ['web-01', OLD.slice(0, 2)]);
});

test('the next page is fetched by node(id:) and appended', async () => {
  click('#more');
  await seen(() => items().length > 2);
  assert.deepEqual([items(), main.querySelector('#more')], [OLD, null]);
  assert.ok(sent.includes('machineNextQuery'), sent.join());
});

test('a create puts its edge into the list, and its operation is live to the end', async () => {
  click('#create');
  await seen(() => items().length > 3);
  const [id, ...rest] = items()[0].split(' ');
  made = id;
  assert.deepEqual([rest.slice(0, 2).join(' '), items().slice(1)], ['by Relay', OLD]);
  const states = await seen(() => text('output')?.endsWith('completed') && text('output').split(' '));
  assert.deepEqual(states.slice(-2), ['SUCCEEDED', 'completed']);
  assert.equal(items()[0], `${made} by Relay READY`);
});

test('a refused create says why and leaves the list alone', async () => {
  click('#blank');
  await seen(() => text('p'));
  assert.deepEqual([text('p'), items().length], ['INVALID input.name', 4]);
});

test('the edge of a deleted snapshot goes when the subscription says so', async () => {
  assert.ok(sent.includes('machineDeletionsSubscription'));
  await socket.iterate(request(WHO.params)).next(); // the subscription, sent before, has begun
  commitMutation(environment, { mutation: DELETE, variables: { id: made } });
  await seen(() => items().length < 4);
  assert.deepEqual(items(), OLD);
});
