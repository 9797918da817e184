export default { build: { ssr: 'story.js', outDir: 'built' }, logLevel: 'warn' };
