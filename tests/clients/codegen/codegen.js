// Generates types for the documents of `client.ts` from the committed schema.

export default {
  schema: '../../../schema.graphql',
  documents: 'client.ts',
  generates: {
    'generated/': { preset: 'client' },
    'generated/schema.ts': { plugins: ['typescript'] }, // every type, not only those that `client.ts` uses
  },
  config: {
    enumsAsTypes: true,
    strictScalars: true, // a scalar that is not listed here is an error
    scalars: { BigInt: { input: 'string | number', output: 'string' }, DateTime: 'string' },
    useTypeImports: true,
  },
  silent: true,
};
