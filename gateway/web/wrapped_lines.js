// Makes the editors wrap long lines, so that a token and a narrow screen need no horizontal scrolling.

import { useEffect } from 'react';
import { pick, useGraphiQL } from '@graphiql/react';

export function WrappedLines() {
  const { queryEditor, variableEditor, headerEditor } = useGraphiQL(
    pick('queryEditor', 'variableEditor', 'headerEditor'),
  );
  useEffect(() => {
    [queryEditor, variableEditor, headerEditor].forEach((editor) => editor?.updateOptions({ wordWrap: 'on' }));
  }, [queryEditor, variableEditor, headerEditor]);
  return null;
}
