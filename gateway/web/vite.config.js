import { defineConfig } from 'vite';

export default defineConfig({
  build: {
    outDir: 'static',
    target: 'es2022',
    license: { fileName: 'LICENSES.md' }, // of everything that is bundled; the wheel carries it
    chunkSizeWarningLimit: 8000, // Monaco is one large editor
    rolldownOptions: { checks: { moduleLevelDirective: false } }, // "use client" of React libraries: no server here
  },
  worker: { format: 'es' },
  experimental: {
    // The page is served at PREFIX/graphiql and its files at PREFIX/graphiql/assets. Relative addresses
    // let it live behind any PREFIX, and answer at PREFIX/graphql as well.
    renderBuiltUrl: (filename, { hostType }) =>
      hostType === 'html' ? `graphiql/${filename}` : { relative: true },
  },
});
