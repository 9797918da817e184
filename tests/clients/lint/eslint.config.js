// graphql-eslint's recommended and Relay rules for the schema. Run from the root of the repository.

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
      // Not in the recommended rules: every element has a description, and all mutations have the same shape.
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
      // Objects that can be refetched have an id. The following are parts of a response that are never cached alone.
      '@graphql-eslint/strict-id-in-types': [
        'error',
        {
          exceptions: {
            suffixes: ['Connection', 'Edge', 'Error', 'Payload', 'Result'],
            types: [
              'Capability', // depends on its machine or snapshot and on the caller
              'MachineChange', // an event; its machine has an id
              'PageInfo', // defined by Relay
              'Provider', // identified by its unique name
              'SnapshotChange', // an event; its snapshot has an id
              'Viewer', // the caller: there is one
            ],
          },
        },
      ],
      // Lists without pagination: `nodes` of a connection, `results` and `errors` of a payload, `capabilities`,
      // `providers`, and Relay's `nodes(ids:)`.
      '@graphql-eslint/relay-edge-types': ['error', { listTypeCanWrapOnlyEdgeType: false }],
    },
  },
];
