// The events of one subscription, so that the response shows more than the latest one.

const MAX_LISTED = 100;

export class EventList {
  #count = 0;
  #events = [];

  get isEmpty() {
    return this.#count === 0;
  }

  // Returns what the response shows: the number of events since the start, and the latest of them, newest first.
  add(event) {
    this.#count += 1;
    this.#events = [event, ...this.#events].slice(0, MAX_LISTED);
    return { eventCount: this.#count, latestEvents: this.#events };
  }
}
