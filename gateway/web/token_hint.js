// Shows where the token goes: in the headers editor, and above the response when the gateway rejects the credentials.

import { createElement, useEffect, useRef } from 'react';
import { pick, useGraphiQL, useGraphiQLActions } from '@graphiql/react';
import { useCredentials } from './credentials.js';

// The headers editor reads JSON with comments.
export const DEFAULT_HEADERS = '// A token goes here:\n// {"Authorization": "Bearer TOKEN"}\n';

const TEMPLATE = JSON.stringify({ Authorization: 'Bearer TOKEN' }, null, 2);

export function TokenHint({ credentials }) {
  const { accepted, headers } = useCredentials(credentials);
  const { headerEditor, schema } = useGraphiQL(pick('headerEditor', 'schema'));
  const { introspect } = useGraphiQLActions();
  const wasRejected = useRef(false);
  useEffect(() => {
    if (accepted && wasRejected.current && !schema) introspect(); // documentation and completion need the schema
    wasRejected.current = accepted === false;
  }, [accepted, introspect, schema]);
  if (accepted !== false) return null;

  function openHeaders() {
    document.querySelector('.graphiql-editor-tools [data-name="headers"]').click();
    if (['', DEFAULT_HEADERS.trim()].includes(headerEditor.getValue().trim())) {
      // Each tab has its own headers. A token that another tab uses is offered.
      headerEditor.setValue(Object.keys(headers).length ? JSON.stringify(headers, null, 2) : TEMPLATE);
    }
    const [token] = headerEditor.getModel().findMatches('TOKEN', false, false, true, null, false);
    if (token) headerEditor.setSelection(token.range);
    headerEditor.focus();
  }

  return createElement(
    'div',
    { className: 'token-hint', role: 'status' },
    createElement('p', null, 'This gateway requires a valid token. It goes into the editor Headers of each tab:'),
    createElement('code', null, '{"Authorization": "Bearer TOKEN"}'),
    createElement('button', { type: 'button', className: 'graphiql-button', onClick: openHeaders }, 'Enter a token'),
  );
}
