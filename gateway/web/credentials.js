// Whether the gateway accepts the credentials of this page, as its latest response showed.

import { useSyncExternalStore } from 'react';

export class Credentials {
  #state = { accepted: null, headers: {} };
  #listeners = new Set();

  // `headers`: those of a request that was accepted, or rejected because of its credentials.
  report(accepted, headers) {
    this.#state = { accepted, headers: accepted ? headers : this.#state.headers };
    this.#listeners.forEach((listener) => listener());
  }

  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  current = () => this.#state;
}

// `accepted`: null before the first response. `headers`: those of the latest request that was accepted.
export function useCredentials(credentials) {
  return useSyncExternalStore(credentials.subscribe, credentials.current);
}
