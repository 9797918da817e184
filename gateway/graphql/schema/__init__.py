"""The GraphQL schema: types, inputs, mutations and subscriptions, declared with Strawberry."""
