// GraphiQL for the gateway's endpoint.

import 'graphiql/setup-workers/vite'; // must be first: Monaco starts its workers when it is loaded
import 'graphiql/style.css';
import '@graphiql/plugin-explorer/style.css';
import './page.css';
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { GraphiQL, HISTORY_PLUGIN } from 'graphiql';
import { explorerPlugin } from '@graphiql/plugin-explorer';
import { Credentials } from './credentials.js';
import { createFetcher } from './fetcher.js';
import { SampleMachine, SAMPLES } from './samples.js';
import { DEFAULT_HEADERS, TokenHint } from './token_hint.js';
import { WrappedLines } from './wrapped_lines.js';

const page = document.getElementById('graphiql');
const credentials = new Credentials();
const fetcher = createFetcher(new URL(page.dataset.endpoint, location.href), credentials);

// The query of a link to the endpoint, which redirects browsers here. It is shown first, and runs only on request.
const linked = new URLSearchParams(location.search).get('query');

createRoot(page).render(
  createElement(
    GraphiQL,
    {
      fetcher,
      plugins: [HISTORY_PLUGIN, explorerPlugin()],
      initialQuery: linked ?? undefined,
      defaultTabs: (linked ? [linked, ...SAMPLES] : SAMPLES).map((query) => ({ query, headers: DEFAULT_HEADERS })),
      defaultHeaders: DEFAULT_HEADERS,
      defaultEditorToolsVisibility: false,
    },
    createElement(GraphiQL.Logo, null, document.title),
    createElement(GraphiQL.Footer, null, createElement(TokenHint, { credentials })),
    createElement(WrappedLines),
    createElement(SampleMachine, { credentials, fetcher }),
  ),
);
