export default { build: { ssr: 'scenario.js', outDir: 'built' }, logLevel: 'warn' };
