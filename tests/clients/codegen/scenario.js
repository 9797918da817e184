// Runs the typed client against the gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VM, url } from '../gateway.js';
import { create, largest } from './client.ts';

test('a typed query and its filter', async () => {
  const found = await largest(url, VM);
  assert.deepEqual(found.map(({ id, place }) => [id, place]), [['snapshot-4', 'esx-01'], ['snapshot-5', 'esx-01']]);
  assert.deepEqual(found.map(({ gib, year }) => [Number.isInteger(gib), year > 2000]), [[true, true], [true, true]]);
});

test('a typed mutation, and its refusal', async () => {
  assert.equal(await create(url, VM, ' '), 'INVALID input,name');
  assert.match(await create(url, VM, 'typed'), /^(QUEUED|RUNNING)$/); // or a worker was faster than the response
});
