// The schema by graphql-eslint's rules for schemas and for Relay. Run from the root of the repository.

import graphql from '@graphql-eslint/eslint-plugin';

const recommended = graphql.configs['flat/schema-recommended'].rules;
const relay = graphql.configs['flat/schema-relay'].rules;

export default [
  {
    files: ['schema.graphql'],
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    languageOptions: { parser: graphql.parser, parserOptions: { graphQLConfig: { schema: 'schema.graphql' } } },
    plugins: { '@graphql-eslint': graphql },
    rules: {
      ...recommended,
      ...relay,
      // Also what the recommended rules leave out: everything is described, and mutations have one shape.
      '@graphql-eslint/require-description': [
        'error',
        {
          types: true,
          rootField: true,
          DirectiveDefinition: true,
          EnumValueDefinition: true,
          FieldDefinition: true,
          InputValueDefinition: true,
        },
      ],
      '@graphql-eslint/input-name': ['error', { checkInputType: true, caseSensitiveInputType: false }],
      '@graphql-eslint/no-scalar-result-type-on-mutation': 'error',
      // What can be fetched again has an id. These are parts of an answer: no cache should keep one by itself.
      '@graphql-eslint/strict-id-in-types': [
        'error',
        {
          exceptions: {
            suffixes: ['Connection', 'Edge', 'Error', 'Payload', 'Result'],
            types: [
              'Capability', // belongs to its machine or snapshot, and to the caller of the moment
              'PageInfo', // named by Relay
              'Provider', // known by its name, which is unique
              'SnapshotChange', // an event; its snapshot has an id
              'Viewer', // the caller: there is one
            ],
          },
        },
      ],
      // Lists that have no pages: a connection's `nodes`, a payload's `results` and `errors`, `capabilities`,
      // `providers`, and `nodes(ids:)` as Relay has it.
      '@graphql-eslint/relay-edge-types': ['error', { listTypeCanWrapOnlyEdgeType: false }],
    },
  },
];
