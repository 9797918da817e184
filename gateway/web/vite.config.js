import { defineConfig } from 'vite';

export default defineConfig({
  build: {
    outDir: 'static',
    target: 'es2022',
    license: { fileName: 'LICENSES.md' }, // licenses of all bundled packages, included in the wheel
    chunkSizeWarningLimit: 8000, // Monaco is one large editor
    rolldownOptions: { checks: { moduleLevelDirective: false } }, // "use client" in React libraries has no effect here
  },
  worker: { format: 'es' },
  experimental: {
    // The page is served at PREFIX/graphiql and its files at PREFIX/graphiql/assets. With relative URLs, it works
    // behind any PREFIX, and can also be served at PREFIX/graphql.
    renderBuiltUrl: (filename, { hostType }) =>
      hostType === 'html' ? `graphiql/${filename}` : { relative: true },
  },
});
