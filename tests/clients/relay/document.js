// Provides a DOM for React without a browser.

import { JSDOM } from 'jsdom';

const { window } = new JSDOM('<main></main>', { url: 'http://localhost/' });
Object.assign(globalThis, { window, document: window.document });
