import relay from 'vite-plugin-relay';

// Node runs what is built: one module with React and Relay in it, for theirs are not modules that Node can import from.
export default {
  plugins: [relay],
  build: { ssr: 'story.js', outDir: 'built', minify: false },
  ssr: { noExternal: ['react-relay', 'relay-runtime'] },
  logLevel: 'warn',
};
