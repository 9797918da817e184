import relay from 'vite-plugin-relay';

// Bundles React and Relay into one module, because Node cannot import from Relay's own modules.
export default {
  plugins: [relay],
  build: { ssr: 'scenario.js', outDir: 'built', minify: false },
  ssr: { noExternal: ['react-relay', 'relay-runtime'] },
  logLevel: 'warn',
};
